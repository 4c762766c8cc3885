"""What a request to an endpoint says, and how it is said another way where the endpoint refuses: over HTTP."""

import datetime
import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from dselect_core.graders.grades import grade, grader_provenance
from dselect_core.settings.grader_spec import GraderSpec
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating
from tests.tiny import samples_frame

SAMPLES = samples_frame(
    [[{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}] for i in range(5)]
)


def spec(server: OpenAIServer, **options: object) -> GraderSpec:
    return GraderSpec.model_validate(
        {"base_url": server.base_url, "model": "judge-1", "max_retries": 0, "concurrency": 1, **options}
    )


def no_temperature(request: Request) -> Reply:
    """As models that reason refuse it."""
    if "temperature" in request.body:
        return Reply(
            {"error": {"message": "Unsupported value", "param": "temperature", "code": "unsupported_value"}}, 400
        )
    return rating(4)


def test_a_model_that_takes_no_temperature_is_asked_without_from_then_on() -> None:
    with OpenAIServer(no_temperature) as server:
        frame = grade(SAMPLES, spec(server))
    assert frame["grade"].to_list() == [0.75] * 5
    assert ["temperature" in request.body for request in server.requests] == [True] + [False] * 5
    assert all("response_format" in request.body for request in server.requests)


def test_every_refusal_at_once_is_got_over() -> None:
    """A model that reasons, behind a server without formats of the reply: a schema and JSON are formats."""

    def answer(request: Request) -> Reply:
        if "max_tokens" in request.body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "response_format" in request.body:
            return error(422, "extra fields not permitted: response_format")
        return no_temperature(request)

    with OpenAIServer(answer) as server:
        frame = grade(SAMPLES, spec(server, max_tokens=4000))
    assert frame["grade"].to_list() == [0.75] * 5
    assert len(server.requests) == 5 + 4
    assert set(server.requests[-1].body) == {"model", "messages", "max_completion_tokens"}
    assert server.requests[-1].body["max_completion_tokens"] == 4000


def test_once_it_answers_a_refused_row_is_asked_once() -> None:
    """It is the row that is refused then, and not the way of asking."""
    with OpenAIServer(lambda r: error(400, "too long") if "question 3" in r.text else rating(4)) as server:
        frame = grade(SAMPLES, spec(server))
    assert frame["grade"].null_count() == 1
    assert sum("question 3" in request.text for request in server.requests) == (1 if position("question 3") else 2)


def position(text: str) -> int:
    return [text in str(messages) for messages in SAMPLES["messages"].to_list()].index(True)


def test_a_row_that_speaks_of_temperature_is_not_taken_for_its_refusal() -> None:
    body = {"error": {"message": "context too long: '…set temperature to 0…'", "param": "messages", "code": None}}
    with OpenAIServer(lambda r: Reply(body, 400) if r is server.requests[1] else rating(4)) as server:
        grade(SAMPLES, spec(server))
    assert all("temperature" in request.body for request in server.requests)


def test_no_temperature_is_sent_where_the_settings_say_null() -> None:
    with OpenAIServer(lambda r: rating(4)) as server:
        own = spec(server, temperature=None)
        grade(SAMPLES, own)
    assert not any("temperature" in request.body for request in server.requests)
    assert grader_provenance(own) != grader_provenance(spec(server))


@pytest.mark.parametrize("message,expected", [
    ({"content": '{"rating": 4, "reason": "x"}', "reasoning_content": '{"rating": 1}'}, 0.75),
    ({"content": '{"rating": 4, "reason": "x"}', "reasoning": '{"rating": 1}'}, 0.75),
    ({"content": '<think>{"rating": 1}</think>{"rating": 4}'}, 0.75),
    ({"content": '{"rating": 1}</think>{"rating": 4}'}, 0.75),
    ({"content": None, "reasoning_content": '{"rating": 1}'}, "only reasoning"),
    ({"content": "", "reasoning": '{"rating": 1}'}, "only reasoning"),
    ({"content": '<think>{"rating": 1}'}, "only reasoning"),
    ({"content": "\n", "reasoning_content": '{"rating": 1}'}, "no rating"),
])  # fmt: skip
def test_reasoning_is_never_the_answer(message: dict[str, Any], expected: float | str) -> None:
    text = message.pop("content")
    with OpenAIServer(lambda r: completion(text, **message)) as server:
        row = grade(SAMPLES.head(1), spec(server)).row(0, named=True)
    if isinstance(expected, float):
        assert row["grade"] == expected
    else:
        assert row["grade"] is None and expected in row["error"]


def test_reasoning_that_takes_all_tokens_says_which_setting_helps() -> None:
    with OpenAIServer(lambda r: completion(None, finish="length", reasoning_content="hm")) as server:
        row = grade(SAMPLES.head(1), spec(server)).row(0, named=True)
    assert row["grade"] is None and "grader.max_tokens" in row["error"]


EXTRA = {"reasoning_effort": "low", "seed": 7, "chat_template_kwargs": {"enable_thinking": False}, "stop": ["\n\n"]}


def test_extra_parameters_are_in_the_body_as_they_are() -> None:
    with OpenAIServer(lambda r: rating(4)) as server:
        grade(SAMPLES.head(1), spec(server, extra=EXTRA))
        grade(SAMPLES.head(1), spec(server))
    with_extra, without = (request.body for request in server.requests)
    assert with_extra == without | EXTRA


def test_extra_parameters_are_part_of_the_provenance_where_there_are_any() -> None:
    def made(**options: object) -> str:
        base = {"base_url": "http://a/v1", "model": "m"}
        return json.dumps(grader_provenance(GraderSpec.model_validate(base | options)), sort_keys=True)

    assert made() == made(extra={})
    assert len({made(), made(extra=EXTRA), made(extra=EXTRA | {"seed": 8})}) == 3
    assert made(extra={"a": 1, "b": 2}) == made(extra={"b": 2, "a": 1})


@pytest.mark.parametrize("extra,said", [
    ({"temperature": 1}, "set `grader.temperature` instead"),
    ({"max_completion_tokens": 9}, "set `grader.max_tokens` instead"),
    ({"top_logprobs": 3}, "set `grader.scale` instead"),
    ({"messages": []}, "`messages` is set by the grader itself: it cannot be set"),
    ({"stream": True}, "it cannot be set"),
    ({"n": 2}, "it cannot be set"),
    ({"response_format": {"type": "text"}}, "it cannot be set"),
    ({"api_key": "sk-1"}, "grader.api_key"),
    ({"since": datetime.date(2026, 1, 1)}, "no JSON value"),
    ({"top_p": math.nan}, "no JSON value"),
])  # fmt: skip
def test_parameters_that_cannot_be_extra_are_refused(extra: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GraderSpec.model_validate({"model": "m", "extra": extra})
    assert said in str(caught.value) and next(iter(extra)) in str(caught.value)


def test_extra_parameters_of_a_model_that_runs_here_are_refused() -> None:
    with pytest.raises(ValidationError, match="`extra`: read by an endpoint's grader only"):
        GraderSpec.model_validate({"judge": "m", "extra": {"seed": 1}})
