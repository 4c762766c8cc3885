"""`scale: probability` of an endpoint: log-probabilities over HTTP, against the same judge run here."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.graders.grades import grade, grader_provenance
from dselect_core.graders.judge_logprobs import read_yes_no
from dselect_core.graders.judge_prompt import PROBABILITY
from dselect_core.settings.grader_spec import GraderSpec
from tests.local_graders import save_judge
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, token, with_logprobs, yes_or_no
from tests.tiny import samples_frame

TURNS = [
    [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}] for i in range(6)
]


def spec(server: OpenAIServer, **options: object) -> GraderSpec:
    return GraderSpec.model_validate(
        {"base_url": server.base_url, "model": "judge-1", "scale": "probability", "max_retries": 0, **options}
    )


def one(reply: Reply, **options: object) -> dict[str, Any]:
    with OpenAIServer(lambda request: reply) as server:
        return grade(samples_frame(TURNS[:1]), spec(server, **options)).row(0, named=True)


def test_what_is_asked_and_what_is_kept() -> None:
    with OpenAIServer(lambda request: yes_or_no({"yes": 0.7, "no": 0.2, "Yes": 0.05, "well": 0.01})) as server:
        row = grade(samples_frame(TURNS[:1]), spec(server)).row(0, named=True)
    sent = server.requests[0].body
    assert (sent["logprobs"], sent["top_logprobs"], "response_format" in sent) == (True, 20, False)
    assert sent["messages"][1]["content"].endswith(PROBABILITY.reminder)
    assert row["grade"] == pytest.approx(0.75 / 0.95)
    assert math.exp(row["logprob_yes"]) == pytest.approx(0.75) and math.exp(row["logprob_no"]) == pytest.approx(0.2)
    assert (row["scale"], row["grader"], row["rating"], row["error"]) == ("probability", "judge-1", None, None)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (100, 10)


def test_all_spellings_count_once_each() -> None:
    forms = {
        "yes": 0.1,
        " yes": 0.1,
        "Yes": 0.1,
        " Yes": 0.1,
        "YES": 0.1,
        "▁yes": 0.05,
        "no": 0.1,
        "ĠNo": 0.1,
        "nope": 0.2,
    }
    assert one(yes_or_no(forms))["grade"] == pytest.approx(0.55 / 0.75)


def test_it_is_the_grade_of_the_same_judge_run_here(tmp_path: Path) -> None:
    """A server that runs the very model answers; the grades are those of `judge:`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_judge(tmp_path / "judge", louder=8.0)
    model, own = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def answer(request: Request) -> Reply:
        text = own.apply_chat_template(request.body["messages"], tokenize=False, add_generation_prompt=True)
        ids = own(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        logprobs = torch.log_softmax(model(input_ids=ids).logits[0, -1].double(), 0)
        best = logprobs.topk(request.body["top_logprobs"])
        top = {own.decode([i]): value for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)}
        said = next(iter(top))
        return with_logprobs(said, [token(said, top[said], top)], finish="length")

    here = grade(samples_frame(TURNS), GraderSpec(judge=str(folder)))
    with OpenAIServer(answer) as server:
        there = grade(samples_frame(TURNS), spec(server, max_tokens=1))
    assert there["error"].to_list() == [None] * len(TURNS)
    assert here["grade"].n_unique() == len(TURNS)
    # The endpoint lists 20 of 420 tokens; the others are the difference.
    assert there["grade"].to_list() == pytest.approx(here["grade"].to_list(), abs=2e-3)
    assert there["logprob_yes"].to_list() == pytest.approx(here["logprob_yes"].to_list(), abs=1e-2)


YES = {"yes": math.log(0.8), "no": math.log(0.15), "a": math.log(1e-5)}


def first(text: str) -> dict[str, Any]:
    top = {text if word == "yes" else word: p for word, p in YES.items()}
    return token(text, top[text], top)


@pytest.mark.parametrize("content,pieces,cut", [
    ("yes", ["yes"], False),
    ("yes", ["yes", "<|im_end|>"], False),
    (" yes.", [" yes", "."], False),
    ("\n\nyes", ["\n\n", "yes"], False),
    ("yes", ["yes"], True),
    ("yes, it is", ["yes", ",", " it", " is"], False),
    ("<think>no?</think>\n\nyes", ["<think>", "no", "?", "</think>", "\n\n", "yes"], False),
    # The server keeps the reasoning apart, and lists its tokens all the same.
    ("yes", ["<think>", "yes", "</think>", "\n", "yes"], False),
    ("yes", ["no", "</think>", "yes"], False),
    ("yes", ["<|channel|>", "analysis", "<|message|>", "no", "<|channel|>", "final", "<|message|>", "yes"], False),
    ("yes 東", ["yes", " \ufffd", "\ufffd"], False),
])  # fmt: skip
def test_the_first_token_of_the_answer_is_found(content: str, pieces: list[str], cut: bool) -> None:
    # Only the last token that says yes has these probabilities; those before it would give another grade.
    at = max(i for i, piece in enumerate(pieces) if piece.strip() == "yes")
    other = {"no": math.log(0.9), "yes": math.log(0.1)}
    tokens = [first(piece) if i == at else token(piece, -1.0, other) for i, piece in enumerate(pieces)]
    found = read_yes_no(content, {"logprobs": {"content": tokens}}, cut=cut)
    assert found["grade"] == pytest.approx(0.8 / 0.95)


