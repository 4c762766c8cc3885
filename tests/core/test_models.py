"""Models: what identifies one, the record of a workspace's model, and the warm-up."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.lm import load as load_module
from dselect_core.lm import resident, target_model
from dselect_core.lm.builtin_model import tune, warmup_sample
from dselect_core.lm.chat_template import BUILTIN_TEMPLATE
from dselect_core.lm.load import identity, load, provenance_without_weights
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings, WarmupSpec
from dselect_core.settings.workspace import Workspace
from tests.chat_templates import FAMILIES
from tests.tiny import conversation, open_llama, samples_frame, save_llama, score, tokenizer

POOL = samples_frame([conversation(f"Say {i} and {i * i}", f"{i} and {i * i}.") for i in range(60)])
SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
DATED = "{{ strftime_now('%d') }}" + BUILTIN_TEMPLATE
SPEC = WarmupSpec(steps=30, samples=40, hidden_size=32, layers=2, heads=2, vocab_size=350, window=128, max_length=128)


def test_a_local_model_is_its_files_and_not_its_place(tmp_path: Path) -> None:
    one = save_llama(tmp_path / "one")
    first = identity(str(one), cache=tmp_path / "cache.json")
    assert first.startswith("local:")
    assert identity(str(save_llama(tmp_path / "two"))) == first
    save_llama(one, seed=1)
    assert identity(str(one), cache=tmp_path / "cache.json") != first
    save_llama(one, template="{{ messages[0].content }}")
    assert identity(str(one)) != first


def test_a_provenance_is_known_without_the_weights(tmp_path: Path) -> None:
    for number, (template, spec) in enumerate([(None, {}), (BUILTIN_TEMPLATE, {"max_length": 99}), (DATED, {})]):
        folder = save_llama(tmp_path / str(number), template=template)
        opened = open_llama(folder, **spec).provenance
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        assert provenance_without_weights(str(folder), ModelSpec(path=str(folder), **spec), "test") == opened
    with pytest.raises(DselectError, match="cannot be opened"):
        provenance_without_weights(str(tmp_path), ModelSpec(path=str(tmp_path)), "test")


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(DselectError, match="/gone: no such folder"):
        identity("/gone")
    with pytest.raises(DselectError, match=r"model no/such-model: neither a local folder, nor reachable on the hub"):
        identity("no/such-model")


def test_a_folder_with_a_config_and_no_causal_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DselectError, match="cannot be opened as a causal language model"):
        load(str(tmp_path), ModelSpec(path=str(tmp_path)), "x")


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused_with_both_numbers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = str(save_llama(tmp_path))
    longer = AutoTokenizer.from_pretrained(folder)
    own = len(longer)
    longer.add_tokens(["<one>", "<two>"])  # and the model is not resized
    longer.save_pretrained(folder)
    with pytest.raises(DselectError, match=rf"{own + 2} tokens, its embedding {own}: '<one>', '<two>' .*resize_token"):
        open_llama(tmp_path)


def test_an_output_layer_with_fewer_rows_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    """Not an error of torch: the loss of such a token was computed as if its logit were 0."""
    from transformers import AutoModelForCausalLM

    folder = save_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.set_output_embeddings(torch.nn.Linear(32, 390, bias=False))
    with pytest.raises(DselectError, match=r"tokens, its output layer 390"):
        load_module.check_vocabulary("m", tokenizer(), model)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"hidden_size": 48}, r"cannot be opened as a causal language model: RuntimeError"),
        ({"model_type": "no_such_family"}, r"cannot be opened as a causal language model: .*no_such_family"),
        ({"hidden_act": "no_such_function"}, r"cannot be opened as a causal language model: .*no_such_function"),
    ],
)
def test_whatever_a_familys_code_raises_is_one_error_that_names_the_model(
    tmp_path: Path, broken: dict[str, object], message: str
) -> None:
    config = save_llama(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | broken))
    with pytest.raises(DselectError, match=f"^model {tmp_path}: {message}"):
        open_llama(tmp_path)


@pytest.mark.parametrize("family", ["bert", "xmod"])
def test_a_family_that_does_not_run_here_is_named_with_the_reason(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer()), max_position_embeddings=64, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DselectError, match=rf"^model {tmp_path}.*{family}, \w+.*(not causal|language unknown)"):
        open_llama(tmp_path)


def test_llama_4_opens_and_scores(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    others = {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48}
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama4_text", vocab_size=len(tokenizer()), **sizes, **others)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    samples = samples_frame([conversation("Hi", "Hello there"), conversation("2 + 2?", "It is 4.")])
    kinds = frozenset({"difficulty", "embeddings", "activations"})
    for kind, table in score(open_llama(tmp_path), samples, kinds, SETTINGS).items():
        assert table.height == 2 and table["reason"].null_count() == 2, kind


def test_the_provenance_that_version_0_1_recorded_is_read_and_a_new_one_opens_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"path": str(save_llama(tmp_path / "model"))}
    workspace = Workspace(
        Settings.model_validate({"storage": str(tmp_path / "s"), "sources": {}, "coresets": {}, "model": model})
    )
    with pytest.raises(DselectError, match="materialise `warmup_model` first"):
        target_model.provenance(workspace)
    record = target_model.make_target_model(workspace, pl.DataFrame)
    expected = target_model.open_target_model(workspace).provenance
    assert record["provenance"] == expected == target_model.read_record(workspace)["provenance"]

    def refuse(*_: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(load_module, "load", refuse)
    resident.release()
    assert target_model.provenance(workspace) == expected
    # As version 0.1 wrote both.
    shutil.rmtree(tmp_path / "s" / "models" / "provenance")
    settings = {"dtype": "float32", "max_length": None, "template": "auto"}
    recorded = tmp_path / "s" / "models" / "recipes" / f"{fingerprint([record['identity'], settings])}.json"
    recorded.parent.mkdir()
    recorded.write_text(json.dumps(expected))
    current = tmp_path / "s" / "models" / "current.json"
    held = json.loads(current.read_text().replace('"provenance"', '"recipe"'))
    del held["checksum"]
    current.write_text(json.dumps(held))
    assert target_model.provenance(workspace) == expected
    assert target_model.read_record(workspace) == record
    assert target_model.known_provenance(workspace, "local:another") is None


def test_scores_of_a_template_that_older_versions_garbled_have_another_provenance(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "model", template=FAMILIES["qwen3"])
    workspace = Workspace(
        Settings.model_validate(
            {"storage": str(tmp_path / "s"), "sources": {}, "coresets": {}, "model": {"path": str(folder)}}
        )
    )
    record = target_model.make_target_model(workspace, pl.DataFrame)
    assert record["provenance"]["rendering"] == 2
    assert record["provenance"]["shares_shots"] is False
    # As version 0.2 recorded it.
    shutil.rmtree(tmp_path / "s" / "models" / "provenance")
    settings = {"dtype": "float32", "max_length": None, "template": "auto"}
    recorded = tmp_path / "s" / "models" / "provenance" / f"{fingerprint([record['identity'], settings])}.json"
    recorded.parent.mkdir()
    recorded.write_text(
        json.dumps({k: v for k, v in record["provenance"].items() if k not in ("rendering", "shares_shots")})
    )
    assert target_model.known_provenance(workspace, record["identity"]) == record["provenance"]


def test_a_model_spread_by_accelerate_gives_the_same_scores(tmp_path: Path) -> None:
    folder = str(save_llama(tmp_path))
    samples = samples_frame([conversation("Hi", "Hello there"), conversation("2 + 2?", "It is 4.")])
    alone, spread = (
        score(load(folder, ModelSpec(path=folder, device=device), "x"), samples, frozenset({"difficulty"}), SETTINGS)
        for device in ("cpu", "balanced")
    )
    assert alone["difficulty"].equals(spread["difficulty"])


def test_the_warm_up_learns_is_seeded_and_makes_a_model_anybody_can_open(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = tune(POOL, SPEC, tmp_path / "one")
    assert facts["loss_last"] < facts["loss_first"] - 0.5
    again = tune(POOL.sample(fraction=1, shuffle=True, seed=1), SPEC, tmp_path / "two")
    assert again["loss_last"] == pytest.approx(facts["loss_last"], abs=1e-3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    text = AutoTokenizer.from_pretrained(tmp_path / "one").apply_chat_template(
        conversation("Hi", "Yes"), tokenize=False
    )
    assert text.endswith("<|im_start|>assistant\nYes<|im_end|>\n")
    assert model.config.max_position_embeddings == 128


TUNE = """
import sys
from pathlib import Path
import torch
from dselect_core.lm.builtin_model import tune
from dselect_core.settings.settings import WarmupSpec
from tests.core.test_models import POOL
threads, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(threads)
tune(POOL.sample(fraction=1, shuffle=True, seed=threads), WarmupSpec(steps=4), folder)
assert torch.get_num_threads() == threads, "the setting of the process was not put back"
"""


def test_the_builtin_model_does_not_depend_on_threads(tmp_path: Path) -> None:
    """Real processes. Two threads alone may agree by chance: it depends on the CPU where sums are split."""
    threads = (1, 2, 3, 7)
    for n in threads:
        # The tokenizer's own threads count too.
        parallel = {"TOKENIZERS_PARALLELISM": "false" if n == 1 else "true", "RAYON_NUM_THREADS": str(n)}
        command = [sys.executable, "-c", TUNE, str(n), str(tmp_path / str(n))]
        subprocess.run(command, env=os.environ | parallel, check=True, timeout=300)
    folders = [{file.name: file.read_bytes() for file in (tmp_path / str(n)).iterdir()} for n in threads]
    assert "model.safetensors" in folders[0] and "tokenizer.json" in folders[0]
    assert all(folder == folders[0] for folder in folders)


def test_the_warm_up_sample_does_not_depend_on_order_and_hardly_on_other_rows() -> None:
    chosen = set(warmup_sample(POOL, SPEC)["sample_id"])
    assert set(warmup_sample(POOL.reverse(), SPEC)["sample_id"]) == chosen
    fewer = POOL.filter(pl.col("sample_id") != POOL["sample_id"][0])
    assert len(chosen - set(warmup_sample(fewer, SPEC)["sample_id"])) <= 1


def test_a_warm_up_on_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(DselectError, match="every source is empty or quarantined"):
        tune(POOL.clear(), SPEC, tmp_path)
