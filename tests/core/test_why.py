"""What `why` says of a sample that was not chosen: its gain as the next pick, or an upper bound where that is known."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dselect_core.corpus.raw_dataset import land_source
from dselect_core.graders.grades import GRADES
from dselect_core.lineage.explain import story
from dselect_core.pool.corpus_index import build_index
from dselect_core.scores.provenance import store_of
from dselect_core.select.deita import score_first
from dselect_core.select.farthest_first import Sizes, farthest_first
from dselect_core.select.order import Order, Pick
from dselect_core.select.saved_order import SavedOrder, write_saved_order
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet, write_parquet


def workspace_of(folder: Path, strategy: str) -> Workspace:
    """A pool of 30 samples, and a recipe `far` of 6."""
    rows = [{"instruction": f"Say {i}", "input": "", "output": f"{i}"} for i in range(30)]
    (folder / "a.json").write_text(json.dumps(rows))
    settings = {
        "storage": str(folder / "out"),
        "sources": {"a": {"path": str(folder / "a.json")}},
        "coresets": {"far": {"strategy": strategy, "budget": 6}},
    }
    workspace = Workspace(Settings.model_validate(settings))
    land_source(workspace, "a")
    build_index(workspace, ["a"], frozenset())
    return workspace


def choose(workspace: Workspace, order: Order, picks: list[Pick]) -> tuple[SavedOrder, dict[str, str]]:
    """Keep `order` with its picks as what `far` was cut from: that, and what is said of those that were not chosen."""
    samples = read_parquet(workspace.samples("a")).select("sample_id", reason=pl.lit(None, pl.String)).sort("sample_id")
    kept = SavedOrder.of("0" * 32, samples, picks, order.state(), order.standing())
    write_saved_order(kept, workspace.orders / f"{kept.key}.parquet")
    chosen = kept.table.drop_nulls("rank").sort("rank").select("sample_id", "rank", "gain")
    write_parquet(chosen, workspace.coreset("far") / "order.parquet")
    manifest = {"strategy": workspace.settings.coresets["far"].strategy, "budget": "6", "order": kept.key}
    (workspace.coreset("far") / "manifest.json").write_text(json.dumps(manifest))
    left = kept.table.filter(pl.col("rank").is_null())["sample_id"]
    return kept, {sample: story(workspace, sample, ["a"]).choices[0].why for sample in left}


def test_a_gain_that_is_not_known_is_told_as_a_bound(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)
    order = farthest_first(vectors, np.full(30, 65_536), None, Sizes(active=4, picks=2, shortlist=6))
    picks = [next(order) for _ in range(6)]
    kept, words = choose(workspace_of(tmp_path, "kcenter"), order, picks)
    told = {row["sample_id"]: row for row in kept.table.iter_rows(named=True)}
    ended = f"as the next pick; the last of 6 picks gained {picks[-1].gain:.6g}"
    for sample, said in words.items():
        at_most = "at most " if told[sample]["state_seen"] < 6 else ""
        assert said == f"would gain {at_most}{told[sample]['standing']:.6g} {ended}"
    assert len({"at most" in said for said in words.values()}) == 2  # both kinds are there


def test_a_sample_that_was_passed_over_names_the_one_it_is_too_alike_to(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(6, dtype=np.float32), 5, axis=0)  # five rows of each of six directions
    order = score_first(vectors, np.arange(30), 0.9)
    kept, words = choose(workspace_of(tmp_path, "deita"), order, list(order))
    ids = kept.table["sample_id"].to_list()
    assert len(words) == 24
    for sample, said in words.items():
        best = ids[ids.index(sample) // 5 * 5 + 4]
        assert said == f"passed over: too alike to {best}, which was chosen before it"


@pytest.mark.parametrize("first", ["failure", "grade"])
def test_of_a_grade_that_was_tried_twice_the_one_that_counts_is_told(tmp_path: Path, first: str) -> None:
    workspace = workspace_of(tmp_path, "random")
    sample = read_parquet(workspace.samples("a"))["sample_id"][0]
    store = store_of(workspace, "grades")
    attempts = {"failure": {"error": "HTTP 500"}, "grade": {"grade": 0.75}}
    for said in (attempts.pop(first), *attempts.values()):
        store.append(pl.DataFrame([{"sample_id": sample, **said}], schema=GRADES.schema()))
    (score,) = story(workspace, sample, ["a"]).scores
    assert score.values == {"grade": 0.75} and score.kind == "grades"
