"""From 100 sources on Dagster neither compares data versions across them nor records them; a refresh compares them.

The threshold is Dagster's; here it is 3, so that the same is met without a hundred sources.
"""

import dagster as dg
import pytest

from tests.dagster.dagster_private import blind_from
from tests.e2e.conftest import WORDS
from tests.e2e.graph import CORPUS_WIDE, SCORES, Graph, alpaca, errors, made
from tests.e2e.test_what_is_recomputed import CORESETS

pytestmark = pytest.mark.some(2)

ALL = CORPUS_WIDE | CORESETS


@pytest.fixture(autouse=True)
def blind_from_three(monkeypatch: pytest.MonkeyPatch) -> None:
    blind_from(3, monkeypatch)


@pytest.fixture
def three(graph: Graph) -> Graph:
    """The two sources of `graph`, made while Dagster saw them, and a third."""
    graph.source("c", alpaca(WORDS[:5], offset=90))
    graph.sources("abc")
    return graph


def of(source: str) -> set[tuple[str, str | None]]:
    return {("raw_dataset", source), *((score, source) for score in SCORES)}


def test_the_source_that_blinds_dagster_reaches_the_coresets(three: Graph) -> None:
    assert made(three.refresh()) == of("c") | ALL
    assert three.manifest("d3")["counts"]["pool"] == 33
    assert made(three.refresh()) == set()


def test_an_edit_and_a_removal_reach_the_coresets(three: Graph) -> None:
    three.refresh()
    three.source("a", alpaca(WORDS[:-1]))
    assert made(three.refresh()) == of("a") | ALL
    three.sources("ab")
    assert made(three.refresh()) == of("c") | ALL
    assert made(three.refresh()) == set()


@pytest.mark.walk(1)
@pytest.mark.parametrize("at", ["embeddings", "corpus_index", "neighbors", "coreset"])
def test_what_a_killed_refresh_left_is_made_by_the_next(three: Graph, at: str) -> None:
    three.refresh()
    three.source("a", alpaca(WORDS[:-1]))
    three.refresh_killed(at)
    assert ("coreset", "d3") in made(three.refresh())
    assert three.manifest("d3")["counts"]["pool"] == 32
    assert made(three.refresh()) == set()


def test_what_a_refresh_was_told_to_leave_out_is_made_by_the_next(three: Graph) -> None:
    three.refresh()
    three.source("a", alpaca(WORDS[:-1]))
    scores = dg.AssetSelection.assets("raw_dataset", *SCORES)
    assert made(three.refresh(select=scores)) == of("a")
    assert made(three.refresh(select=scores)) == set()
    assert made(three.refresh()) == ALL
    assert three.manifest("d3")["counts"]["pool"] == 32
    assert made(three.refresh()) == set()


def test_a_source_that_failed_follows_when_it_is_mended(three: Graph) -> None:
    three.refresh()
    (three.folder / "data" / "b.json").write_text("{ not json")
    assert "b.json" in errors(three.refresh())
    three.source("b", alpaca(WORDS[:8], offset=50))
    assert {("raw_dataset", "b"), ("corpus_index", None), ("coreset", "d3")} <= made(three.refresh())
    assert made(three.refresh()) == set()