@pytest.mark.parametrize("reply,reason", [
    (yes_or_no({"Well": 0.99, "yes": 0.005}), "neither yes nor no: together they have 0.50%"),
    (yes_or_no({"I": 0.6, "The": 0.4}), "neither yes nor no"),
    # What is not listed may be as likely as the last that is.
    (yes_or_no({"yes": 0.3, "well": 0.25, "I": 0.25}), "lists 3 tokens, which leave the grade in doubt"),
    (with_logprobs("yes", [token("yes", -0.1, {"yes": -0.1})]), "in doubt by 0.10"),
    (with_logprobs("yes", [token("no", -0.1, YES)]), "not those of the answer 'yes'"),
    (with_logprobs("<think>yes", [first("yes")]), "only reasoning"),
    (with_logprobs("<think>hm</think> ", [first("yes")]), "nothing follows the reasoning"),
    (with_logprobs("", [first("yes")], reasoning_content="yes"), "only reasoning"),
    (with_logprobs("no, wait, the", [token("no", -0.1, YES)], finish="length"), "cut at 256 tokens"),
    (with_logprobs("yes", [token("yes", -0.1, {"yes": float("nan")})]), "not finite"),
    (with_logprobs("yes", [token("yes", 3.0, {"yes": 3.0, "no": -1.0})]), "above 1"),
    (with_logprobs("yes", [token("yes", -0.1, {"yes": "0.1"})]), "is none"),  # type: ignore[dict-item]
    (with_logprobs("yes", [{"token": 4}]), "name no tokens"),
    (completion(None, refusal="I will not judge this."), "refused"),
])  # fmt: skip
def test_no_grade_is_made_up(reply: Reply, reason: str) -> None:
    row = one(reply)
    assert row["grade"] is None and reason in row["error"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (100, 10)


@pytest.mark.parametrize("reply", [
    completion("yes"),
    with_logprobs("yes", []),
    with_logprobs("yes", [token("yes", -0.1)]),
    error(400, "logprobs are not supported with this model", "unsupported_parameter"),
])  # fmt: skip
def test_an_endpoint_without_log_probabilities_ends_the_grading_at_once(reply: Reply) -> None:
    with OpenAIServer(lambda request: reply) as server, pytest.raises(DselectError, match=r"grader\.scale") as caught:
        grade(pl.concat([samples_frame(TURNS)] * 50), spec(server, concurrency=1))
    assert server.base_url in str(caught.value) and "judge-1" in str(caught.value)
    assert len(server.requests) <= 6  # two rows and the small question, where it refuses each in two ways


def test_an_endpoint_that_lists_fewer_tokens_is_asked_for_fewer() -> None:
    def answer(request: Request) -> Reply:
        if request.body["top_logprobs"] > 5:
            return error(400, "top_logprobs must be at most 5")
        return yes_or_no({"yes": 0.9, "no": 0.09, "a": 1e-3})

    with OpenAIServer(answer) as server:
        frame = grade(samples_frame(TURNS), spec(server, concurrency=1))
    assert frame["error"].null_count() == len(TURNS)
    assert len(server.requests) == len(TURNS) + 1


def test_a_row_without_log_probabilities_among_others_is_that_row_alone() -> None:
    def answer(request: Request) -> Reply:
        return completion("yes") if "question 2" in request.text else yes_or_no({"yes": 0.9, "no": 0.09, "a": 1e-3})

    with OpenAIServer(answer) as server:
        frame = grade(samples_frame(TURNS), spec(server, concurrency=1))
    assert frame["error"].to_list().count(None) == len(TURNS) - 1
    assert frame["error"].drop_nulls().to_list() == ["the reply holds no log-probabilities"]


def test_provenance_and_settings() -> None:
    endpoint = {"base_url": "http://a/v1", "model": "m"}
    rating, probability = (
        grader_provenance(GraderSpec.model_validate({**endpoint, "scale": scale}))
        for scale in ("rating", "probability")
    )
    assert rating == grader_provenance(GraderSpec.model_validate(endpoint))
    assert probability["scale"] == "probability" and probability["rubric"] != rating["rubric"]
    with pytest.raises(ValidationError, match="scale"):
        GraderSpec.model_validate({"reward_model": "m", "scale": "probability"})


def test_provenances_of_endpoints_are_those_of_before() -> None:
    """But for the limit of an answer, which they held: such stores are read all the same (test_same_answers.py)."""
    endpoint = grader_provenance(GraderSpec.model_validate({"base_url": "http://a/v1", "model": "m"}))
    assert fingerprint(endpoint | {"max_tokens": 256}) == "5c4a13d0367a4cc38ce0af8f222a1631"
