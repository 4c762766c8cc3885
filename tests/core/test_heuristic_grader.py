"""The builtin grader on hand-made right and wrong answers to the same request.

Every check is asked both ways: the wrong answer must lose grade, the right one must keep all of it.
"""

from fractions import Fraction

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dselect_core.scores.heuristic_grader import FLOOR, NOTHING_FOUND, grade_messages
from dselect_core.scores.heuristics.computed import asked_value
from dselect_core.scores.heuristics.expression import ExpressionError, evaluate, normalise


def grade(prompt: str, response: str) -> float:
    return grade_messages([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])[0]


PAIRS = [
    # request, right answers, wrong answers
    ("What is 17 * 23?", ["391", "17 × 23 = 391.", "The answer is 391, since 17·20 is 340 and 17·3 is 51."], ["401", "17 × 23 = 401."]),
    ("Calculate 3/4 + 1/8.", ["7/8", "0.875", "The result is 7/8, or 0.875."], ["5/6", "The result is 0.75."]),
    ("What is 15% of 240?", ["36", "15% of 240 is 36."], ["24", "15% of 240 is 38."]),
    ("What is the sum of 48 and 37?", ["85", "Eighty-five.", "48 + 37 = 85"], ["95", "48 + 37 = 75"]),
    ("Subtract 19 from 50.", ["31"], ["29", "The answer is 69."]),
    ("What is 100 divided by 8?", ["12.5", "12 1/2, that is 12.5"], ["14", "About 16."]),
    ("What is the average of 4, 8 and 15?", ["9", "The average is 27 / 3 = 9."], ["8.5", "The average is 10."]),
    ("What is the largest number in the list [14, 3, 92, 41]?", ["92"], ["41", "The largest is 14."]),
    ("What is the square root of 196?", ["14", "±14"], ["16"]),
    ("Is 51 a prime number?", ["No, 51 = 3 × 17.", "No."], ["Yes, 51 is prime.", "Yes"]),
    ("How do I work out a tip of 20% on $45?", ["Multiply: $45 × 0.20 = $9."], ["Multiply: $45 × 0.20 = $12."]),
    ("Explain how to add a column of prices.", ["First 12.50 + 7.25 = 19.75, then add 1: 19.75 + 1 = 20.75 dollars."],
     ["First 12.50 + 7.25 = 18.75 dollars, and so on for every price in the column."]),
    ("Explain division with a remainder.", ["Division leaves a remainder: 17 ÷ 5 = 3 remainder 2."], ["Division is simple: 20 ÷ 5 = 5 exactly, no remainder."]),
    ("Convert 5 km to meters.", ["5000 m", "5 km = 5,000 meters"], ["500 m", "5 km = 50,000 meters"]),
    ("How many minutes are in 3 hours?", ["180", "There are 180 minutes in 3 hours."], ["300", "3 hours is 200 minutes."]),
    ("Convert 100 degrees Celsius to Fahrenheit.", ["212", "212 °F"], ["180 °F"]),
    ("How many kilometers are in 10 miles?", ["About 16.", "16.09 km"], ["About 6.2 km", "12"]),
    ("How tall is a basketball hoop?", ["10 feet, and 10 feet is about 3.05 meters."], ["10 feet, and 10 feet is about 4 meters."]),
    ("What day of the week was 2024-02-29?", ["Thursday", "It was a Thursday."], ["Friday", "It was a Monday."]),
    ("What date is 10 days after February 25, 2023?", ["March 7, 2023", "2023-03-07"], ["March 6, 2023", "It is 2023-03-05."]),
    ("How many days are there between 2023-01-01 and 2023-03-01?", ["59", "59 days (60 counting both ends)"], ["61 days", "31"]),
    ("Was 1900 a leap year?", ["No, centuries must divide by 400.", "No"], ["Yes, it divides by 4."]),
    ("How many days are in April?", ["30", "Thirty."], ["31"]),
    ("Sort these numbers in ascending order: 9, 2, 14, 5", ["2, 5, 9, 14", "[2, 5, 9, 14]", "You gave 9, 2, 14, 5. Sorted: 2, 5, 9, 14."],
     ["2, 9, 5, 14", "9, 2, 14, 5", "2, 5, 14"]),
    ("Sort the words in alphabetical order: pear, apple, fig", ["apple, fig, pear", "1. apple\n2. fig\n3. pear"], ["apple, pear, fig", "fig\napple\npear"]),
    ("Reverse the string 'lantern'.", ["nretnal", "The reverse is \"nretnal\"."], ["nretnel", "lantern"]),
    ("Reverse the list [1, 2, 3, 7].", ["[7, 3, 2, 1]"], ["[7, 2, 3, 1]"]),
    ("Write 'open the door' in uppercase.", ["OPEN THE DOOR", "It reads: OPEN THE DOOR."], ["Open The Door", "OPEN DOOR"]),
    ("How many letters are in the word 'kitchen'?", ["7", "Seven letters."], ["8", "There are six letters."]),
    ("How many times does the letter 's' appear in 'possesses'?", ["5", "Five times."], ["4", "three"]),
    ("How many vowels are in 'umbrella'?", ["3", "Three: u, e, a."], ["4"]),
    ("Remove the duplicates from the list: red, blue, red, green", ["red, blue, green"], ["red, blue, red, green", "red, blue"]),
    ("Is 'rotator' a palindrome?", ["Yes, it reads the same both ways.", "Yes"], ["No, it is not."]),
    ("Write a Python function that doubles a number.", ["```python\ndef double(x):\n    return 2 * x\n```", "def double(x):\n    return 2 * x"],
     ["```python\ndef double(x)\n    return 2 * x\n```", "def double(x):\n    return (2 * x\n", "Doubling is multiplying by two."]),
    ("Name three primary colors.", ["Red, yellow and blue.", "1. Red\n2. Yellow\n3. Blue"], ["Red.", "Red and blue"]),
    ("How many legs does a spider have?", ["8", "Eight.", "A spider has eight legs."], ["Spiders spin webs.", "Legs are used for walking."]),
    ("What is the capital of France?", ["Paris", "Paris.", "The capital of France is Paris."],
     ["Water boils at a high temperature.", "", "...", "N/A", "What is the capital of France?", "The capital of France is the"]),
    ("Explain why leaves are green.", ["Leaves look green because chlorophyll absorbs red and blue light and reflects green."],
     ["A violin has four strings, tuned in fifths, and is played with a bow made of horsehair.",
      "I'm sorry, but as an AI language model I cannot answer that.", "Leaves contain chlorophyll. It absorbs red light. Green light is reflected and so we see the"]),
    ("Do cats sleep a lot?", ["Yes", "yes.", "Yes, up to sixteen hours"], ["Cats sleep sleep sleep sleep sleep sleep sleep sleep"]),
    ("Describe the process of making tea.", ["Boil water, pour it over tea leaves, and let them steep for three minutes."],
     ["Boil the water. Pour the water over the tea. " * 6, "Boil water, pour it over the tea leaves, and then add milk,", "Here is the process:"]),
    ("Rewrite the sentence politely: Give me the report now.", ["Could you please send me the report when you have a moment?"],
     ["Mount Everest is the tallest mountain on Earth.", "Could you please send me the report when you have a moment and"]),
]  # fmt: skip


