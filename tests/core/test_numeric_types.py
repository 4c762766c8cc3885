"""Numeric types: what `auto` means, that it stays what it was, and that mixed precision is between the two."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from dselect_core.lm import numeric_type, resident, target_model
from dselect_core.lm.load import load
from dselect_core.lm.loss import loss_and_entropy
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.settings.workspace import Workspace
from tests.tiny import TEXTS, conversation, open_llama, samples_frame, save_llama, score

SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
SAMPLES = samples_frame([conversation(f"{i}. {text[:20]}", text[20:]) for i, text in enumerate(TEXTS * 8)])
KINDS = frozenset({"difficulty", "embeddings", "activations"})


def saved_as(folder: Path, dtype: torch.dtype) -> str:
    """The tiny Llama, its checkpoint in this type."""
    from transformers import AutoModelForCausalLM

    save_llama(folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    return str(folder)


def workspace_of(folder: Path, model: str, **options: object) -> Workspace:
    given = {"storage": str(folder / "s"), "sources": {}, "coresets": {}, "model": {"path": model, **options}}
    return Workspace(Settings.model_validate(given))


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize(("device", "fast"), [("cpu", True), ("cpu", False), ("cuda", True), ("mps", False)])
def test_auto_is_the_checkpoints_type_where_the_device_computes_in_it(
    own: torch.dtype | None, device: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numeric_type, "computes_bf16", lambda _: fast)
    found = numeric_type.chosen(ModelSpec(path="m"), own, device)
    if own in (None, torch.float32) or not fast:
        assert found == "float32"
    else:
        assert found == ("float16" if (own, device) == (torch.float16, "cuda") else numeric_type.FAST)
    for named in ("float32", "bfloat16", "float16", "bf16-mixed"):
        assert numeric_type.chosen(ModelSpec(path="m", dtype=named), own, device) == named


def test_what_auto_meant_holds_on_a_machine_that_would_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved_as(tmp_path / "model", torch.bfloat16)
    workspace = workspace_of(tmp_path, model)
    monkeypatch.setattr(numeric_type, "computes_bf16", lambda _: True)
    record = target_model.make_target_model(workspace, pl.DataFrame)
    assert record["provenance"]["dtype"] == numeric_type.FAST
    monkeypatch.setattr(numeric_type, "computes_bf16", lambda _: False)
    resident.release()
    lm = target_model.open_target_model(workspace)
    assert (lm.spec.dtype, lm.provenance) == (numeric_type.FAST, record["provenance"])
    assert TunableModel.of_target(workspace, TrialsSpec()).open().provenance == record["provenance"]
    # Made again there, it is the same model still; in a storage that never saw it, another.
    assert target_model.make_target_model(workspace, pl.DataFrame)["provenance"] == record["provenance"]
    resident.release()
    elsewhere = target_model.make_target_model(workspace_of(tmp_path / "new", model), pl.DataFrame)
    assert elsewhere["provenance"]["dtype"] == "float32"


def test_auto_goes_on_with_the_scores_of_float32_which_was_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numeric_type, "computes_bf16", lambda _: True)
    model = saved_as(tmp_path / "model", torch.bfloat16)
    earlier = target_model.make_target_model(workspace_of(tmp_path, model, dtype="float32"), pl.DataFrame)
    resident.release()
    now = target_model.make_target_model(workspace_of(tmp_path, model), pl.DataFrame)
    assert now["provenance"] == earlier["provenance"]
    named = target_model.make_target_model(workspace_of(tmp_path, model, dtype="bfloat16"), pl.DataFrame)
    assert named["provenance"]["dtype"] == "bfloat16"


def test_mixed_precision_is_nearer_to_float32_than_bfloat16_is(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    exact, mixed, rounded = (
        score(open_llama(folder, dtype=dtype), SAMPLES, KINDS, SETTINGS)
        for dtype in ("float32", "bf16-mixed", "bfloat16")
    )

    def gap(one: dict[str, pl.DataFrame], kind: str, column: str) -> float:
        a, b = (np.asarray(scores[kind][column].to_numpy(), dtype=float) for scores in (exact, one))
        return float(np.abs(a - b).mean())

    for kind, column in (("difficulty", "loss"), ("difficulty", "upd"), ("embeddings", "embedding")):
        assert 0 < gap(mixed, kind, column) < 0.8 * gap(rounded, kind, column), column
    assert mixed["activations"]["neurons"].null_count() == 0


def test_in_mixed_precision_only_products_are_rounded(tmp_path: Path) -> None:
    folder = save_llama(tmp_path)
    model = load(str(folder), ModelSpec(path=str(folder), dtype="bf16-mixed"), "x").forward.model
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {types[name] for name in types if "_proj" in name} == {torch.bfloat16}
    assert {types[name] for name in types if "_proj" not in name} == {torch.float32}  # norms, embedding, output layer
    layer = model.model.layers[0].mlp.up_proj
    states = torch.randn(5, 32)
    expected = (states.bfloat16().double() @ layer.weight.double().T).float()
    assert layer(states).dtype is torch.float32
    assert (layer(states) - expected).abs().max() < 2e-2 * expected.abs().max()


def test_the_output_layer_is_rounded_block_by_block() -> None:
    torch.manual_seed(0)
    head, states, targets = torch.nn.Linear(16, 1003), torch.randn(70, 16) * 5, torch.randint(0, 1003, (70,))
    with torch.inference_mode():
        found = loss_and_entropy(states, targets, head, (7, 100), products=torch.bfloat16)
        z = torch.nn.functional.linear(states.bfloat16(), head.weight.bfloat16(), head.bias.bfloat16()).double()
    log_p = torch.log_softmax(z, -1)
    loss, entropy = -log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    assert found[0].dtype is torch.float32 and head.weight.dtype is torch.float32
    assert (found[0] - loss).abs().max() < 1e-4 and (found[1] - entropy).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_in_mixed_precision_is_tuned(tmp_path: Path, method: str) -> None:
    from dselect_core.lm.tuning import Example, TuneSpec, tune

    lm = open_llama(save_llama(tmp_path), dtype="bf16-mixed")
    examples = [Example(np.arange(1, 30, dtype=np.int32), np.arange(29) > 5)] * 8
    spec = TuneSpec(method=method, epochs=4, learning_rate=1e-2, batch_tokens=64)  # type: ignore[arg-type]
    tuned = tune(lm.forward.model, examples, spec)
    assert tuned.losses[-1] < tuned.losses[0]
    after = score(lm.with_model(tuned.model), SAMPLES, frozenset({"difficulty"}), SETTINGS)
    before = score(open_llama(tmp_path, dtype="bf16-mixed"), SAMPLES, frozenset({"difficulty"}), SETTINGS)
    assert not after["difficulty"]["loss"].equals(before["difficulty"]["loss"])
