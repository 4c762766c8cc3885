"""What the pool shares with eval sources, against brute force over words; unicode, signs and short texts."""

import random
import unicodedata

import polars as pl
import pytest

from dselect_core.corpus.sample import MESSAGES, sample_id
from dselect_core.pool.held_out import EvalSet, HeldOut, find_held_out
from dselect_core.pool.overlap import (
    HELD_OUT,
    WORDS,
    EvalSamples,
    EvalTexts,
    normalised_words,
    short_reason,
    source_of_reason,
)

Turns = list[tuple[str, str]]
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def frame(*conversations: Turns) -> pl.DataFrame:
    messages = [[{"role": role, "content": text} for role, text in turns] for turns in conversations]
    ids = [sample_id(of) for of in messages]
    table = pl.DataFrame({"sample_id": ids, "messages": pl.Series(messages, dtype=MESSAGES)})
    return table.unique("sample_id").sort("sample_id")


def pair(prompt: str, response: str) -> Turns:
    return [("user", prompt), ("assistant", response)]


def reason(pool: Turns, *of_eval: Turns) -> str | None:
    found = EvalTexts([EvalSamples("ev", frame(*of_eval))]).reasons(frame(pool))
    return found["reason"][0] if found.height else None


def brute_force(pool: Turns, of_eval: list[Turns]) -> str | None:
    """The rule as it is said, word by word."""

    def words(turns: Turns) -> list[str]:
        text = " ".join(text for _, text in turns).lower()
        return "".join(c if c.isalnum() else " " for c in text).split()

    def sequences(of: list[str]) -> set[tuple[str, ...]]:
        return {tuple(of[i : i + WORDS]) for i in range(len(of) - WORDS + 1)}

    if pool in of_eval:
        return "it is a sample of an eval source"
    if any(words(pool[:-1]) == words(each[:-1]) for each in of_eval):
        return "its prompt is that of an eval sample"
    own = sequences(words(pool))
    if any(own & (sequences(words(each[:-1])) | sequences(words(each[-1:]))) for each in of_eval):
        return f"shares {WORDS} words in a row with an eval sample"
    return None


@pytest.mark.parametrize("seed", range(8))
def test_the_rule_is_that_of_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    stock = [rng.choices(["a", "b", "c2"], k=30) for _ in range(4)]

    def text() -> str:
        # Parts of a few texts, so that long sequences recur, also inside one text and at its ends.
        start, length = rng.randrange(20), rng.choice([1, 3, 12, 13, 14, 20])
        words = rng.choice(stock)[start : start + length] + rng.choices(["a", "B"], k=rng.randrange(3))
        return rng.choice([" ", ", ", "  "]).join(words)

    of_eval = [pair(text(), text()) for _ in range(6)]
    pool = [pair(text(), text()) for _ in range(200)] + of_eval[:2]
    pool += [pair(of_eval[0][0][1].upper() + "!", text()), [*pair(text(), text()), *pair(text(), text())]]
    found = EvalTexts([EvalSamples("ev", frame(*of_eval))]).reasons(frame(*pool))
    told = {name: short_reason(why).removeprefix(HELD_OUT) for name, why in found.iter_rows()}
    for turns in pool:
        assert told.get(frame(turns)["sample_id"][0]) == brute_force(turns, of_eval), turns
    assert len(set(told.values())) == 3


@pytest.mark.parametrize(
    ("in_pool", "in_eval"),
    [
        ("Where is the STRASSE?", "where is the straße"),
        ("ﬁnd the ﬂow", "Find the flow!"),
        (unicodedata.normalize("NFD", "Où est le café"), unicodedata.normalize("NFC", "où est le CAFÉ ?")),
        ("東京は,どこ", "東京は どこ"),
        ("Say-this_now\n\tplease", "say this now please"),
        ("😀 !", "😀  !"),
    ],
)
def test_prompts_are_equal_whatever_their_case_signs_and_form(in_pool: str, in_eval: str) -> None:
    assert "its prompt is that of" in str(reason(pair(in_pool, "yes"), pair(in_eval, "no")))


def test_prompts_of_signs_alone_are_compared_as_they_are() -> None:
    assert reason(pair("😀", "yes"), pair("🙂", "yes")) is None
    assert reason(pair("?", "yes"), pair("!", "no")) is None


def test_a_system_prompt_does_not_count_and_neither_do_sequences_over_the_end_of_a_text() -> None:
    system = ("system", LONG)
    assert reason([system, *pair("red", "x")], [system, *pair("blue", "y")]) is None
    assert "its prompt" in str(reason([system, *pair("red", "x")], pair("red", "y")))
    first, rest = LONG.split()[:7], LONG.split()[7:]
    assert reason(pair("Say: " + LONG, "x"), pair(" ".join(first), " ".join(rest))) is None
    # Of a row of the pool prompt and response are one text: who quotes may begin in the one and end in the other.
    assert "shares 13 words" in str(reason(pair(" ".join(first), " ".join(rest)), pair("Say", LONG)))


def test_short_responses_that_are_equal_are_no_overlap() -> None:
    assert reason(pair("Is it red?", "Yes, it is."), pair("Is it blue?", "Yes, it is.")) is None


def test_the_first_source_and_sample_are_named() -> None:
    both = frame(pair("q one", LONG), pair("q two", LONG))
    named = EvalTexts([EvalSamples("zed", both), EvalSamples("ann", both)]).reasons(frame(pair("q", LONG)))
    why = named["reason"][0]
    assert why == f"held out: shares 13 words in a row with an eval sample (sample {both['sample_id'][0][:12]} of ann)"
    assert source_of_reason(why) == "ann"
    assert source_of_reason("held out: it is a sample of an eval source (a(b)") == "a(b"
    assert short_reason("no upd (of it)") == "no upd (of it)"


def test_a_target_source_holds_out_its_own_samples_alone() -> None:
    wanted = frame(pair("red", "x"))
    texts = EvalTexts([EvalSamples("want", wanted, is_eval=False)])
    found = texts.reasons(frame(pair("red", "x"), pair("red", "y"), pair("blue", "z")))
    assert found["reason"].to_list() == ["held out: it is a sample of a target source (want)"]
    assert found["sample_id"].to_list() == wanted["sample_id"].to_list()


def test_what_is_known_is_not_compared_again_until_the_eval_side_moves() -> None:
    pool = frame(*(pair(f"q {i}", f"a {i}") for i in range(5)))
    read: list[int] = []

    def read_texts(ids: pl.DataFrame) -> list[pl.DataFrame]:
        read.append(ids.height)
        return [pool.join(ids, on="sample_id", how="semi")]

    def find(version: str, upto: int, known: tuple[pl.DataFrame, HeldOut] | None) -> HeldOut:
        sets = [EvalSet("ev", version, frame(pair("Q 1", "?")))]
        return find_held_out(pool.head(upto), sets, known, read_texts)

    first = find("1", 4, None)
    again = find("1", 5, (pool.head(4), first))
    moved = find("2", 5, (pool, again))
    assert read == [4, 1, 5]
    assert again.rows.equals(moved.rows)
    assert again.version == moved.version
    assert again.by_source == {"ev": 1}
    assert find_held_out(pool, [], (pool, again), read_texts).compared_with is None
    assert read == [4, 1, 5]


def test_words_are_letters_and_digits() -> None:
    assert normalised_words("It's 3.5 km_h — Ａ①!") == ["it", "s", "3", "5", "km", "h", "a1"]
