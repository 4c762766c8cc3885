"""Trials in the graph: the asset and its checks, the plan that is kept, what is lost, and what the commands show."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned
from tests.e2e.test_cli import dselect

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


@pytest.fixture
def graph(first: Graph, _snapshot: Path) -> Iterator[Graph]:
    shutil.rmtree(first.folder)
    shutil.copytree(_snapshot, first.folder)
    yield first


def test_a_tried_recipe_has_a_trial_and_the_others_are_not_missing_one(graph: Graph) -> None:
    assert json.loads((graph.folder / RESULT).read_text())["recipe"] == "tried"
    with graph.instance() as instance:
        assert instance.get_dynamic_partitions("trial") == ["tried"]
        assert instance.get_materialized_partitions(dg.AssetKey("trial")) == {"tried"}
    assert graph.refresh().runs == []
    assert "Everything is up to date" in dselect(graph.folder, "status")
