"""The builtin grader on hand-made right and damaged answers to the same request.

Every check is tested both ways: the damaged answer must lose grade, the right one must keep all of it.
"""

import time
from fractions import Fraction
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dselect_core.graders.heuristic_grader import FLOOR, NAME, NOTHING_FOUND, grade_messages
from dselect_core.graders.heuristics.expression import ExpressionError, evaluate, normalise


def grade(prompt: str, response: str) -> float:
    return grade_messages([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])[0]


CASES = yaml.safe_load(Path(__file__).with_name("heuristic_pairs.yaml").read_text("utf-8"))


def cases(kind: str) -> list[tuple[str, str]]:
    return [(pair["ask"], answer) for pair in CASES["pairs"] for answer in pair[kind]]


@pytest.mark.parametrize(("prompt", "response"), cases("right"))
def test_right_answers_keep_the_whole_grade(prompt, response):
    _, line = grade_messages([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
    assert line == NOTHING_FOUND


@pytest.mark.parametrize(("prompt", "response"), cases("wrong"))
def test_wrong_answers_lose_grade(prompt, response):
    assert FLOOR <= grade(prompt, response) <= 0.5


@pytest.mark.parametrize(("prompt", "response"), [(case["ask"], case["answer"]) for case in CASES["left_alone"]])
def test_unusual_but_right_answers_are_left_alone(prompt, response):
    _, line = grade_messages([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
    assert line == NOTHING_FOUND


def test_a_conversation_is_as_good_as_its_weakest_answer():
    good = [{"role": "user", "content": "What is 6 + 7?"}, {"role": "assistant", "content": "13"}]
    bad = [{"role": "user", "content": "And what is 6 * 7?"}, {"role": "assistant", "content": "6 * 7 = 44"}]
    assert grade_messages(good)[0] == 1.0
    assert grade_messages(good + bad)[0] == grade_messages(bad)[0] < 0.2


TRIAL = "12*3 = 35? No, 12*3 = 36."


@pytest.mark.parametrize(("response", "value"), [
    (f"<think>\n{TRIAL}\n</think>\n\n36", 1.0),
    (f"<think>{TRIAL}</think>The answer is 36.", 1.0),
    (f"<s> <think>{TRIAL}</think>36</s>", 1.0),
    (f"{TRIAL}\n</think>\n\n36", 1.0),  # the template wrote the beginning
    (f"[THINK]{TRIAL}[/THINK]36", 1.0),
    (f"◁think▷{TRIAL}◁/think▷36", 1.0),
    ("<think>Sure.</think>12*3 = 35", 0.15),
    (f"<think>{TRIAL}", 0.05),
    ("<think>It is 36.</think>", 0.05),
    ("<think>It is 36.</think>\n<|im_end|>", 0.05),
    ("A model writes <think> first and </think> after.\nSo 12*3 = 35.", 0.15),
    ("Reasoning ends with </think>, and 12*3 = 35.", 0.15),
])  # fmt: skip
def test_reasoning_is_no_part_of_the_answer(response, value):
    assert grade("What is 12 * 3?", response) == value


def test_factors_multiply_and_stop_at_the_floor():
    value, line = grade_messages([
        {"role": "user", "content": "What is 5 * 5?"},
        {"role": "assistant", "content": "5 * 5 = 24, and that is why the"},
    ])  # fmt: skip
    assert value == FLOOR
    assert line.count(";") == 1


_number = st.integers(0, 5000)


@settings(max_examples=200, deadline=None)
@given(_number, _number, st.sampled_from("+-*×"), st.integers(1, 400))
def test_true_equations_pass_and_false_ones_do_not(a, b, op, off):
    truth = {"+": a + b, "-": a - b}.get(op, a * b)
    prompt = "Show me a worked example."
    assume((truth + off) % 1000)  # a round product may be meant as one
    assert grade(prompt, f"For example, {a:,} {op} {b:,} = {truth:,}.") == 1.0
    assert grade(prompt, f"For example, {a:,} {op} {b:,} = {truth + off:,}.") < 0.5


@settings(max_examples=100, deadline=None)
@given(_number, st.integers(1, 500), st.integers(0, 6))
def test_rounded_and_cut_quotients_pass(a, b, places):
    cut = int(Fraction(a, b) * 10**places) / 10**places
    for stated in (f"{a / b:.{places}f}", f"{cut:.{places}f}"):
        assert grade("Show me a worked example.", f"For example, {a} ÷ {b} = {stated}.") == 1.0


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_has_a_grade(prompt, response):
    assert FLOOR <= grade(prompt, response) <= 1.0


@pytest.mark.parametrize(
    "text",
    [
        "1+" * 30000, "(" * 30000, "9" * 30000 + " + 1 = 2", "1,111" * 9000, "3 km is " + " " * 30000 + "4",
        "\n" * 30000 + "x", "<|endoftext|>" * 3000 + "x", "9^64^64 = 1", "*".join(["999999999"] * 3000) + " = 5",
        "two and " * 9000, "```" * 9999,
    ],
)  # fmt: skip
def test_no_text_is_slow_or_breaks_a_check(text):
    started = time.perf_counter()
    for prompt, response in (("What is 2 + 2?", text), (text, "It is four, I think"), (text[:399], text)):
        assert FLOOR <= grade(prompt, response) <= 1.0
    assert time.perf_counter() - started < 5


SPECIAL_TOKENS = [
    "<|endoftext|>", "</s>", "<|im_end|>", "<|eot_id|>", "<eos>", "<pad>", "[EOS]", "<end_of_turn>", "<|END_OF_TURN|>",
    "<｜end▁of▁sentence｜>", "<unk>", "<sep>", "[UNK]", "[PAD]", "[/INST]",
]  # fmt: skip


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_are_no_part_of_an_answer(token):
    prompt = "Which city hosts the Louvre?"
    assert grade(prompt, token) == grade(prompt, f" {token}\n{token}{token}") == FLOOR
    assert grade(prompt, f"<s> Paris {token}{token}\n") == 1.0
    cut = "The Louvre is in Paris. It was a palace. It is now a museum that shows the"
    assert grade(prompt, f"{cut}{token}") == grade(prompt, cut) < 0.5


@pytest.mark.parametrize(("text", "value"), [
    ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("2^3^2", 512), ("-3 - -2", -1), ("1,200 / 4", 300), ("12 plus 7", 19),
    ("6 x 7", 42), ("20% of 50", 10), ("$3 × 4", 12), ("7 \\times 6", 42), ("84 divided by 7", 12), ("10 − 4 − 3", 3),
])  # fmt: skip
def test_expressions_as_people_write_them(text, value):
    assert evaluate(normalise(text)) == value


@pytest.mark.parametrize("text", ["2x + 3", "2 (3)", "1 / 0", "2 1/2", "0101 + 1", "9^99", "(2 + 3", "", "3 +"])
def test_expressions_with_no_or_several_readings_are_refused(text):
    with pytest.raises(ExpressionError):
        evaluate(normalise(text))


def test_grade_frame():
    from dselect_core.graders.grades import GRADES, grade, grader_provenance
    from dselect_core.settings.grader_spec import GraderSpec

    message = pl.Struct({"role": pl.String, "content": pl.String})
    samples = pl.DataFrame(
        {
            "sample_id": ["a" * 32, "b" * 32],
            "messages": [
                [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "2 + 2 = 4"}],
                [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "2 + 2 = 5"}],
            ],
        },
        schema={"sample_id": pl.String, "messages": pl.List(message)},
    )
    reports: list[tuple[int, int]] = []
    frame = grade(samples, GraderSpec(), lambda done, total, reused=0: reports.append((done, total)))
    assert frame.schema == GRADES.schema()
    assert frame["sample_id"].to_list() == samples["sample_id"].to_list()
    assert frame["grade"].to_list() == [1.0, 0.15]
    assert frame["scale"].unique().to_list() == ["heuristic"]
    assert frame["grader"].unique().to_list() == [NAME] == ["builtin-heuristic/3"]
    assert frame["error"].null_count() == frame["rating"].null_count() == 2
    assert reports[-1] == (2, 2)
    assert grader_provenance(GraderSpec()) == grader_provenance(GraderSpec(concurrency=99, timeout_seconds=1))
    assert grade(samples.clear(), GraderSpec()).schema == GRADES.schema()


def test_a_trial_and_its_correction_in_thinking_is_no_claim_of_the_answer() -> None:
    thought = "<think>12*3 = 35? No: 12*3 = 36.</think>\n\n"
    asked = {"role": "user", "content": "What is 12*3?"}
    grades = [
        grade_messages([asked, {"role": "assistant", "content": text}])[0]
        for text in (thought + "12*3 = 36.", "12*3 = 36.", thought + "12*3 = 35.", "12*3 = 35.")
    ]
    assert grades[0] == grades[1] == 1.0
    assert grades[2] == grades[3] < 0.5
