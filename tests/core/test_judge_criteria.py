"""Criteria of an endpoint's judge, the JSON schema that it is given, and the one repair of a reply: over HTTP."""

import json
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError
from upath import UPath

from dselect_core.graders.grades import GRADES, grade, grader_provenance
from dselect_core.graders.judge_prompt import RATING, prompt_of
from dselect_core.kinds import NOT_TRIED
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.storage.score_store import Store
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating
from tests.tiny import samples_frame

SAMPLES = samples_frame(
    [[{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}] for i in range(4)]
)
CRITERIA = {"correctness": "Facts are right.", "tone": "It is\n friendly."}


def spec(server: OpenAIServer | None = None, **options: object) -> GraderSpec:
    url = "http://a/v1" if server is None else server.base_url
    return GraderSpec.model_validate(
        {"base_url": url, "model": "judge-1", "max_retries": 0, "concurrency": 1, **options}
    )


def judged(correctness: object, tone: object) -> str:
    return json.dumps(
        {"correctness": {"rating": correctness, "reason": "right"}, "tone": {"rating": tone, "reason": "dry"}}
    )


def one(reply: Reply, **options: object) -> dict[str, Any]:
    with OpenAIServer(lambda request: reply) as server:
        return grade(SAMPLES.head(1), spec(server, criteria=CRITERIA, **options)).row(0, named=True)


@pytest.mark.parametrize("combine,expected", [("mean", 3.5), ("min", 2.0)])
def test_each_criterion_is_rated_and_they_are_combined(combine: str, expected: float) -> None:
    row = one(completion(judged(5, 2)), combine=combine)
    assert row["criteria"] == [
        {"criterion": "correctness", "rating": 5.0, "reason": "right"},
        {"criterion": "tone", "rating": 2.0, "reason": "dry"},
    ]
    assert (row["rating"], row["grade"], row["error"]) == (expected, (expected - 1) / 4, None)
    assert row["rationale"] == "correctness: right; tone: dry"


