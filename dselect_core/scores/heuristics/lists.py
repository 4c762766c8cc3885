"""Checks of mechanical list requests: sort, reverse, filter, remove duplicates. [ours]

The right list anywhere in the answer is enough, so an explanation around it costs nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from dselect_core.graders.heuristics.numerals import NUMBER, number
from dselect_core.graders.heuristics.request import items, wants_code
from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_WORTH = re.compile(
    r"sort|order|arrange|rank|alphabeti|reverse|duplicate|unique|even|odd|prime|divisible|than|above|below|under|over",
    re.IGNORECASE,
)
_SORT = re.compile(r"\b(?:sort|sorted|order|arrange|rank|put|alphabeti[sz]e|reorder)\b", re.IGNORECASE)
_DESCENDING = re.compile(
    r"descending|decreasing|(?:largest|greatest|biggest) to (?:smallest|least)|highest to lowest|reverse alphabetical|"
    r"z to a|(?:largest|longest) first",
    re.IGNORECASE,
)
_ASCENDING = re.compile(
    r"ascending|increasing|smallest to (?:largest|biggest)|lowest to highest|least to greatest|alphabetical|"
    r"alphabeti[sz]e|a to z|(?:smallest|shortest) first|numerical order|by length",
    re.IGNORECASE,
)
_OTHER_ORDER = re.compile(
    r"number of|frequency|date|importance|position|chronolog|population|distance|\bage\b|absolute|last letter|vowels|"
    r"digits?\b",
    re.IGNORECASE,
)
_LIST_WORD = re.compile(r"\b(?:list|items|elements|numbers|words|array|sequence)\b", re.IGNORECASE)
_DEDUPLICATE = re.compile(
    r"\b(?:remove|delete|drop|eliminate)\b.{0,20}\bduplicate|\bunique (?:elements|items|values|numbers|words)\b",
    re.IGNORECASE,
)


def wrong_list(turn: Turn) -> Finding | None:
    """A list request whose result is not in the answer."""
    question = turn.question
    if not question or not _WORTH.search(question) or wants_code(question):
        return None
    given = items(question)
    if len(given) < 3:
        return None
    for check in (_sorted, _reversed, _filtered, _deduplicated):
        if (finding := check(question, given, turn.body)) is not None:
            return finding
    return None


def _sorted(question: str, given: list[str], response: str) -> Finding | None:
    down = _DESCENDING.search(question) is not None
    up = _ASCENDING.search(re.sub(r"reverse alphabetical", "", question, flags=re.IGNORECASE)) is not None
    if not _SORT.search(question) or _OTHER_ORDER.search(question) or not (down or up):
        return None
    if re.search(r"\blength\b|\b(?:shortest|longest)\b", question, re.IGNORECASE):
        return _by_length(given, response, down)
    if down and up:
        return None
    if all(re.fullmatch(rf"-?{NUMBER}", g) for g in given):
        return _in_order(sorted(given, key=lambda g: Fraction(g.replace(",", "")), reverse=down), response)
    plain_words = all(g.isascii() and not re.search(r"\d", g) for g in given)
    if not plain_words or "alphabet" not in question.lower():
        return None
    return _in_order(sorted(given, key=str.lower, reverse=down), response)


def _seen(given: list[str], text: str) -> list[str]:
    """The given items in the order in which `text` mentions them, lower case."""
    pattern = "|".join(sorted({re.escape(g.lower()) for g in given}, key=len, reverse=True))
    return re.findall(rf"(?<![\w.-])(?:{pattern})(?![\w-]|\.\d)", text.lower())


def _windows(seen: list[str], n: int) -> list[list[str]]:
    return [seen[i : i + n] for i in range(len(seen) - n + 1)]


def _none_of_them(given: list[str]) -> Finding:
    return Finding(0.1, f"none of the items asked about ({clip(', '.join(given), 40)}) is in the answer")


def _in_order(expected: list[str], response: str, given: list[str] | None = None) -> Finding | None:
    """Whether some stretch of the answer holds exactly the expected items, of those given, in the expected order."""
    wanted = [e.lower() for e in expected]
    seen = _seen(given or expected, response)
    if not seen:
        return _none_of_them(expected)
    if wanted in _windows(seen, len(wanted)):
        return None
    return Finding(0.1, f"the list asked is {clip(', '.join(expected))}; the answer has none such")


def _by_length(given: list[str], response: str, down: bool) -> Finding | None:
    """Any order among words of one length is right."""
    seen = _seen(given, response)
    if not seen:
        return _none_of_them(given)
    wanted = Counter(g.lower() for g in given)
    lengths = sorted((len(g) for g in given), reverse=down)
    for window in _windows(seen, len(given)):
        if Counter(window) == wanted and [len(w) for w in window] == lengths:
            return None
    return Finding(0.1, "the answer has no list of the items in the order of their lengths")


def _reversed(question: str, given: list[str], response: str) -> Finding | None:
    asked = re.search(r"\breverse(?:d|s)?\b", question, re.IGNORECASE) and _LIST_WORD.search(question)
    if not asked or re.search(r"sort|alphabet|descend|each|every", question, re.IGNORECASE):
        return None
    return _in_order(given[::-1], response)


_KEEP = re.compile(
    r"\b(?:which|keep|filter|select|pick|list|find|give|extract)\b[^.\n]*?\b(?:(?P<kind>even|odd|prime)\b|"
    r"divisible by (?P<by>\d+)|(?P<way>greater|larger|bigger|more|higher|less|smaller|lower|fewer) than (?P<than>\d+)|"
    r"(?P<side>above|over|below|under) (?P<at>\d+))",
    re.IGNORECASE,
)
_MORE = {"greater", "larger", "bigger", "more", "higher", "above", "over"}


def _filtered(question: str, given: list[str], response: str) -> Finding | None:
    match = _KEEP.search(question)
    if match is None or not all(re.fullmatch(r"\d{1,9}", g) for g in given):
        return None
    if re.search(
        r"\b(?:count|how many|sum|remove|not|or|and (?:odd|even|less|greater)|largest|smallest)\b",
        question,
        re.IGNORECASE,
    ):
        return None
    expected = [g for g in given if _kept(match)(int(g))]
    if not expected:
        return None
    return _in_order(sorted(expected, key=int) if "sort" in question.lower() else expected, response, given)


def _kept(match: re.Match[str]) -> Callable[[int], bool]:
    if match["kind"]:
        kind = match["kind"].lower()
        return is_prime if kind == "prime" else lambda n: n % 2 == (kind == "odd")
    if match["by"]:
        by = int(match["by"])
        return lambda n: by != 0 and n % by == 0
    limit = number(match["than"] or match["at"])
    more = (match["way"] or match["side"]).lower() in _MORE
    return (lambda n: n > limit) if more else (lambda n: n < limit)


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _deduplicated(question: str, given: list[str], response: str) -> Finding | None:
    lowered = [g.lower() for g in given]
    distinct = Counter(set(lowered))
    if not _DEDUPLICATE.search(question) or len(distinct) == len(lowered):
        return None
    seen = _seen(lowered, response)
    if not seen:
        return _none_of_them(given)
    right = seen != lowered and any(Counter(window) == distinct for window in _windows(seen, len(distinct)))
    return None if right else Finding(0.1, f"the answer is not the {len(distinct)} distinct items")
