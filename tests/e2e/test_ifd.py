"""IFD on the real graph: other scores are left alone, a new row costs one row, and what is dropped is told."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from dselect_core.lineage.explain import story
from dselect_core.select.rounding import SCORE_STEP
from tests.e2e.content import id_of
from tests.e2e.graph import Graph, assert_as_planned, materialised
from tests.e2e.test_row_by_row import rows
from tests.tiny import save_llama

DROPPED = "no ifd below 1 (its prompt does not help)"
HARD = {"strategy": "topk:loss", "budget": 5}
IFD = {"strategy": "ifd", "budget": 6}


def parts(graph: Graph, kind: str) -> dict[str, int]:
    """The files of a kind's stores, with their times."""
    folder = graph.folder / ".dselect" / "scores" / kind
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("ifd"))
    graph.source("a", rows(0, 40))
    graph.sources("a")
    model = save_llama(tmp_path_factory.mktemp("model"))
    graph.settings(model={"path": str(model)}, coresets={"hard": HARD})
    assert not graph.refresh().failed
    return graph


def test_an_ifd_recipe_is_scored_beside_the_difficulty_and_moves_nothing_else(graph: Graph) -> None:
    before = parts(graph, "difficulty")
    assert not parts(graph, "ifd")
    graph.settings(coresets={"hard": HARD, "follows": IFD})
    planned = graph.plan()
    done = graph.refresh()
    assert not done.failed
    assert_as_planned(planned, done)
    figures = materialised(done)
    shown = figures["difficulty_scores", "a"]
    assert (shown["ifd rows computed"], shown["difficulty rows computed"]) == (40, 0)
    assert parts(graph, "difficulty") == before
    assert ("coreset", "hard") not in figures

    # The coreset, from the stored scores.
    table = graph.scores("ifd")
    steps = {i: round(ifd / SCORE_STEP) for i, ifd in table.select("sample_id", "ifd").iter_rows()}
    below = sorted((i for i in steps if steps[i] < 2**16), key=lambda i: (-steps[i], i))
    assert 6 < len(below) < 40
    assert graph.order("follows")["sample_id"].to_list() == below[:6]
    assert shown["share with ifd of 1 or more"] == pytest.approx((table["ifd"] >= 1).mean())
    assert -1 <= shown["rank correlation of ifd with log response tokens"] <= 1

    # What is dropped is told, once with its count and once with the sample.
    manifest = graph.manifest("follows")
    assert manifest["excluded_reasons"] == {DROPPED: 40 - len(below)}
    assert manifest["scores"]["ifd"]["provenance"]["score"] == "ifd"
    dropped = next(i for i in steps if i not in below)
    told = story(graph.workspace, dropped, ["a"])
    assert next(c.why for c in told.choices if c.recipe == "follows") == f"cannot be chosen: {DROPPED}"
    assert {score.kind for score in told.scores if score.in_force} == {"difficulty", "ifd"}


def test_a_new_row_costs_one_row(graph: Graph) -> None:
    graph.settings(coresets={"hard": HARD, "follows": IFD})
    graph.refresh()
    added = rows(700, 1)[0]
    graph.source("a", [added, *rows(0, 40)])
    planned = graph.plan()
    done = graph.refresh()
    figures = materialised(done)
    shown = figures["difficulty_scores", "a"]
    assert (shown["ifd rows computed"], shown["difficulty rows computed"]) == (1, 1)
    assert shown["rows reused"] == 40
    assert_as_planned(planned, done)
    assert id_of({**added, "output": added["output"].strip()}) in graph.scores("ifd")["sample_id"]
    assert graph.refresh().runs == []


def test_another_beta_leaves_it_alone_and_the_figures_are_those_of_a_fresh_run(graph: Graph, tmp_path: Path) -> None:
    before = graph.scores("ifd")
    graph.settings(difficulty={"beta": 2.0})
    figures = materialised(graph.refresh())
    shown = figures["difficulty_scores", "a"]
    assert (shown["ifd rows computed"], shown["difficulty rows computed"]) == (0, 41)
    assert graph.scores("ifd").equals(before)

    fresh = Graph(tmp_path)
    fresh.settings(**yaml.safe_load(graph.config.read_text()))
    fresh.source("a", [rows(700, 1)[0], *rows(0, 40)])
    assert not fresh.refresh().failed
    other = fresh.scores("ifd")
    assert other["sample_id"].equals(before["sample_id"])
    assert (other["ifd"] - before["ifd"]).abs().max() <= 1e-5  # type: ignore[operator]
    assert fresh.order("follows")["sample_id"].equals(graph.order("follows")["sample_id"])


def test_superfilterings_own_ratio_can_be_ranked_by(graph: Graph) -> None:
    graph.settings(coresets={"odd": {"strategy": "topk:ifd_perplexity", "budget": 3}})
    assert not graph.refresh().failed
    table = graph.scores("ifd").sort(-pl.col("ifd_perplexity"), "sample_id")
    gap = (graph.order("odd")["ifd_perplexity"] - table["ifd_perplexity"].head(3)).abs().max()
    assert gap <= 1e-4  # type: ignore[operator]
