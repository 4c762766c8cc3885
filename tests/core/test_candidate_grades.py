"""`grader: {candidates: only}`: the coresets of all grades for a part of them, and nothing is bought twice.

What was bought is counted by the server. What would have been chosen is what `candidates: all` chooses of the same
rows, graded by the same judge. No orchestrator: the functions of the core in their order.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.coreset.candidate_grades import given_up_candidates, update_candidate_grades, why_tried_again
from dselect_core.coreset.coreset import candidates, make_coreset
from dselect_core.coreset.spec import write_spec
from dselect_core.corpus.raw_dataset import land_source
from dselect_core.errors import DselectError
from dselect_core.graders.spend import Purpose
from dselect_core.kinds import kind_of
from dselect_core.lm.target_model import make_target_model
from dselect_core.pool.corpus_index import build_index, grades_candidates_only, kinds_of_sources
from dselect_core.scores.provenance import store_of
from dselect_core.scores.update import update_scores
from dselect_core.settings.settings import Settings
from tests.e2e.content import Row, write
from tests.e2e.graph import Graph
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating
from tests.tiny import save_llama

ROWS = 48
RECIPES: dict[str, dict[str, Any]] = {
    "d3": {"strategy": "d3", "budget": 6},
    "deita": {"strategy": "deita", "budget": 5},
    "best": {"strategy": "topk:grade", "budget": 4},
    "wide": {"strategy": "kcenter", "budget": 5},
}
PRICE = {"prompt": 1000.0, "completion": 10_000.0}
USD_A_GRADE = 0.2  # of 100 tokens and 10


def rows(start: int, count: int) -> list[Row]:
    words = ("red", "green", "blue", "white", "black", "amber")
    return [
        {"instruction": f"Name {i % 7} things like row-{i}.", "output": f"{words[i % 6]} " * (i % 9 + 1) + f"is {i}."}
        for i in range(start, start + count)
    ]


A = rows(0, ROWS)


def row_of(request: Request) -> str:
    return next(word for word in request.text.replace(".", " ").split() if word.startswith("row-"))


def good(request: Request) -> Reply:
    """2 to 5 by a hash of all that the judge is shown, a third of them a 5."""
    return rating(min(5, 2 + sha256(request.text.encode()).digest()[0] % 5), usage=(100, 10))


class Judge:
    """Counts how often each text was asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answer: Callable[[Request], Reply] = good

    def __call__(self, request: Request) -> Reply:
        if "row-" in request.text:  # not the question whether it works
            self.asked[request.text] += 1
        return self.answer(request)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def server(judge: Judge) -> Iterator[OpenAIServer]:
    with OpenAIServer(judge) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture
def graph(tmp_path: Path, server: OpenAIServer, model: str) -> Graph:
    graph = Graph(tmp_path)
    write(graph.folder / "data" / "0.jsonl", A)
    graph.settings(model={"path": model}, sources={"a": {"path": "data"}}, coresets=RECIPES, grader=grader(server))
    return graph


def grader(server: OpenAIServer, **options: Any) -> dict[str, Any]:
    held = {"base_url": server.base_url, "model": "judge-1", "max_retries": 0, "max_tokens": 10, "concurrency": 4}
    return held | {"candidates": "only", "usd_per_million_tokens": PRICE} | options


def score(graph: Graph) -> None:
    """All that stands before grades of candidates: sources, model, scores of sources, the pool, recipes."""
    place = graph.workspace
    land_source(place, "a")
    make_target_model(place, pl.DataFrame)
    needed = frozenset(name for name in kinds_of_sources(place.settings) if kind_of(name).by_source)
    update_scores(place, "a", needed)
    build_index(place, ["a"], needed)
    for recipe in place.settings.coresets:
        write_spec(place, recipe)


def make(graph: Graph, purpose: Purpose | None = None) -> dict[str, list[tuple[Any, ...]]]:
    """The coresets, made of the files as they are: their rows in order."""
    score(graph)
    place = graph.workspace
    if grades_candidates_only(place.settings):
        update_candidate_grades(place, purpose=purpose)
    for recipe in place.settings.coresets:
        candidates(place, recipe)
        make_coreset(place, recipe)
    return {name: graph.order(name).rows() for name in place.settings.coresets}


def bought(graph: Graph) -> int:
    return int(graph.scores("grades")["grade"].count())