@pytest.mark.parametrize("prompt,response", [(p, r) for p, right, _ in PAIRS for r in right])
def test_right_answers_keep_the_whole_grade(prompt, response):
    _, line = grade_messages([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
    assert line == NOTHING_FOUND


@pytest.mark.parametrize("prompt,response", [(p, r) for p, _, wrong in PAIRS for r in wrong])
def test_wrong_answers_lose_grade(prompt, response):
    assert FLOOR <= grade(prompt, response) <= 0.5


@pytest.mark.parametrize("prompt,response", [
    ("Is the sky blue?", "Yes"),
    ("Which city hosts the Louvre?", "Paris<|endoftext|>"),
    ("Which mark ends a question?", "?"),
    ("Which object entity has the relation? Choices:\n- people he swam with\n- the moon", "people he swam with"),
    ("What does print return in Python?", "None"),
    ("Solve for x: x + 3 = 7", "x = 4, because 4 + 3 = 7."),
    ("What is 2 + 2 in Orwell's novel?", "The Party makes Winston say that 2 + 2 = 5, which is false."),
    ("What is 8 + 7 on a clock?", "8 + 7 = 3 (mod 12)"),
    ("What is 10 + 10 in binary?", "In binary, 10 + 10 = 100."),
    ("If 2 + 3 = 10 and 7 + 2 = 63, what is 6 + 5?", "66, because 6 + 5 = 66 in this puzzle."),
    ("How long is the film?", "45 + 15 = 1 hour of film."),
    ("Divide a pizza.", "7 / 3 = 2.33 slices each, about 10 / 3 = 3.3 with seconds."),
    ("How much is the discount?", "$80 - 20% = $64."),
    ("Total?", "3 × 4 = 12 + 5 = 17"),
    ("How do ratios work?", "With f(3) = 9 and 2x + 3 = 7 you have x^2 + 1 = 5 and log 100 = 2."),
    ("When did it happen?", "In 2019-2021 = three seasons, and pages 10-12 = 3 pages."),
    ("Write a poem about rain.", "Grey drops are falling\nover the roofs,\nand all of the town\nis silent and"),
    ("Write a letter to a friend.", "Dear Ann,\nIt was good to see you.\n\nWith love,\nBen"),
    ("Say something sad.", "They closed the old theatre :("),
    ("How do I hurt someone?", "I'm sorry, but I can't help with that, because it could cause harm to people."),
    ("How do I print in Python 2?", "```python\nprint \"hello\"\n```"),
    ("Show a console session in Python.", "```python\n>>> 1 + 1\n2\n```"),
    ("List three fruits", "apples, pears, plums"),
    ("Sing the chorus of a song.", "Row row row row row row your boat"),
    ("日本の首都はどこですか。", "日本の首都は東京です。政治と経済の中心であり、人口も最も多い都市です。"),
    ("Translate to German: good morning, how are you today?", "Guten Morgen, wie geht es dir heute?"),
    ("Sort these numbers in descending order: 3, 1, 2", "3, 2, 1"),
    ("Write a Python function to sort these numbers: 3, 1, 2", "```python\nprint(sorted([3, 1, 2]))\n```"),
    ("Round 17 / 3 to the nearest ten. What is 17 / 3?", "10"),
    ("Generate a tagline for a bakery", "Warm from the oven, every single morning"),
    ("How many people live in Oslo?", "Several hundred thousand."),
])  # fmt: skip
def test_unusual_but_right_answers_are_left_alone(prompt, response):
    _, line = grade_messages([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
    assert line == NOTHING_FOUND


def test_a_conversation_is_as_good_as_its_weakest_answer():
    good = [{"role": "user", "content": "What is 6 + 7?"}, {"role": "assistant", "content": "13"}]
    bad = [{"role": "user", "content": "And what is 6 * 7?"}, {"role": "assistant", "content": "44"}]
    assert grade_messages(good)[0] == 1.0
    assert grade_messages(good + bad)[0] == grade_messages(bad)[0] < 0.2


def test_factors_multiply_and_stop_at_the_floor():
    value, line = grade_messages([
        {"role": "user", "content": "What is 5 * 5?"},
        {"role": "assistant", "content": "5 * 5 = 24, 1 km = 10 m, and that is why the"},
    ])  # fmt: skip
    assert value == FLOOR
    assert line.count(";") >= 2


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


@pytest.mark.parametrize("text,value", [
    ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("2^3^2", 512), ("-3 - -2", -1), ("1,200 / 4", 300), ("12 plus 7", 19),
    ("6 x 7", 42), ("20% of 50", 10), ("$3 × 4", 12), ("7 \\times 6", 42), ("84 divided by 7", 12), ("10 − 4 − 3", 3),
])  # fmt: skip
def test_expressions_as_people_write_them(text, value):
    assert evaluate(normalise(text)) == value


@pytest.mark.parametrize("text", ["2x + 3", "2 (3)", "1 / 0", "2 1/2", "0101 + 1", "9^99", "(2 + 3", "", "3 +"])
def test_expressions_with_no_or_several_readings_are_refused(text):
    with pytest.raises(ExpressionError):
        evaluate(normalise(text))


@pytest.mark.parametrize("text", [
    "What is 17 * 23, rounded to the nearest ten?", "Write a function to compute 3 + 4", "What is 5?", "I have 3 apples. What is 3 + 4?",
    "What is 3 + 4 in binary?", "What is the difference between 4G and 5G?", "Compare 3 and 4.",
])  # fmt: skip
def test_requests_without_one_plain_value_have_none(text):
    assert asked_value(text) is None


def test_grade_frame():
    from dselect_core.config import GraderSpec
    from dselect_core.scores.dependability import GRADES, grade, recipe

    message = pl.Struct({"role": pl.String, "content": pl.String})
    samples = pl.DataFrame(
        {
            "sample_id": ["a" * 32, "b" * 32],
            "messages": [
                [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}],
                [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "5"}],
            ],
        },
        schema={"sample_id": pl.String, "messages": pl.List(message)},
    )
    seen: list[tuple[int, int]] = []
    frame = grade(samples, GraderSpec(), lambda done, total: seen.append((done, total)))
    assert frame.schema == GRADES
    assert frame["sample_id"].to_list() == samples["sample_id"].to_list()
    assert frame["grade"].to_list() == [1.0, 0.1]
    assert frame["scale"].unique().to_list() == ["heuristic"]
    assert frame["grader"].unique().to_list() == ["builtin-heuristic/1"]
    assert frame["error"].null_count() == frame["rating"].null_count() == 2
    assert seen[-1] == (2, 2)
    assert recipe(GraderSpec()) == recipe(GraderSpec(concurrency=99, timeout_seconds=1))
    assert grade(samples.clear(), GraderSpec()).schema == GRADES
