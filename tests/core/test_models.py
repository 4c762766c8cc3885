"""Models: what identifies one, the record of a workspace's model, and the warm-up."""

import json
from pathlib import Path

import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.lm import load as load_module
from dselect_core.lm import target_model
from dselect_core.lm.builtin_model import tune, warmup_sample
from dselect_core.lm.load import identity, load
from dselect_core.settings.settings import ModelSpec, Settings, WarmupSpec
from dselect_core.settings.workspace import Workspace
from tests.tiny import conversation, samples_frame, save_llama, score

POOL = samples_frame([conversation(f"Say {i} and {i * i}", f"{i} and {i * i}.") for i in range(60)])
SETTINGS = Settings.model_validate({"sources": {"s": {"path": "x"}}, "coresets": {}})
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


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(DselectError, match="/gone: no such folder"):
        identity("/gone")
    with pytest.raises(DselectError, match=r"model no/such-model: neither a local folder, nor reachable on the hub"):
        identity("no/such-model")


def test_a_folder_with_a_config_and_no_causal_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DselectError, match="cannot be opened as a causal language model"):
        load(str(tmp_path), ModelSpec(path=str(tmp_path)), "x")


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
    target_model._load_once.cache_clear()
    assert target_model.provenance(workspace) == expected
    # As version 0.1 wrote both.
    (tmp_path / "s" / "models" / "provenance").rename(tmp_path / "s" / "models" / "recipes")
    current = tmp_path / "s" / "models" / "current.json"
    held = json.loads(current.read_text().replace('"provenance"', '"recipe"'))
    del held["checksum"]
    current.write_text(json.dumps(held))
    assert target_model.provenance(workspace) == expected
    assert target_model.read_record(workspace) == record
    assert target_model.known_provenance(workspace, "local:another") is None


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


def test_the_warm_up_sample_does_not_depend_on_order_and_hardly_on_other_rows() -> None:
    chosen = set(warmup_sample(POOL, SPEC)["sample_id"])
    assert set(warmup_sample(POOL.reverse(), SPEC)["sample_id"]) == chosen
    fewer = POOL.filter(pl.col("sample_id") != POOL["sample_id"][0])
    assert len(chosen - set(warmup_sample(fewer, SPEC)["sample_id"])) <= 1


def test_a_warm_up_on_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(DselectError, match="every source is empty or quarantined"):
        tune(POOL.clear(), SPEC, tmp_path)
