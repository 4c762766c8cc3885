"""`grader: {candidates: only}` in the graph: what is bought is planned and told, and a refresh leaves no work.

What was bought is counted by the server; what is chosen is held against the same graph with `candidates: all`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.lineage.explain import story
from tests.core.test_candidate_grades import grader
from tests.e2e.conftest import InState
from tests.e2e.content import Row, write
from tests.e2e.graph import Graph, assert_as_planned, errors, materialised
from tests.e2e.test_cli import dselect
from tests.e2e.test_row_by_row import rows
from tests.openai_server import OpenAIServer, Reply, Request, completion, rating
from tests.tiny import save_llama

ROWS = 60
pytestmark = pytest.mark.some(1)

RECIPES: dict[str, dict[str, Any]] = {
    "d3": {"strategy": "d3", "budget": 6},
    "best": {"strategy": "topk:grade", "budget": 5},
    "wide": {"strategy": "kcenter", "budget": 5},
}
USD_A_GRADE = 0.2  # of 100 tokens and 10
GRADES = ("candidate_grades", None)


class Judge:
    """Grades a row by a hash of its text, half of them a 5; counts how often each was asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answer: Callable[[Request], Reply] = self.good

    def good(self, request: Request) -> Reply:
        return rating(min(5, 2 + sha256(self.row(request).encode()).digest()[0] % 6), usage=(100, 10))

    def row(self, request: Request) -> str:
        return request.text.split("instruction", 1)[-1]

    def __call__(self, request: Request) -> Reply:
        self.asked[self.row(request)] += 1
        return self.answer(request)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def server(judge: Judge) -> Iterator[OpenAIServer]:
    with OpenAIServer(judge) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graph") / "project"


def write_rows(graph: Graph, a: list[Row], b: list[Row]) -> None:
    write(graph.folder / "data" / "a" / "0.jsonl", a)
    write(graph.folder / "data" / "b" / "0.jsonl", b)


A, B = rows(0, 40), rows(200, ROWS - 40)


@pytest.fixture
def graph(place: Path, in_state: InState, server: OpenAIServer, judge: Judge, model: str) -> Graph:
    def first(graph: Graph) -> None:
        graph.folder.mkdir(exist_ok=True)
        write_rows(graph, A, B)
        graph.settings(
            model={"path": model},
            sources={name: {"path": f"data/{name}"} for name in ("a", "b")},
            coresets=RECIPES,
            grader=grader(server),
        )
        assert graph.refresh().is_whole

    judge.answer = judge.good
    graph = in_state(Graph(place), first)
    judge.asked.clear()
    return graph


def orders(graph: Graph) -> dict[str, list[tuple[Any, ...]]]:
    return {name: graph.order(name).drop("graded_at", strict=False).rows() for name in RECIPES}


def test_edits_buy_what_they_touch_as_planned_and_leave_no_work(
    graph: Graph, judge: Judge, server: OpenAIServer
) -> None:
    graded = graph.scores("grades")
    assert 10 < graded["grade"].count() < ROWS * 0.7
    out = graded.filter(pl.col("grade").is_null())["sample_id"][0]
    told = {choice.recipe: choice.why for choice in story(graph.workspace, out, ["a", "b"]).choices}
    assert told["d3"].startswith("not graded: it could not have been chosen, whatever its grade; would gain at most")
    assert "not graded" not in told["wide"]

    write_rows(graph, [A[0] | {"output": "Quite another answer."}, *A[1:], *rows(400, 1)], B)
    graph.settings(coresets=RECIPES | {"d3": RECIPES["d3"] | {"budget": 8}})
    planned, done = graph.plan(), graph.refresh()
    assert done.is_whole
    assert_as_planned(planned, done)
    (step,) = [step for step in planned.steps if step.asset == "candidate_grades"]
    assert step.grades is not None and step.bought[None].rows == step.computed
    assert step.grades.now == 0 and step.grades.expected == step.computed  # the new rows have no other scores yet
    shown = materialised(done)[GRADES]
    assert shown["rows computed"] == judge.asked.total() == len(judge.asked) <= step.grades.most
    assert shown["rows not graded"] == graph.pool().height - shown["rows graded"] > 0
    assert graph.plan().steps == [] and graph.refresh().runs == []

    # Another budget alone: what is needed is known before the run.
    graph.settings(coresets=RECIPES | {"d3": RECIPES["d3"] | {"budget": 12}})
    planned = dselect(graph.folder, "plan")
    assert "rows are needed for certain" in planned and "if they come as those known" in planned
    (step,) = [step for step in graph.plan().steps if step.asset == "candidate_grades"]
    before = judge.asked.total()
    assert graph.refresh().is_whole
    assert step.grades is not None
    assert 0 < step.grades.now <= judge.asked.total() - before <= step.grades.most
    chosen = orders(graph)
    assert "dependability_grades is not computed: candidate_grades is" in dselect(graph.folder, "status")

    # The other setting buys the others alone, and chooses the same.
    graph.settings(grader=grader(server, candidates="all"))
    planned, done = graph.plan(), graph.refresh()
    assert done.is_whole
    assert_as_planned(planned, done)
    assert orders(graph) == chosen
    assert judge.asked.total() == len(judge.asked)
    assert graph.scores("grades")["grade"].null_count() == 0


def test_a_cap_is_told_and_nothing_is_chosen_by_half_of_the_grades(
    graph: Graph, judge: Judge, server: OpenAIServer
) -> None:
    before = orders(graph)
    graph.settings(
        coresets=RECIPES | {"d3": RECIPES["d3"] | {"budget": 20}}, grader=grader(server, max_usd=20 * USD_A_GRADE)
    )
    told = " ".join(dselect(graph.folder, "refresh", code=1).split())
    asked = judge.asked.total()
    assert 0 < asked <= 20
    assert "rows that can still be chosen are not graded, so no coreset that reads grades is made" in told
    assert "the cap is reached: grader.max_usd of $4 a refresh" in told
    assert "recipe d3: rows that it could choose are not graded yet" in told
    assert orders(graph) == before
    graph.settings(grader=grader(server))
    planned, done = graph.plan(), graph.refresh()
    assert done.is_whole, errors(done)
    assert_as_planned(planned, done)
    assert judge.asked.total() == len(judge.asked)
    assert graph.order("d3").height == 20
    assert graph.plan().steps == [] and graph.refresh().runs == []


def test_failed_grades_are_due_in_the_next_refresh(graph: Graph, judge: Judge, server: OpenAIServer) -> None:
    graph.settings(grader=grader(server, give_up_after=2), coresets=RECIPES | {"best": RECIPES["best"] | {"budget": 8}})
    judge.answer = lambda request: completion("I cannot say.")
    done = graph.refresh()
    assert not done.is_whole
    ((lost, why),) = done.still_lost.items()
    assert lost[0].to_user_string() == "candidate_grades" and why.endswith("failed grades are tried again")
    (step,) = [step for step in graph.plan().steps if step.asset == "candidate_grades"]
    assert step.why == why
    judge.answer = judge.good
    done = graph.refresh()
    assert done.is_whole and not done.failed
    assert graph.plan().steps == [] and graph.refresh().runs == []
    assert graph.order("best").height == 8
