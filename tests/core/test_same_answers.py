"""What cannot change an answer buys none: the limit of tokens, how criteria are combined, an upgrade of dselect."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from dselect_core.fingerprint import fingerprint
from dselect_core.scores.provenance import store_of
from dselect_core.scores.try_grades import try_grades
from tests.graded import Graded
from tests.openai_server import OpenAIServer, Reply, Request, completion, rating

LONG = ("n", "o", "p")  # what is said of these takes 300 tokens
WORDS = [*"abcdefghi", *LONG]
CRITERIA = {"correctness": "Facts are right.", "tone": "It is friendly.", "depth": "It says why."}


def judge(request: Request) -> Reply:
    limit = request.body["max_tokens"]
    if limit < 300 and any(f"Say {word}\n" in request.text for word in LONG):
        return completion('{"rating": 4, "rea', finish="length", usage=(100, limit))
    number = sum(map(ord, request.text))
    if "correctness" in request.text:
        return completion(json.dumps({name: {"rating": 1 + (number + at) % 5} for at, name in enumerate(CRITERIA)}))
    return rating(1 + number % 5)


@pytest.fixture
def graded(tmp_path: Path) -> Iterator[Graded]:
    with OpenAIServer(judge) as server:
        yield Graded(tmp_path, server, {"a": WORDS})


def test_a_higher_limit_asks_only_what_was_cut(graded: Graded) -> None:
    graded.settings(give_up_after=1)
    assert len(graded.bought()) == len(WORDS)
    first = graded.grades()
    cut = "cut at 256 tokens (grader.max_tokens) before an answer"
    assert dict(first.drop_nulls("error").select("text", "error").iter_rows()) == dict.fromkeys(LONG, cut)
    graded.settings(give_up_after=1, max_tokens=280)  # all were given up: by another limit
    assert len(graded.bought()) == 3
    assert set(graded.grades()["error"].drop_nulls()) == {cut.replace("256", "280")}
    graded.settings(give_up_after=1, max_tokens=200)
    assert graded.bought() == []
    graded.settings(give_up_after=1, max_tokens=300)
    assert len(graded.bought()) == 3
    now = graded.grades()
    assert now["grade"].null_count() == 0
    assert now.filter(~pl.col("text").is_in(LONG)).equals(first.drop_nulls("grade"))


def test_attempts_at_a_lower_limit_do_not_count(graded: Graded) -> None:
    graded.settings(give_up_after=None)
    for _ in range(3):
        graded.update()
    assert "(tried 3 times)" in graded.grades()["error"].drop_nulls()[0]
    graded.settings(give_up_after=3, max_tokens=299)
    assert len(graded.update()) == 3
    assert "tried" not in graded.grades()["error"].drop_nulls()[0]
    assert [len(graded.update()) for _ in range(3)] == [3, 3, 0]


def test_criteria_are_combined_in_another_way_without_a_call(graded: Graded) -> None:
    options = {"criteria": CRITERIA, "max_tokens": 300}
    graded.settings(**options)
    assert len(graded.bought()) == len(WORDS)
    mean = graded.grades()
    graded.settings(**options, combine="min")
    assert graded.bought() == []
    lowest = graded.grades()
    for row in lowest.iter_rows(named=True):
        worst = min(part["rating"] for part in row["criteria"])
        assert (row["rating"], row["grade"]) == (worst, max(0.05, (worst - 1) / 4))
    assert lowest.drop("rating", "grade").equals(mean.drop("rating", "grade"))
    # A row that comes now is bought once, whichever way its criteria are combined then.
    graded.rows["a"] = [*WORDS, "new"]
    assert len(graded.bought()) == 1
    graded.settings(**options)
    assert graded.bought() == []
    assert graded.grades().filter(pl.col("text") != "new").equals(mean)
    graded.settings(criteria=CRITERIA | {"tone": "It is blunt."}, max_tokens=300)
    assert len(graded.bought()) == len(WORDS) + 1


def as_of_0_2(graded: Graded, limit: int) -> None:
    """The store of the grades as version 0.2 left it: with the limit in its provenance, without criteria."""
    store = store_of(graded.workspace, "grades")
    earlier = store.provenance | {"max_tokens": limit}
    old = graded.workspace.open_store("grades", fingerprint(earlier))
    old.write_provenance(earlier)
    old.append(pl.concat([part.frame for part in store.parts()]).drop("criteria"))
    for path in Path(str(store.folder)).iterdir():
        path.unlink()


def test_grades_of_an_earlier_version_are_not_bought_again(graded: Graded) -> None:
    graded.settings(give_up_after=1)
    graded.bought()
    before = graded.grades()
    as_of_0_2(graded, 256)
    assert graded.bought() == []
    assert graded.grades().equals(before)  # the rows that were given up too
    as_of_0_2(graded, 256)
    graded.settings(give_up_after=1, max_tokens=300)
    tried = try_grades(graded.workspace, 2).frame  # before anything was written into the store in force
    assert tried["grade"].null_count() == 0 and tried.height == 2
    assert len(graded.bought()) == 1
    now = graded.grades()
    assert now["grade"].null_count() == 0
    assert now.filter(~pl.col("text").is_in(LONG)).equals(before.drop_nulls("grade"))


def test_answers_of_another_judge_or_rubric_are_not_taken(graded: Graded) -> None:
    graded.settings(max_tokens=300)
    graded.bought()
    for other in ({"model": "judge-2"}, {"temperature": 0.5}, {"extra": {"seed": 1}}, {"scale": "probability"}):
        graded.settings(max_tokens=300, **other)
        assert todo_rows(graded) == len(WORDS)


def todo_rows(graded: Graded) -> int:
    return store_of(graded.workspace, "grades").missing(graded.grades().select("sample_id")).height
