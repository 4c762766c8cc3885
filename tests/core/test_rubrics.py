"""Rubrics of single sources: what an edit of one buys, whose grade counts for a sample of both, what is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.api import score
from dselect_core.errors import DselectError
from dselect_core.lineage.explain import story
from dselect_core.lineage.grades_needed import grades_needed
from dselect_core.lineage.quality_checks import scores_are_sound
from dselect_core.pool.corpus_index import build_index
from dselect_core.scores.try_grades import try_grades
from dselect_core.scores.update import KindsNotComputedError, update_scores
from dselect_core.settings.settings import load_settings
from tests.graded import GRADES, Graded
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating, yes_or_no
from tests.tiny import conversation, samples_frame

RATINGS = {"Grade code.": 5, "Grade tales.": 2, "Grade tests.": 3, "Grade prose.": 4}
CODE, TALES, TESTS, PROSE = RATINGS
ROWS = {"a": ["all", "a1", "a2", "a3"], "b": ["all", "b1", "b2"], "c": ["all", "c1"]}
A, B, C = (len(texts) for texts in ROWS.values())
_SOURCE = pl.col("text").str.head(1)
RUBRICS = {"rubric": "prose.md", "rubrics": {"b": "tales.md"}}


def rubric_of(request: Request) -> str:
    (rubric,) = [text for text in RATINGS if text in request.text]
    return rubric


def judge(request: Request) -> Reply:
    value = RATINGS[rubric_of(request)]
    if "logprobs" in request.body:
        return yes_or_no({"yes": value / 10, "no": 1 - value / 10})
    if "friendly" in request.text:
        return completion(json.dumps({"tone": value, "depth": 1}))
    return rating(value)


@pytest.fixture
def graded(tmp_path: Path) -> Iterator[Graded]:
    for name in ("code", "tales", "prose"):
        (tmp_path / f"{name}.md").write_text(f"Grade {name}.")
    with OpenAIServer(judge) as server:
        graded = Graded(tmp_path, server, {source: [*texts] for source, texts in ROWS.items()})
        graded.settings(**RUBRICS)
        yield graded


def bought(graded: Graded) -> dict[str, int]:
    return dict(Counter(map(rubric_of, graded.bought())))


def ratings(graded: Graded, column: str = "rating") -> dict[str, float]:
    """{source, or `all` for the sample that all hold: its only value}."""
    rows = set(graded.grades().select(pl.col("text").replace_strict({"all": "all"}, default=_SOURCE), column).rows())
    assert len({source for source, _ in rows}) == len(rows)
    return dict(rows)


def test_an_edit_of_one_buys_the_rows_of_its_source(graded: Graded) -> None:
    # The row that all hold is asked by `prose` once for a and c, and once by `tales`; the pool takes a's.
    assert bought(graded) == {PROSE: A + C - 1, TALES: B}
    assert ratings(graded) == {"a": 4, "b": 2, "c": 4, "all": 4}
    assert scores_are_sound(graded.workspace, GRADES).passed is True
    (graded.folder / "tales.md").write_text(TESTS)
    assert bought(graded) == {TESTS: B}
    graded.rows["b"].append("b3")
    graded.rows["c"].append("c2")
    assert bought(graded) == {TESTS: 1, PROSE: 1}
    graded.settings(rubric="prose.md", rubrics={"a": "code.md", "b": "tales.md"})
    assert bought(graded) == {CODE: A}
    assert ratings(graded) == {"a": 5, "b": 3, "c": 4, "all": 5}
    graded.settings(**RUBRICS)
    assert bought(graded) == {}  # these rows of a were graded by `prose` before
    graded.settings(rubric="prose.md")
    assert bought(graded) == {PROSE: B}  # and of b the row that all hold is there
    assert ratings(graded) == dict.fromkeys(["a", "b", "c", "all"], 4)


@pytest.mark.parametrize("options,a,b", [
    ({"scale": "probability"}, 0.4, 0.2),
    ({"criteria": {"tone": "It is friendly.", "depth": "It says why."}}, 0.375, 0.125),
])  # fmt: skip
def test_with_other_forms_and_a_few_rows_tried_before(
    graded: Graded, options: dict[str, Any], a: float, b: float
) -> None:
    graded.settings(**RUBRICS, **options)
    graded.land()
    tried = try_grades(graded.workspace, 20)
    assert tried.frame.height == A + B + C - 2  # each row once
    assert Counter(map(rubric_of, graded.server.requests)) == {PROSE: A + C - 1, TALES: B - 1}
    assert bought(graded) == {TALES: 1}
    assert ratings(graded, "grade") == pytest.approx({"a": a, "b": b, "c": a, "all": a})
    graded.settings(**RUBRICS, **options, max_tokens=999)
    assert bought(graded) == {}


def test_the_story_of_a_sample_says_which_source_asked_and_whose_grade_counts(graded: Graded) -> None:
    bought(graded)
    grades = graded.grades()
    shared = grades.filter(text="all")["sample_id"][0]
    told = {score.asked_by: score for score in story(graded.workspace, shared, [*ROWS]).scores}
    assert {asked_by: (score.values["rating"], score.in_force) for asked_by, score in told.items()} == {
        ("a", "c"): (4, True), ("b",): (2, False),
    }  # fmt: skip
    assert told["b",].provenance["rubric"].startswith(TALES)
    of_b = story(graded.workspace, grades.filter(text="b1")["sample_id"][0], [*ROWS]).scores
    assert [(score.asked_by, score.in_force) for score in of_b] == [(("b",), True)]
    needed = grades_needed(graded.workspace)
    assert (needed.rows, needed.graded) == (A + B + C - 2, A + B + C - 2)


def test_grades_of_another_judge_do_not_mix_with_those_that_the_settings_ask_for(graded: Graded) -> None:
    bought(graded)
    graded.server.answer = lambda request: error(401) if rubric_of(request) == TALES else judge(request)
    graded.settings(**RUBRICS, model="judge-2")
    for source in ("a", "c"):
        update_scores(graded.workspace, source, GRADES)
    with pytest.raises(KindsNotComputedError):
        update_scores(graded.workspace, "b", GRADES)
    build_index(graded.workspace, [*ROWS], GRADES)
    assert "scores of 2 provenances" in scores_are_sound(graded.workspace, GRADES).description


def test_nor_do_those_of_an_earlier_rubric_of_the_others(graded: Graded) -> None:
    bought(graded)
    (graded.folder / "prose.md").write_text(TESTS)
    update_scores(graded.workspace, "a", GRADES)  # c is behind
    build_index(graded.workspace, [*ROWS], GRADES)
    assert "scores of 3 provenances" in scores_are_sound(graded.workspace, GRADES).description


def test_a_rubric_that_is_gone_fails_its_source_alone(graded: Graded) -> None:
    (graded.folder / "tales.md").unlink()
    graded.land()
    with pytest.raises(DselectError, match=r"tales\.md cannot be read"):
        update_scores(graded.workspace, "b", GRADES)
    assert update_scores(graded.workspace, "a", GRADES)["grades"].computed == A


def test_rows_of_no_source_are_not_graded_by_the_common_rubric_in_silence(graded: Graded) -> None:
    settings = graded.workspace.settings
    samples = samples_frame([conversation("a", "b")])
    with pytest.raises(DselectError, match="which source"):
        score(samples, ["grades"], settings=settings)
    assert score(samples, ["grades"], settings=settings.of_source("b"))["grades"]["rating"].to_list() == [2]


@pytest.mark.parametrize("grader,said", [
    ({"model": "m", "rubrics": {"x": "r.md"}}, "there is no source `x`; there are: a, b, c"),
    ({"rubrics": {"a": "r.md"}}, "read by a judge only"),
    ({"reward_model": "m", "rubrics": {"a": "r.md"}}, "read by a judge only"),
])  # fmt: skip
def test_rubrics_that_nobody_reads_are_refused(graded: Graded, grader: dict[str, Any], said: str) -> None:
    path = graded.folder / "dselect.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"grader": grader}))
    with pytest.raises(DselectError, match=said):
        load_settings(path)