def test_the_coresets_are_those_of_all_grades_and_edits_buy_what_they_touch(
    graph: Graph, judge: Judge, server: OpenAIServer
) -> None:
    def same_with_all_graded(chosen: dict[str, list[tuple[Any, ...]]]) -> None:
        graph.settings(grader=grader(server, candidates="all"))
        assert make(graph) == chosen
        assert max(judge.asked.values()) == 1  # what was known is not bought again

    chosen = make(graph)
    first = judge.asked.total()
    assert bought(graph) == first < 0.7 * ROWS
    assert graph.manifest("d3")["candidate_grades"]["not_graded"] == ROWS - first
    assert make(graph) == chosen and judge.asked.total() == first

    write(graph.folder / "data" / "0.jsonl", [A[0] | {"output": "Another answer."}, *A[1:], *rows(100, 2)])
    make(graph)
    assert judge.asked.total() <= first + 3 + 3  # the rows that changed, and those that come up for a row that left
    graph.settings(coresets=RECIPES | {"d3": {"strategy": "d3", "budget": 3}})
    before = judge.asked.total()
    make(graph)
    assert judge.asked.total() == before
    graph.settings(coresets=RECIPES | {"d3": {"strategy": "d3", "budget": 9}})
    chosen = make(graph)
    assert before < judge.asked.total() < ROWS + 2
    assert bought(graph) in (judge.asked.total(), judge.asked.total() - 1)  # the row that was edited is out of the pool
    same_with_all_graded(chosen)
    graph.settings(grader=grader(server))
    assert make(graph) == chosen and max(judge.asked.values()) == 1
    assert bought(graph) == ROWS + 2  # all that is known counts


@pytest.mark.some(2)
def test_a_failed_grade_is_tried_again_counted_and_given_up(graph: Graph, judge: Judge, server: OpenAIServer) -> None:
    def moody(request: Request) -> Reply:
        return completion("I cannot say.") if int(row_of(request)[4:]) % 4 == 0 else good(request)

    judge.answer = moody
    graph.settings(grader=grader(server, give_up_after=2))
    chosen = make(graph)
    assert why_tried_again(graph.workspace) is not None
    failed = graph.scores("grades").filter(pl.col("error").str.starts_with("no rating")).height
    assert why_tried_again(graph.workspace) == f"{failed} failed grades are tried again"
    before = judge.asked.copy()
    assert make(graph) == chosen
    again = judge.asked - before
    # Each was asked again, and once more for a reply that can be read; nobody else was.
    assert len(again) == again.total() == 2 * failed
    assert why_tried_again(graph.workspace) is None and given_up_candidates(graph.workspace) == failed
    before = judge.asked.copy()
    assert make(graph) == chosen and judge.asked == before
    # A higher limit makes them due, and what they bring is chosen by.
    graph.settings(grader=grader(server, give_up_after=3))
    assert why_tried_again(graph.workspace) == f"{failed} failed grades are tried again"
    judge.answer = good
    chosen = make(graph)
    assert why_tried_again(graph.workspace) is None
    graph.settings(grader=grader(server, candidates="all"))
    assert make(graph) == chosen


@pytest.mark.some(2)
def test_no_coreset_is_made_from_half_of_the_grades(graph: Graph, judge: Judge, server: OpenAIServer) -> None:
    seen = []

    def revoked_after_seven(request: Request) -> Reply:
        seen.append(request)
        return good(request) if len(seen) <= 7 else error(401, "key revoked")

    judge.answer = revoked_after_seven
    with pytest.raises(DselectError, match=r"rows that can still be chosen are not graded, so no coreset .* revoked"):
        make(graph)
    with pytest.raises(DselectError, match="recipe d3: rows that it could choose are not graded yet"):
        candidates(graph.workspace, "d3")
    candidates(graph.workspace, "wide")  # it reads no grades
    judge.answer = good
    graph.settings(grader=grader(server, max_usd=25 * USD_A_GRADE))
    for refresh in range(20):
        before = judge.asked.total()
        try:
            chosen = make(graph, Purpose(f"refresh {refresh}"))
            break
        except DselectError as failed:
            assert "the cap is reached: grader.max_usd" in str(failed)
            assert 0 < judge.asked.total() - before <= 25
    graph.settings(grader=grader(server, candidates="all"))
    assert make(graph) == chosen
    assert judge.asked.total() - len(judge.asked) <= 4  # what the revoked key kept from being answered


