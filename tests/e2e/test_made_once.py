"""Five recipes and the rows edited at once: each coreset is made once, by a refresh and by the daemon."""

from collections import Counter
from collections.abc import Iterable

import dagster as dg
import pytest

from tests.e2e.conftest import WORDS, InState
from tests.e2e.daemon import Daemon
from tests.e2e.graph import Graph, alpaca, materialised

RECIPES = [f"r{number}" for number in range(5)]


def edit(graph: Graph, words: list[str], budgets: Iterable[int]) -> None:
    """Another source, and other budgets of the recipes; `random` reads no score."""
    graph.source("a", alpaca(words))
    recipes = ({"strategy": "random", "budget": budget, "seed": 1} for budget in budgets)
    graph.settings(coresets=dict(zip(RECIPES, recipes, strict=True)))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return Graph(tmp_path_factory.mktemp("project"))


@pytest.fixture
def graph(project: Graph, in_state: InState) -> Graph:
    def make(graph: Graph) -> None:
        edit(graph, WORDS, [5] * 5)
        graph.sources("a")
        graph.refresh()

    return in_state(project, make)


OF_RECIPES = [(asset, name) for asset in ("candidates", "coreset") for name in RECIPES]
SPECS = [("coreset_spec", name) for name in RECIPES]
OF_ROWS = [("raw_dataset", "a"), ("corpus_index", None)]


def told(run: dg.DagsterRun) -> str | None:
    """The source or recipe that a run says it is of."""
    return run.tags.get("dselect/source") or run.tags.get("dselect/recipe")


def test_a_refresh_makes_each_coreset_once_and_the_daemon_makes_nothing_after_it(graph: Graph) -> None:
    daemon = Daemon(graph)
    assert daemon.tick() == Counter()
    edit(graph, WORDS[:-1], [6] * 5)
    before = daemon.cursor
    landed = graph.refresh(select=dg.AssetSelection.assets("raw_dataset", "coreset_spec"))
    assert set(materialised(landed)) == {OF_ROWS[0], *SPECS}
    assert daemon.cursor == before  # there is something left to do
    followed = graph.refresh()
    assert set(materialised(followed)) == {OF_ROWS[1], *OF_RECIPES}  # fails for one made twice
    assert daemon.run_until_quiet() == Counter()
    for done in (landed, followed):
        assert {run.result.dagster_run.job_name for run in done.runs} == {"refresh"}
        assert {run.result.dagster_run.tags["dselect/refresh"] for run in done.runs} == {done.refresh_id}
        assert all(told(run.result.dagster_run) == run.partition for run in done.runs)


def test_the_daemon_makes_each_coreset_once(graph: Graph) -> None:
    daemon = Daemon(graph)
    assert daemon.tick() == Counter()
    edit(graph, WORDS, [6] * 5)
    assert daemon.run_until_quiet() == Counter([("raw_dataset", "a"), *SPECS, *OF_RECIPES])
    with graph.instance() as instance:
        runs = instance.get_runs(limit=16)
    assert {told(run) for run in runs} == {"a", *RECIPES}
    assert all(told(run) == run.tags["dagster/partition"] for run in runs)
