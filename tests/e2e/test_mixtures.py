"""What a coreset consists of, on the real graph: one-word answers are told, left out, and bounded."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.lineage.explain import story
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned, errors, made, materialised
from tests.e2e.test_lost_tables import checks

pytestmark = pytest.mark.some(3)

# Ranked by loss or not, what matters here is the length alone: the strategy takes the shortest.
RECIPES: dict[str, Any] = {
    "plain": {"strategy": "random", "budget": 36},
    "long": {"strategy": "topk:response_tokens", "budget": 36},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """40 long answers in `b`, 80 of a word in `a`."""
    graph = Graph(Path(tmp_path_factory.mktemp("mixtures")))
    words = [f"{word}{i}" for i in range(4) for word in WORDS]
    graph.source(
        "a", [{"instruction": f"Name {word}", "input": "", "output": f"{i % 7}"} for i, word in enumerate(words)]
    )
    graph.source("b", [row | {"output": row["output"] * 12} for row in alpaca(words[:40])])
    graph.sources("ab")
    graph.settings(coresets=RECIPES)
    return graph


def recipes(graph: Graph, **changed: dict[str, Any]) -> None:
    graph.settings(coresets={name: recipe | changed.get(name, {}) for name, recipe in RECIPES.items()})


def of_source(graph: Graph, recipe: str) -> dict[str, int]:
    return {row["source"]: row["chosen"] for row in graph.manifest(recipe)["composition"]["sources"]}


def why(graph: Graph, recipe: str, sample: str) -> str:
    return next(each.why for each in story(graph.workspace, sample, ["a", "b"]).choices if each.recipe == recipe)


def test_a_collapse_is_told_by_the_check_the_metadata_and_the_manifest(project: Graph) -> None:
    done = project.refresh()
    told = {recipe: project.manifest(recipe)["composition"]["collapsed"] for recipe in RECIPES}
    assert told["plain"] == []
    assert told["long"][0] == "100% of the chosen rows are of source b, which is 33% of the pool"
    figures = materialised(done)
    assert figures["coreset", "long"]["collapsed"] == "; ".join(told["long"])
    assert "collapsed" not in figures["coreset", "plain"]
    assert figures["coreset", "long"]["median response tokens"] > 10
    assert "| b | 40 | 0.3333 | 36 | 1" in figures["coreset", "long"]["chosen by source"]
    assert checks(done, "not_collapsed") == {True, False}
    assert done.is_whole  # a warning holds nothing back
    assert of_source(project, "long") == {"a": 0, "b": 36}


def test_editing_a_quota_makes_this_coreset_alone_again_and_meets_it(project: Graph) -> None:
    recipes(project)
    project.refresh()
    own = {(name, "long") for name in ("coreset_spec", "candidates", "coreset")}
    for quota, expected in (
        ({"b": {"max": "25%"}}, {"a": 27, "b": 9}),
        ({"b": {"max": "50%"}}, {"a": 18, "b": 18}),
        ({"a": {"min": 5}}, {"a": 5, "b": 31}),
    ):
        recipes(project, long={"quota": quota})
        planned = project.plan()
        done = project.refresh()
        assert made(done) == own
        assert_as_planned(planned, done)
        assert of_source(project, "long") == expected
        assert project.manifest("long")["quota"] == quota
        assert "| 40 | " in materialised(done)["coreset", "long"]["rows of each group"]
    left = project.manifest("long")["changes"]
    assert left["entered"] == {"recipe": 13} and left["left"] == {"recipe": 13}
    # A min in rows is another order at another budget; a smaller one is made anew, as planned.
    recipes(project, long={"quota": {"a": {"min": 5}}, "budget": 20})
    planned = project.plan()
    assert_as_planned(planned, project.refresh())
    assert of_source(project, "long") == {"a": 5, "b": 15}
    recipes(project, long={"quota": {"b": {"max": "25%"}}})
    project.refresh()
    recipes(project, long={"quota": {"b": {"max": "25%"}}, "budget": 20})
    planned = project.plan()
    done = project.refresh()
    assert_as_planned(planned, done)
    assert materialised(done)["coreset", "long"]["rows reused"] == 20  # shares nest, so the saved order is cut
    assert of_source(project, "long") == {"a": 15, "b": 5}


def test_why_names_the_quota_the_room_and_the_turn(project: Graph) -> None:
    last = {"b": set[str](), "a": set[str]()}
    for mixture, source, told in (
        ({"quota": {"b": {"max": "25%"}}}, "b", "passed over: source b is at its quota, 9 rows (max 25%)"),
        ({"quota": {"a": {"min": 5}}}, "b", "passed over: the room is kept for a (min 5)"),
        ({"balance": "source"}, "b", "passed over: the sources take turns (balance), and b has its 18 rows"),
    ):
        recipes(project, long=mixture)
        project.refresh()
        chosen = project.order("long")["sample_id"]
        of_source_ = project.pool().filter(pl.col("sources").list.first() == source)["sample_id"]
        last[source] = {why(project, "long", sample) for sample in of_source_ if sample not in chosen}
        assert last[source] == {told}
    assert of_source(project, "long") == {"a": 18, "b": 18}
    assert project.manifest("long")["balance"] == {"by": "source", "how": "equal"}


def test_a_quota_that_the_pool_cannot_meet_fails_its_coreset_alone(project: Graph) -> None:
    recipes(project, long={"quota": {"b": {"min": 41}}, "budget": 60})
    done = project.refresh()
    assert "coreset long: quota: source b has 40 rows that can be chosen, fewer than its min of 41 rows" in errors(done)
    assert {run.partition for run in done.failed} == {"long"}


def test_short_responses_are_left_out_of_one_coreset_alone(project: Graph) -> None:
    recipes(project)
    project.refresh()
    recipes(project, plain={"min_response_tokens": 5})
    planned = project.plan()
    done = project.refresh()
    assert made(done) == {(name, "plain") for name in ("coreset_spec", "candidates", "coreset")}
    assert_as_planned(planned, done)
    manifest = project.manifest("plain")
    assert manifest["min_response_tokens"] == 5
    assert manifest["excluded_reasons"] == {"fewer than 5 response tokens (min_response_tokens)": 80}
    assert of_source(project, "plain") == {"a": 0, "b": 36}
    short = project.pool().filter(pl.col("sources").list.first() == "a")["sample_id"]
    assert why(project, "plain", short[0]) == "cannot be chosen: fewer than 5 response tokens (min_response_tokens)"
    recipes(project)
    assert made(project.refresh()) == {(name, "plain") for name in ("coreset_spec", "candidates", "coreset")}
    assert "min_response_tokens" not in project.manifest("plain")