def test_what_is_asked() -> None:
    with OpenAIServer(lambda request: completion(judged(3, 3))) as server:
        grade(SAMPLES.head(1), spec(server, criteria=CRITERIA))
    sent = server.requests[0].body
    system = sent["messages"][0]["content"]
    assert "- correctness: Facts are right.\n- tone: It is friendly.\n" in system
    schema = sent["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["correctness", "tone"] and schema["additionalProperties"] is False
    assert schema["properties"]["tone"]["properties"]["rating"]["enum"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("text,parts", [
    ('{"correctness": 4, "tone": "2"}', [(4.0, None), (2.0, None)]),
    ('<think>{"tone": 1}</think>\n```json\n{"tone": {"rating": 3}, "correctness": {"rating": 4}}\n```',
     [(4.0, None), (3.0, None)]),
    ('{"correctness": 4, "tone": 2, "overall": 5}', [(4.0, None), (2.0, None)]),
])  # fmt: skip
def test_a_whole_answer_counts_in_its_other_forms(text: str, parts: list[tuple[float, None]]) -> None:
    assert [(part["rating"], part["reason"]) for part in one(completion(text))["criteria"]] == parts


@pytest.mark.parametrize("text,reason", [
    ('{"correctness": {"rating": 4}}', "no rating of tone"),
    (judged(4, 6), "outside 1 to 5"),
    (judged(4, None), "not a number"),
    ('{"correctness": 4, "tone": 2, "tone": 3}', "tone twice"),
    ('{"correctness": 4, "tone": {"rating": 2, "rating": 3}}', "rating twice"),
    (judged(4, 2) + "\n" + judged(4, 3), "more than one rating"),
    ('{"criteria": {"correctness": 4, "tone": 2}}', "no rating in"),
    ('{"correctness": 4, "tone": {"rating": 2', "whole JSON object"),
    (f"The text asks for {judged(5, 5)}, it says.", "inside other text"),
    ('{"rating": 4}', "no rating in"),
])  # fmt: skip
def test_nothing_is_made_up(text: str, reason: str) -> None:
    row = one(completion(text))
    assert (row["grade"], row["rating"], row["criteria"]) == (None, None, None)
    assert reason in row["error"]


def test_the_parts_are_stored_beside_grades_that_have_none(tmp_path: Any) -> None:
    """A store of an earlier version has no such column; it is read and compacted with it."""
    with OpenAIServer(lambda request: completion(judged(5, 2))) as server:
        frame = grade(SAMPLES, spec(server, criteria=CRITERIA))
    assert frame.schema == GRADES.schema()
    store = Store(UPath(tmp_path / "store"), retry_column="grade")
    earlier, later = frame.head(2).drop("criteria"), frame.tail(2)
    store.append(earlier)
    assert "criteria" not in store.read(SAMPLES).columns
    store.append(later)
    for _ in range(2):
        read = store.read(SAMPLES)
        assert read["criteria"].null_count() == 2 and read["grade"].null_count() == 0
        assert read.tail(2).select(frame.columns).equals(later.sort("sample_id"))
        assert store.compact() in (0, 2)


def test_provenance_and_settings() -> None:
    def made(**options: object) -> str:
        return json.dumps(grader_provenance(spec(**options)), sort_keys=True)

    assert "combine" not in made() and prompt_of(spec()) is RATING
    other = {"correctness": "Facts are right.", "tone": "It is blunt."}
    assert made(max_tokens=9) == made()
    assert len({made(), made(criteria=CRITERIA), made(criteria=other), made(criteria=CRITERIA, combine="min")}) == 4


@pytest.mark.parametrize("options,said", [
    ({"criteria": {}}, "give 1 to 20"),
    ({"criteria": {"rating": "x"}}, "names a key"),
    ({"criteria": {'a"b': "x"}}, "names a key"),
    ({"criteria": {"tone": " "}}, "say in a sentence"),
    ({"criteria": CRITERIA, "scale": "probability"}, "take one of them out"),
    ({"combine": "min"}, "with `criteria` only"),
])  # fmt: skip
def test_criteria_that_cannot_be_asked_for_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**options)
    with pytest.raises(ValidationError, match="criteria"):
        GraderSpec.model_validate({"judge": "m", "criteria": CRITERIA})


def is_repair(request: Request) -> bool:
    return len(request.body["messages"]) == 4


def test_a_reply_without_a_grade_is_asked_once_more_with_what_is_wrong() -> None:
    def answer(request: Request) -> Reply:
        return rating(4, usage=(150, 9)) if is_repair(request) else completion("Four, I would say.", usage=(100, 5))

    with OpenAIServer(answer) as server:
        frame = grade(SAMPLES, spec(server))
    assert frame["grade"].to_list() == [0.75] * 4 and frame["error"].null_count() == 4
    assert frame["prompt_tokens"].to_list() == [250] * 4 and frame["completion_tokens"].to_list() == [14] * 4
    assert len(server.requests) == 8
    first = server.requests[0].body["messages"]
    second = next(r.body["messages"] for r in server.requests if is_repair(r) and r.body["messages"][:2] == first)
    assert second[2] == {"role": "assistant", "content": "Four, I would say."}
    assert "no rating in the reply" in second[3]["content"] and '{"rating": <whole number' in second[3]["content"]


def test_a_reply_is_repaired_once() -> None:
    with OpenAIServer(lambda r: completion("still two" if is_repair(r) else "two", usage=(10, 1))) as server:
        row = grade(SAMPLES.head(1), spec(server)).row(0, named=True)
    assert len(server.requests) == 2
    assert (row["grade"], row["prompt_tokens"], row["completion_tokens"]) == (None, 20, 2)
    assert "still two" in row["error"] and not row["error"].startswith(NOT_TRIED)


def test_where_the_repair_fails_the_first_reply_stands() -> None:
    with OpenAIServer(lambda r: error(500) if is_repair(r) else completion("two", usage=(10, 1))) as server:
        row = grade(SAMPLES.head(1), spec(server)).row(0, named=True)
    assert (row["grade"], row["prompt_tokens"]) == (None, 10)
    assert "no rating in the reply: 'two'" in row["error"]


@pytest.mark.parametrize("reply", [
    completion(None, refusal="I will not judge this."),
    completion('{"rating": 4, "rea', finish="length"),
    completion(None, finish="content_filter"),
    completion(""),
    completion(None, reasoning_content="hm"),
    completion("<think>hm"),
    rating(4),
])  # fmt: skip
def test_what_would_not_change_is_not_asked_again(reply: Reply) -> None:
    with OpenAIServer(lambda r: reply) as server:
        grade(SAMPLES.head(1), spec(server))
    assert len(server.requests) == 1


def test_reasoning_is_not_shown_again_and_a_long_reply_not_whole() -> None:
    long = "x" * 10_000
    with OpenAIServer(lambda r: rating(4) if is_repair(r) else completion(f"<think>secret</think>{long}")) as server:
        assert grade(SAMPLES.head(1), spec(server))["grade"].to_list() == [0.75]
    shown = server.requests[1].body["messages"][2]["content"]
    assert "secret" not in shown and len(shown) == 2_000


def test_grades_have_the_type_that_is_declared() -> None:
    assert GRADES.schema()["criteria"] == pl.List(
        pl.Struct({"criterion": pl.String(), "rating": pl.Float64(), "reason": pl.String()})
    )
