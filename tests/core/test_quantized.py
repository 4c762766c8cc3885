"""A checkpoint with quantised weights, as torchao writes and transformers opens it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TorchAoConfig

from dselect_core.errors import DselectError
from dselect_core.lm.load import IDENTITIES, identity, load, provenance_without_weights
from dselect_core.lm.reward_model import open_reward_model
from dselect_core.lm.tuning import Example, TuneSpec, tune
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings
from tests.tiny import TEXTS, conversation, open_llama, samples_frame, save_llama, score

SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
SAMPLES = samples_frame([conversation(f"{i}. {text[:20]}", text[20:]) for i, text in enumerate(TEXTS)])
KINDS = frozenset({"difficulty", "embeddings", "activations"})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a folder, the same model with weights of eight bits)."""
    from torchao.quantization import Int8WeightOnlyConfig

    place = tmp_path_factory.mktemp("quantized")
    folder = save_llama(place / "folder")
    quantized = AutoModelForCausalLM.from_pretrained(folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    quantized.save_pretrained(place / "int8")
    AutoTokenizer.from_pretrained(folder).save_pretrained(place / "int8")
    return folder, place / "int8"


def test_a_quantized_checkpoint_scores_as_its_weights_say(models: tuple[Path, Path]) -> None:
    """The losses are those of an ordinary model with the same weights, unpacked, and not those of the original."""
    folder, int8 = models
    lm = load(str(int8), ModelSpec(path=str(int8), dtype="float32"), "x")
    unpacked = open_llama(folder)
    weights: dict[str, Any] = dict(lm.forward.model.named_parameters())
    packed = [
        name for name, weight in weights.items() if hasattr(weight, "dequantize") and "Int8" in type(weight).__name__
    ]
    assert any("up_proj" in name for name in packed)
    with torch.no_grad():
        for name, weight in unpacked.forward.model.named_parameters():
            weight.copy_(weights[name].dequantize() if name in packed else weights[name])
    found, expected, original = (score(each, SAMPLES, KINDS, SETTINGS) for each in (lm, unpacked, open_llama(folder)))
    losses = [scores["difficulty"]["loss"].to_numpy() for scores in (found, expected, original)]
    assert np.allclose(losses[0], losses[1], atol=1e-4)
    assert not np.allclose(losses[0], losses[2], atol=1e-4)
    vectors = [scores["embeddings"]["embedding"].to_numpy() for scores in (found, expected)]
    assert np.allclose(*vectors, atol=1e-3)


def test_a_quantized_reward_model_is_opened(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Its head is of ordinary weights, so that the rewards are those of the states that the packed layers give."""
    from torchao.quantization import Int8WeightOnlyConfig

    folder, _ = models
    judge, packed = tmp_path / "reward", tmp_path / "packed"
    ordinary = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    ordinary.config.pad_token_id = 0
    ordinary.save_pretrained(judge)
    quantized = AutoModelForSequenceClassification.from_pretrained(
        judge, quantization_config=TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["score"])
    )
    quantized.save_pretrained(packed)
    for place in (judge, packed):
        AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    rewards = []
    for place in (judge, packed):
        opened = open_reward_model(str(place), ModelSpec(path=str(place), dtype="float32"))
        ids = [opened.ids(messages) for messages in SAMPLES["messages"].to_list()]
        found = {row: value for rows, values in opened.rewards(ids) for row, value in zip(rows, values, strict=True)}
        rewards.append([found[row] for row in range(len(ids))])
    assert np.allclose(*rewards, atol=0.05) and not np.array_equal(*rewards)


def test_it_is_another_model_than_the_one_it_was_made_from(models: tuple[Path, Path]) -> None:
    _, int8 = models
    assert len({identity(str(each), None, IDENTITIES) for each in models}) == 2
    spec = ModelSpec(path=str(int8))
    assert provenance_without_weights(str(int8), spec, "x") == load(str(int8), spec, "x").provenance


def test_mixed_precision_of_quantized_weights_is_refused(models: tuple[Path, Path]) -> None:
    _, int8 = models
    with pytest.raises(DselectError, match=r"int8: its weights are quantised \(torchao\).*`dtype: auto`"):
        load(str(int8), ModelSpec(path=str(int8), dtype="bf16-mixed"), "x")


def test_it_is_not_tuned(models: tuple[Path, Path]) -> None:
    _, int8 = models
    lm = load(str(int8), ModelSpec(path=str(int8)), "x")
    example = Example(np.arange(1, 9, dtype=np.int32), np.arange(8) > 3)
    with pytest.raises(DselectError, match=r"its weights are quantised \(torchao\).*`trials: \{model: …\}`"):
        tune(lm.forward.model, [example], TuneSpec())


def test_a_package_that_is_missing_is_named(models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, int8 = models
    monkeypatch.setattr("transformers.quantizers.quantizer_torchao.is_torchao_available", lambda: False)
    with pytest.raises(DselectError, match=r"int8: cannot be opened.*torchao"):
        load(str(int8), ModelSpec(path=str(int8)), "x")
