"""Grades that failed are due in every refresh: planned, said, asked for again, counted, and given up in the end."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, materialised
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating
from tests.tiny import save_llama

pytestmark = pytest.mark.some(3)

ROWS = 12


class Judge:
    """A judge whose behaviour changes while its address stays."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Reply] = lambda request: rating(4)
        self.asked: Counter[str] = Counter()

    def __call__(self, request: Request) -> Reply:
        for word in WORDS:  # none stands in the question whether the endpoint works
            self.asked[word] += f"Say {word} " in request.text
        return self.answer(request)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def graph(tmp_path: Path, judge: Judge) -> Iterator[Graph]:
    graph = Graph(tmp_path)
    graph.source("a", alpaca(WORDS[:ROWS]))
    with OpenAIServer(judge) as server:
        grader = {"base_url": server.base_url, "model": "judge-1", "max_retries": 0, "concurrency": 1}
        graph.settings(
            sources={"a": {"path": "data/a.json"}},
            model={"path": str(save_llama(tmp_path / "model"))},
            coresets={"best": {"strategy": "topk:grade", "budget": 4}},
            grader=grader | {"give_up_after": 2},
        )
        yield graph


def steps(graph: Graph) -> dict[str, tuple[str, int | None]]:
    return {step.asset: (step.why, step.computed) for step in graph.plan().steps}


def test_an_outage_midway_is_made_good_by_the_next_refresh(graph: Graph, judge: Judge) -> None:
    seen = []

    def revoked_after_four(request: Request) -> Reply:
        seen.append(request)
        return rating(4) if len(seen) <= 4 else error(401, "key revoked")

    judge.answer = revoked_after_four
    done = graph.refresh()
    assert not done.is_whole
    assert "8 failed grades are tried again" in str(done.still_lost)
    assert graph.scores("grades")["grade"].null_count() == ROWS - 4
    # An outage is no attempt, however often it is met.
    for _ in range(3):
        assert steps(graph)["dependability_grades"] == ("8 failed grades are tried again", 8)
        assert not graph.refresh().is_whole
    judge.asked.clear()
    judge.answer = lambda request: rating(4)
    done = graph.refresh()
    assert done.is_whole
    assert sum(judge.asked.values()) == 8
    assert graph.scores("grades")["grade"].null_count() == 0
    assert graph.order("best").height == 4
    assert steps(graph) == {}
    assert graph.refresh().runs == []


def test_nobody_at_home_is_asked_again_by_the_next_refresh(graph: Graph, judge: Judge) -> None:
    judge.answer = lambda request: error(500, "engine on fire")
    done = graph.refresh()
    assert not done.is_whole
    judge.answer = lambda request: rating(5)
    done = graph.refresh()
    assert done.is_whole
    assert materialised(done)["dependability_grades", "a"]["rows computed"] == ROWS
    assert graph.order("best").height == 4


def test_a_row_that_fails_again_and_again_is_given_up_and_said(graph: Graph, judge: Judge) -> None:
    odd = WORDS[0]
    judge.answer = lambda request: completion("I cannot say.") if f"Say {odd} " in request.text else rating(4)
    assert not graph.refresh().is_whole
    assert steps(graph)["dependability_grades"] == ("1 failed grades are tried again", 1)
    done = graph.refresh()
    assert done.is_whole  # the second attempt was the last
    (failed,) = graph.scores("grades").filter(pl.col("grade").is_null())["error"]
    assert failed.startswith("no rating")
    assert failed.endswith("(tried 2 times)")
    assert steps(graph) == {}
    assert graph.refresh().runs == []
    assert judge.asked[odd] == 4  # each attempt asks once more for a reply that can be read
    # A higher limit makes it due.
    held = {"base_url": settings_of(graph)["base_url"], "model": "judge-1", "max_retries": 0, "concurrency": 1}
    graph.settings(grader=held | {"give_up_after": 3})
    judge.answer = lambda request: rating(2)
    assert graph.refresh().is_whole
    assert judge.asked[odd] == 5
    assert graph.scores("grades")["grade"].null_count() == 0


def test_rows_that_the_endpoint_fails_on_are_given_up_and_stop_nothing(graph: Graph, judge: Judge) -> None:
    refused, broken = WORDS[0], WORDS[1]

    def answer(request: Request) -> Reply:
        if f"Say {refused} " in request.text:
            return error(403, "flagged by the moderator")
        return error(500, "engine on fire") if f"Say {broken} " in request.text else rating(4)

    judge.answer = answer
    assert not graph.refresh().is_whole
    done = graph.refresh()  # asks these two alone
    assert done.is_whole and not done.failed
    assert (judge.asked[refused], judge.asked[broken]) == (2, 2)
    assert graph.refresh().runs == []
    assert graph.scores("grades")["grade"].null_count() == 2
    assert graph.order("best").height == 4


def settings_of(graph: Graph) -> dict[str, object]:
    return graph.workspace.settings.grader.model_dump()
