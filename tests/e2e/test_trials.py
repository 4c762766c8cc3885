"""Trials in the graph: the asset and its checks, the plan that is kept, what is lost, and what the commands show."""

import json
import re
import shutil
from pathlib import Path

import dagster as dg
import pytest

from dselect_core.escape import html_text
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned, made, materialised
from tests.e2e.test_cli import dselect

pytestmark = pytest.mark.some(3)

TRIALS = {"seeds": 2, "draws": 3, "multiples": [2], "baselines": [], "epochs": 1, "batch_tokens": 512}
TRIED = {"strategy": "random", "budget": 6, "trial": True}
RECIPES = {"tried": TRIED, "plain": {"strategy": "random", "budget": 5, "seed": 1}}
RESULT = ".dselect/trials/results/tried.json"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("trials"))
    graph.source("a", alpaca(WORDS))
    graph.source("held", alpaca(WORDS[:5], offset=90))
    graph.settings(
        sources={"a": {"path": "data/a.json"}, "held": {"path": "data/held.json", "role": "eval"}},
        coresets=RECIPES,
        trials=TRIALS,
    )
    planned = graph.plan()
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert_as_planned(planned, done)
    return graph


@pytest.fixture(scope="module")
def _snapshot(first: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(first.folder, tmp_path_factory.mktemp("snapshot") / "project"))


def test_a_tried_recipe_has_a_trial_and_the_others_are_not_missing_one(graph: Graph) -> None:
    assert json.loads((graph.folder / RESULT).read_text())["recipe"] == "tried"
    with graph.instance() as instance:
        assert instance.get_dynamic_partitions("trial") == ["tried"]
        assert instance.get_materialized_partitions(dg.AssetKey("trial")) == {"tried"}
    assert graph.refresh().runs == []
    assert "Everything is up to date" in dselect(graph.folder, "status")


def test_the_run_shows_the_verdict_its_figures_and_pictures(graph: Graph) -> None:
    with graph.instance() as instance:
        of_trial = dg.AssetRecordsFilter(asset_key=dg.AssetKey("trial"), asset_partitions=["tried"])
        materialization = instance.fetch_materializations(of_trial, limit=1).records[0].asset_materialization
    assert materialization is not None
    shown = materialization.metadata
    plotted = {"better than random by", "least detectable", "tokens", "seconds", "runs tuned", "runs reused"}
    assert all(isinstance(shown[name].value, int | float) for name in plotted)
    assert shown["runs tuned"].value == 2 + 3 + 2
    assert "nats a token" in str(shown["verdict"].value)
    assert "| coreset |" in str(shown["table"].value)
    for name in ("loss by training set", "loss against budget"):
        assert str(shown[name].value).startswith(f"![{name}](data:image/png;base64,iVBOR")
    page = (graph.folder / ".dselect" / "reports" / "coresets" / "tried.html").read_text("utf-8")
    assert html_text(str(shown["verdict"].value)) in page
    assert "not tried yet" not in page
    assert str(shown["report"].value).endswith("reports/coresets/tried.html")


CHANGES: dict[str, dict[str, object]] = {
    "a budget": {"coresets": RECIPES | {"tried": TRIED | {"budget": 7}}},
    "a seed more": {"trials": TRIALS | {"seeds": 3}},
    "a baseline more": {"trials": TRIALS | {"baselines": ["pool"]}},
    "an epoch more": {"trials": TRIALS | {"epochs": 2}},
    "a bound": {"trials": TRIALS | {"max_seconds": 1000}},
    "another recipe tried": {"coresets": RECIPES | {"plain": RECIPES["plain"] | {"trial": True}}},
    "no recipe tried": {"coresets": RECIPES | {"tried": TRIED | {"trial": False}}},
    "a check required": {"coresets": RECIPES | {"tried": TRIED | {"require": ["beats_random"]}}},
}
TUNED = {  # partition → runs that the change tunes; none where it has no trial to make
    "a budget": {"tried": 2 + 3 + 2},
    "a seed more": {"tried": 1 + 1},
    "a baseline more": {"tried": 2},
    "an epoch more": {"tried": 2 + 3 + 2},
    "another recipe tried": {"plain": 2 + 3 + 2},
}


@pytest.mark.walk(2)
@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_of_trials_is_kept_and_only_what_is_touched_is_tuned(graph: Graph, change: str) -> None:
    graph.settings(**CHANGES[change])
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    figures = materialised(done)
    tuned = {partition: of["runs tuned"] for (asset, partition), of in figures.items() if asset == "trial"}
    assert tuned == TUNED.get(change, {})
    for step in planned.steps:
        if step.asset == "trial":
            assert step.computed == tuned[step.partition]
            assert step.reused == figures["trial", step.partition]["runs reused"]
    assert graph.refresh().runs == []
    assert graph.plan().steps == []


