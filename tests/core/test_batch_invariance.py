"""Whether a loss depends on the batch is found out with the corpus's own rows, by a model that is really run."""

import json
from pathlib import Path

import polars as pl
import pytest

from dselect_core.corpus.raw_dataset import land_source
from dselect_core.lineage.batch_invariance import PROBE_ROWS
from dselect_core.lineage.quality_checks import losses_do_not_depend_on_the_batch
from dselect_core.lm import target_model
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from tests.tiny import save_llama


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    rows = [{"instruction": f"Say {'very ' * (i % 7)}{i}", "output": f"{i} " * (1 + i % 5)} for i in range(50)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    settings = {
        "storage": str(tmp_path / "out"),
        "sources": {"a": {"path": str(tmp_path / "a.json")}},
        "model": {"path": str(save_llama(tmp_path / "llama"))},
        "coresets": {"t": {"strategy": "topk:upd", "budget": 3}},
    }
    workspace = Workspace(Settings.model_validate(settings))
    land_source(workspace, "a")
    target_model.make_target_model(workspace, pl.DataFrame)
    return workspace


def test_a_sound_model_passes_and_says_how_large_the_difference_is(place: Workspace) -> None:
    verdict = losses_do_not_depend_on_the_batch(place)
    assert verdict.passed, verdict.description
    assert verdict.facts["probed"] == PROBE_ROWS
    assert verdict.facts["largest_difference"] < 1e-4


def test_a_model_that_looks_at_the_other_rows_fails_and_names_them(place: Workspace) -> None:
    layer = target_model.open_target_model(place).forward.body.layers[0]
    # What a layer that normalises over its batch does: each token gets something of every other.
    hook = layer.register_forward_hook(lambda module, given, states: states + states.mean(dim=1, keepdim=True))
    try:
        verdict = losses_do_not_depend_on_the_batch(place)
    finally:
        hook.remove()
    assert not verdict.passed
    assert verdict.facts["largest_difference"] > 1e-4
    worst = verdict.facts["rows"][0].split(":")[0]
    assert len(worst) == 32
    assert "in a batch" in verdict.facts["rows"][0]


def test_the_threshold_is_the_settings(place: Workspace) -> None:
    strict = place.settings.model_copy(
        update={"checks": place.settings.checks.model_copy(update={"batch_difference": 1e-12})}
    )
    assert not losses_do_not_depend_on_the_batch(Workspace(strict)).passed


def test_without_rows_nobody_looks(place: Workspace) -> None:
    place.samples("a").unlink()
    verdict = losses_do_not_depend_on_the_batch(place)
    assert verdict.passed
    assert verdict.facts == {"known": False}