@pytest.mark.some(2)
def test_a_killed_process_loses_nothing_that_was_answered(graph: Graph, judge: Judge) -> None:
    judge.answer = lambda request: Reply(good(request).body, delay=0.1)
    score(graph)
    code = (
        "import sys; from tests.e2e.graph import Graph; from pathlib import Path; "
        "from dselect_core.coreset.candidate_grades import update_candidate_grades; "
        "update_candidate_grades(Graph(Path(sys.argv[1])).workspace)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(graph.folder)], cwd=Path(__file__).parents[2])
    while process.poll() is None and judge.asked.total() < 10:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    time.sleep(0.3)  # what was under way is counted by now
    judge.answer = good
    make(graph)
    assert judge.asked.total() - len(judge.asked) <= 4  # the calls under way
    assert bought(graph) >= len(judge.asked) - 4


@pytest.mark.some(2)
def test_a_recipe_that_cannot_be_met_stops_no_other(graph: Graph, judge: Judge) -> None:
    graph.settings(coresets=RECIPES | {"huge": {"strategy": "d3", "budget": 2 * ROWS}})
    score(graph)
    made = update_candidate_grades(graph.workspace)
    assert list(made.refused) == ["huge"] and made.not_bought > 0
    with pytest.raises(DselectError, match="recipe huge: budget 96 rows is larger than the pool"):
        candidates(graph.workspace, "huge")
    make_coreset(graph.workspace, "d3")


@pytest.mark.some(2)
def test_grades_that_are_gone_are_due_and_a_source_is_not_graded_as_a_whole(graph: Graph) -> None:
    make(graph)
    assert why_tried_again(graph.workspace) is None
    with pytest.raises(DselectError, match="`only` has no source graded as a whole"):
        update_scores(graph.workspace, "a", frozenset({"grades"}))
    for part in Path(str(graph.workspace.kind_folder("grades"))).rglob("*"):
        if part.suffix in (".parquet", ".log"):
            part.unlink()
    assert why_tried_again(graph.workspace) == "scores are gone from the store"


@pytest.mark.parametrize(
    "top,message",
    [
        ({"near_duplicates": {"threshold": 0.9}}, "near_duplicates: {keep: best}"),
        ({"coresets": {"r": {"strategy": "d3", "budget": 4, "rounds": 2}}}, "coresets.r its rounds read"),
        (
            {"coresets": {"r": {"strategy": "topk:grade", "budget": 4, "length_corrected": True}}},
            "coresets.r `topk:grade` with these options reads the grades of all rows",
        ),
    ],
)
def test_settings_that_need_every_grade_are_refused(
    graph: Graph, server: OpenAIServer, top: dict[str, Any], message: str
) -> None:
    graph.settings(**top)
    with pytest.raises(DselectError) as refused:
        _ = graph.workspace
    assert message in str(refused.value) and "set `grader: {candidates: all}`" in str(refused.value)
    graph.settings(grader=grader(server, candidates="all"))
    assert graph.workspace.settings.grader.candidates == "all"


@pytest.mark.parametrize(
    ("given", "key"),
    [({"rubrics": {"a": "r.md"}}, "rubrics"), ({"mode": "batch"}, "mode: batch"), ({"repeat": 2}, "repeat")],
)
def test_rounds_of_grades_are_refused_with_what_they_cannot_do(given: dict[str, object], key: str) -> None:
    grader = {"model": "m", "base_url": "http://localhost", "candidates": "only"} | given
    with pytest.raises(ValueError, match=f"not with `{key}`"):
        Settings.model_validate(
            {
                "sources": {"a": {"path": "a.json"}},
                "coresets": {"d3": {"strategy": "d3", "budget": 5}},
                "grader": grader,
            }
        )


def test_criteria_combined_in_another_way_buy_no_row_twice(graph: Graph, judge: Judge, server: OpenAIServer) -> None:
    def by_criteria(request: Request) -> Reply:
        digest = sha256(request.text.encode()).digest()
        return completion(json.dumps({"facts": {"rating": 3 + digest[0] % 3}, "tone": {"rating": 3 + digest[1] % 3}}))

    judge.answer = by_criteria
    criteria = {"facts": "They are right.", "tone": "It is friendly."}
    for combine in ("mean", "min"):
        graph.settings(grader=grader(server, criteria=criteria, max_tokens=100, combine=combine))
        make(graph)
        assert max(judge.asked.values()) == 1
        assert why_tried_again(graph.workspace) is None
    store = store_of(graph.workspace, "grades")
    assert store.skipped == {} and set(graph.scores("grades")["criteria"].list.len().drop_nulls()) == {2}