@pytest.mark.parametrize("change", ["eval rows", "train rows", "the same rows"])
def test_rows_that_land_move_trials_through_what_they_touch(graph: Graph, change: str) -> None:
    if change == "eval rows":
        graph.source("held", alpaca(WORDS[:6], offset=90))
    elif change == "train rows":
        graph.source("a", [*alpaca(WORDS), *alpaca(["mauve"], offset=70)])
    else:
        graph.source("held", [*reversed(alpaca(WORDS[:5], offset=90))])
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    figures = materialised(done)
    if change == "the same rows":
        assert ("trial", "tried") not in figures
    elif change == "eval rows":
        assert figures["trial", "tried"]["runs tuned"] == 0  # their weights are kept
        assert figures["trial", "tried"]["marks measured"] == 2 + 3 + 2 + 1
    else:
        assert figures["trial", "tried"]["runs tuned"] <= 2 + 3 + 2
    assert graph.refresh().runs == []


def test_a_lost_result_is_planned_and_made_again_from_the_stored_runs(graph: Graph) -> None:
    (graph.folder / RESULT).unlink()
    assert "trial[tried] is lost: trials/results/tried.json is gone" in dselect(graph.folder, "status")
    planned = graph.plan()
    assert [(step.asset, step.partition, step.computed) for step in planned.steps] == [("trial", "tried", 0)]
    done = graph.refresh()
    assert made(done) == {("trial", "tried")}
    assert materialised(done)["trial", "tried"]["runs tuned"] == 0
    assert (graph.folder / RESULT).exists()


def test_a_recipe_that_is_tried_again_is_not_behind(graph: Graph) -> None:
    graph.settings(coresets=CHANGES["no recipe tried"]["coresets"])
    graph.refresh()
    with graph.instance() as instance:
        assert instance.get_dynamic_partitions("trial") == []
    graph.settings(coresets=RECIPES | {"tried": TRIED | {"trial": False, "budget": 7}})
    graph.refresh()
    graph.settings(coresets=RECIPES | {"tried": TRIED | {"budget": 7}})
    assert "trial[tried] is stale: coreset[tried] changed" in dselect(graph.folder, "status")
    planned = graph.plan()
    assert ("trial", "tried") in {(step.asset, step.partition) for step in planned.steps}
    assert made(graph.refresh()) >= {("trial", "tried")}
    assert graph.refresh().runs == []


def test_a_trial_that_reaches_its_bound_says_how_far_it_came_and_goes_on(graph: Graph) -> None:
    graph.settings(trials=TRIALS | {"epochs": 3, "max_seconds": 1e-3})
    told = dselect(graph.folder, "refresh", code=1)
    assert "trial of tried: 0 of 7 runs are tuned and kept" in told
    assert "max_seconds" in told
    graph.settings(trials=TRIALS | {"epochs": 3})
    assert "failed" not in dselect(graph.folder, "refresh")


def test_a_trial_without_an_eval_source_is_refused_with_the_remedy(graph: Graph) -> None:
    graph.settings(sources={"a": {"path": "data/a.json"}})
    told = dselect(graph.folder, "plan", code=2)
    assert "coresets.tried.trial" in told
    assert "`role: eval`" in told


def test_the_closing_table_and_compare_show_the_coresets_against_random(graph: Graph) -> None:
    verdict = r"[+-]0\.\d{4} ± \d+\.\d{4} (better|worse|no difference)"
    told = dselect(graph.folder, "refresh")
    assert "against random" in told
    assert re.search(rf"tried random, 6 rows 6 2\d 0 0 {verdict} \.dselect", told)
    graph.settings(coresets=RECIPES | {"plain": RECIPES["plain"] | {"trial": True}})
    told = dselect(graph.folder, "compare", "--html", "page.html")
    assert re.search(rf"tried random, 6 rows 6 \d+\.\d{{4}} {verdict}", told)
    assert re.search(r"tried +[·┆├─●┤]{31}", told)
    assert "plain: not tried yet" in told
    page = (graph.folder / "page.html").read_text("utf-8")
    assert re.search(verdict, page)
    assert "<script" not in page
    graph.source("held", alpaca(WORDS[:6], offset=90))
    graph.refresh(select=dg.AssetSelection.assets("raw_dataset", "held_out"))
    assert "tried: held_out changed" in dselect(graph.folder, "compare")


def test_without_a_tried_recipe_nothing_is_said_of_random(graph: Graph) -> None:
    graph.settings(coresets={"plain": RECIPES["plain"]})
    assert "against random" not in dselect(graph.folder, "refresh")
    assert "No recipe is tried" in dselect(graph.folder, "compare")
