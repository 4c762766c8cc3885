"""A graph that has been refreshed once; each test finds it as it was then, and may change it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.graph import Graph, alpaca

RECIPES = {
    "d3": {"strategy": "d3", "budget": "25%"},
    "weak": {"strategy": "miwv", "budget": 5},
    "wide": {"strategy": "mads", "budget": "50%"},
}
WORDS = [w + s for w in ("red", "green", "blue", "white", "black") for s in ("", "ish", "er", "ly")]


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("first"))
    graph.source("a", alpaca(WORDS))
    graph.source("b", [*alpaca(WORDS[:8], offset=50), alpaca(WORDS)[0]])  # its last row stands in `a` too
    graph.sources("ab")
    graph.settings(coresets=RECIPES)
    assert not graph.refresh().failed
    return graph


@pytest.fixture(scope="session")
def _snapshot(first: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(first.folder, tmp_path_factory.mktemp("snapshot") / "project", symlinks=True))


@pytest.fixture
def graph(first: Graph, _snapshot: Path) -> Graph:
    return first.put_back(_snapshot)


InState = Callable[[Graph, Callable[[Graph], object]], Graph]


@pytest.fixture(scope="module")
def in_state(tmp_path_factory: pytest.TempPathFactory) -> InState:
    """Brings a graph into a state that all tests of a module begin with: made by the first, put back for the others."""
    kept = tmp_path_factory.mktemp("state") / "project"

    def bring(graph: Graph, make: Callable[[Graph], object]) -> Graph:
        if kept.exists():
            return graph.put_back(kept)
        make(graph)
        shutil.copytree(graph.folder, kept, symlinks=True)
        return graph

    return bring
