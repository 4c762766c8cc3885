"""The log-probabilities in a chat completion → yes and no at the first token of the judge's answer (yes_no.py).

An endpoint lists the likeliest tokens only. What it does not list is at most as probable as the last that it lists, so
it is known by how much a grade can be wrong: above MOST_DOUBT there is none.

The tokens may begin with reasoning, which is passed over as in the text (judge_reply.py), and so is white space. They
must then be those of the answer. A first token that belongs to a sentence is what it is: yes and no have no share of
it. Only a reply that is cut has no grade where more than the word came, for that may be the beginning of reasoning.
"""

import math
import re
from itertools import accumulate
from typing import Any

from dselect_core.graders.judge_reply import NotACompletionError, begin_of_answer, shorten
from dselect_core.graders.yes_no import NO, YES, outcome, spellings, summed

MOST_DOUBT = 0.05
"""By which a grade may be wrong because of tokens that are not listed."""
# How servers that hand out raw pieces write a space.
_RAW_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
_FORMS = 2 * len(spellings(YES))  # with and without the space in front
_ONE_WORD = re.compile(r"\W*\w+\W*")
_COMPARED = 24  # characters of the answer that the tokens must begin with


class NoLogprobsError(NotACompletionError):
    """A completion without log-probabilities: the endpoint cannot grade on this scale."""


def read_yes_no(text: str, choice: dict[str, Any], *, cut: bool) -> dict[str, Any]:
    """The columns of a judgement, from the text of the reply and its choice. cut: the reply did not end by itself.

    Raises NoLogprobsError, and ValueError where the answer is empty, cut, or not that of the log-probabilities.
    """
    answer = text[begin_of_answer(text) :].strip()
    if not answer:
        raise ValueError("no answer in the reply: nothing follows the reasoning")
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not tokens:  # before it counts that it was cut: of all replies they lack
        raise NoLogprobsError("the reply holds no log-probabilities")
    if cut and not _ONE_WORD.fullmatch(answer):
        raise ValueError(f"the reply was cut: {shorten(answer)!r}")
    listed = _listed(_first_token(tokens, answer))
    of = {word: [p for token, p in listed if token.strip() in spellings(word)] for word in (YES, NO)}
    yes, no = summed(of[YES]), summed(of[NO])
    found = outcome(yes, no)
    if "grade" in found and (doubt := _doubt(listed, of)) > MOST_DOUBT:
        said = f"the endpoint lists {len(listed)} tokens, which leave the grade in doubt by {doubt:.2f}"
        return {**found, "grade": None, "error": said}
    return found


def _first_token(tokens: list[Any], answer: str) -> dict[str, Any]:
    """The entry of the answer's first token that is not white space. Raises ValueError."""
    if not all(isinstance(token, dict) and isinstance(token.get("token"), str) for token in tokens):
        raise ValueError("the log-probabilities of the reply name no tokens")
    pieces = [token["token"].translate(_RAW_SPACES) for token in tokens]
    written = "".join(pieces)
    begin = begin_of_answer(written)
    begin += len(written[begin:]) - len(written[begin:].lstrip())
    # Half a character in a token is written in many ways, so only what stands before the first such one is compared.
    start = re.match(r"[\x00-\x7f]*", answer[:_COMPARED])
    if start is None or not start[0] or not written.startswith(start[0], begin):
        raise ValueError(f"the log-probabilities are not those of the answer {shorten(answer)!r}")
    ends = accumulate(map(len, pieces))
    first: dict[str, Any] = next(token for token, end in zip(tokens, ends, strict=True) if end > begin)
    return first


def _listed(entry: dict[str, Any]) -> list[tuple[str, float]]:
    """Tokens with their log-probabilities, each once: what was chosen, and the likeliest."""
    top = entry.get("top_logprobs")
    if not isinstance(top, list) or not top:
        raise NoLogprobsError("the reply holds no `top_logprobs`")
    # Two tokens may be written alike; the same token named twice has the same number too.
    found: dict[tuple[str, float], None] = {}
    for each in (*top, entry):
        token, logprob = (each.get("token"), each.get("logprob")) if isinstance(each, dict) else (None, None)
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            raise ValueError(f"a log-probability of the reply is none: {shorten(repr(each))}")
        found[token.translate(_RAW_SPACES), float(logprob)] = None
    return list(found)


def _doubt(listed: list[tuple[str, float]], of: dict[str, list[float]]) -> float:
    """The most by which the grade changes when the spellings that are not listed are as probable as they can be."""
    rest = max(0.0, 1 - sum(math.exp(p) for _, p in listed))
    lowest = math.exp(min(p for _, p in listed))
    yes, no = (sum(map(math.exp, of[word])) for word in (YES, NO))
    more_yes, more_no = (min(rest, lowest * max(0, _FORMS - len(of[word]))) for word in (YES, NO))
    grade = yes / (yes + no)
    return max(grade - yes / (yes + no + more_no), (yes + more_yes) / (yes + more_yes + no) - grade)
