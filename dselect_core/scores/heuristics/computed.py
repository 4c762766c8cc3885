"""Checks of requests whose value can be computed: sums, percentages, means, linear equations, yes-or-no about a number.

The whole request has to be understood, operands and all; a request with anything left over (more numbers, another
form of the result) is not judged. [ours]
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from dselect_core.graders.heuristics import expression
from dselect_core.graders.heuristics.expression import SIDE, ExpressionError, evaluate, has_operator
from dselect_core.graders.heuristics.numerals import NUMBER, matches, number, numbers_in
from dselect_core.graders.heuristics.turn import Finding, Turn, clip, says_yes
from dselect_core.scores.heuristics.lists import is_prime

# Each pattern is matched against the whole request, operators already normalised.
_N = rf"(-?[$€£]?{NUMBER})"
_ASK = (
    r"(?:(?:please|hi|hello|hey|and|now|so|can you|could you|tell me|help me)[,!.]?\s+)*(?:what(?:'s|’s| is| are| does|"
    r" would be| do you get (?:when|if) you)?|calculate|compute|evaluate|how much (?:is|are)|solve|find|work out|"
    r"determine|give me|give|simplify)?\s*(?:the\s+)?(?:(?:value|result|answer|solution)\s+(?:of|to|when)\s+)?:?\s*"
)
_END = r"\s*(?:=|equals?|equal to|make|give)?\s*(?:\?|\.|!|$)(?P<rest>.*)$"


def _numbers(match: re.Match[str]) -> list[Fraction]:
    return [number(re.sub(r"[$€£]", "", g)) for g in match.groups()[:-1] if g]


def _root(values: list[Fraction]) -> Fraction | None:
    top = values[0]
    root = Fraction(math.isqrt(int(top))) if top >= 0 and top.denominator == 1 else None
    return root if root is not None and root * root == top else None


def _list(text: str) -> list[Fraction]:
    return [number(n) for n in re.findall(NUMBER, re.sub(r",\s+", " ", text))]


_FORMS: list[tuple[str, Callable[[list[Fraction]], Fraction | None]]] = [
    (rf"(?:sum of|add|adding|total of) {_N} (?:and|to|with) {_N}", lambda v: v[0] + v[1]),
    (rf"(?:product of|multiply|multiplying) {_N} (?:and|by|with) {_N}", lambda v: v[0] * v[1]),
    (rf"difference (?:between|of) {_N} and {_N}", lambda v: abs(v[0] - v[1])),
    (rf"(?:subtract|subtracting|take|take away) {_N} from {_N}", lambda v: v[1] - v[0]),
    (rf"(?:quotient of|divide|dividing) {_N} (?:and|by) {_N}", lambda v: v[0] / v[1] if v[1] else None),
    (rf"(?:square of {_N}|{_N} squared)", lambda v: v[0] ** 2),
    (rf"(?:cube of {_N}|{_N} cubed)", lambda v: v[0] ** 3),
    (rf"(?:square root of {_N}|√\s?{_N})", _root),
    (rf"(?:half of|one half of) {_N}", lambda v: v[0] / 2),
    (rf"(?:double|twice|double of) {_N}", lambda v: v[0] * 2),
    (rf"remainder (?:when|of|if) {_N} (?:is )?(?:divided by|/) {_N}", lambda v: v[0] % v[1] if v[1] else None),
]
_QUESTIONS = [(re.compile(_ASK + form + _END, re.IGNORECASE | re.DOTALL), value) for form, value in _FORMS]
_OPEN_EXPRESSION = re.compile(_ASK + rf"(?P<side>{SIDE})" + _END, re.IGNORECASE | re.DOTALL)
_OF_LIST = re.compile(
    r"\b(?P<what>sum|total|average|mean|median|maximum|largest|biggest|greatest|highest|minimum|smallest|lowest|"
    r"product)\s+(?:number |value |element |item )?(?:of|in|among|from)\s+(?:the |these |this |following |numbers?|"
    r"values?|list|integers?|set|:|\s)*"
    rf"[\[{{(]?\s*(?P<list>{NUMBER}(?:\s*(?:,\s+|,(?!\d{{3}})|;\s*)(?:and )?{NUMBER}|\s+and\s+{NUMBER})+)\s*"
    rf"[\])}}]?{_END}",
    re.IGNORECASE | re.DOTALL,
)
_ORDINAL = re.compile(r"(?:second|third|fourth|fifth|next|\dth|2nd|3rd)[\s-]+$", re.IGNORECASE)
_LINEAR = re.compile(
    r"\b(?:solve|find|determine|"
    r"what is)\b[^=\d]*?(?<![\w.])(?P<a>-?\d*)\s?\*?\s?(?P<x>[a-z])\s*(?P<sign>[-+])\s*(?P<b>\d+)\s*"
    r"=\s*(?P<c>-?\d+)\s*(?:[.?,]|\bfor (?P=x)\b|$)(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_FORM = re.compile(
    r"round|nearest|estimat|decimal|approximat|express|binary|hex|octal|base|mod\b|remainder|fraction|function|code|"
    r"program|python|script|word|roman|explain why",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    rf"(?:tell me |check )?(?:is|whether|if) (?:the number )?{NUMBER.join('()')} (?:is )?(?:an? )?"
    rf"(?:(prime|even|odd|composite)(?: number| integer)?|(?:evenly )?divisible by ({NUMBER})|a multiple of ({NUMBER}))"
    r"\s*(?:\?|\.|$)",
    re.IGNORECASE,
)


def asked_value(question: str) -> Fraction | None:
    """The value a short request asks to compute (`What is 17 * 23?`, `15% of 200`), or None."""
    if not any(c.isdigit() for c in question):
        return None
    text = expression.normalise(question).strip()
    listed = _OF_LIST.search(text)
    if listed and not _other_form(text, listed["rest"]) and not _ORDINAL.search(text[: listed.start()]):
        return _over_list(listed["what"].lower(), _list(listed["list"]))
    for pattern, value in _QUESTIONS:
        if (match := pattern.fullmatch(text)) is not None:
            wants_remainder = "remainder when" in text.lower() and "mod" not in text.lower()
            return None if _other_form(text, match["rest"], remainder=wants_remainder) else value(_numbers(match))
    if (linear := _LINEAR.search(text)) is not None:
        return _solution(linear)
    match = _OPEN_EXPRESSION.fullmatch(text)
    if match is None or not has_operator(match["side"]) or _other_form(text, match["rest"]):
        return None
    try:
        return evaluate(match["side"])
    except ExpressionError:
        return None


def _other_form(text: str, rest: str, remainder: bool = False) -> bool:
    """Whether more numbers follow, or the value is wanted in another form than plain."""
    found = _OTHER_FORM.search(text.replace("remainder", "") if remainder else text)
    return found is not None or any(c.isdigit() for c in rest)


def _solution(match: re.Match[str]) -> Fraction | None:
    """x of `ax ± b = c`."""
    a = Fraction({"": "1", "-": "-1"}.get(match["a"], match["a"]))
    b = Fraction(match["b"]) * (1 if match["sign"] == "+" else -1)
    return (Fraction(match["c"]) - b) / a if a and not any(c.isdigit() for c in match["rest"]) else None


def _over_list(what: str, values: list[Fraction]) -> Fraction | None:
    ordered = sorted(values)
    if what in ("sum", "total"):
        return sum(values, Fraction(0))
    if what == "product":
        return Fraction(math.prod(values))
    if what in ("average", "mean"):
        return sum(values, Fraction(0)) / len(values)
    if what == "median":
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return ordered[-1] if what in ("maximum", "largest", "biggest", "greatest", "highest") else ordered[0]


_ANSWER_IS = re.compile(
    rf"\b(?:answer|result|total|sum|product|value)\s*(?:is|:|=|equals)\s*\**\s*-?[$€£]?({NUMBER}(?:\s*/\s*{NUMBER})?)"
    r"(?![\d.,]*\d|\s*[-+*/×÷=])",
    re.IGNORECASE,
)


def wrong_value(turn: Turn) -> Finding | None:
    """The question has one computable value and the answer states numbers, but not that one."""
    expected = asked_value(turn.question)
    if expected is None:
        return None
    found = numbers_in(turn.body)
    if not found:
        return Finding(0.2, "asks for a number, none in the answer")
    if not any(matches(expected, value, places) for value, places in found):
        return Finding(0.1, f"asked value is {_plain(expected)}, not in the answer")
    stated = _ANSWER_IS.findall(turn.body)
    if not stated or any(matches(expected, value, places) for value, places in numbers_in(stated[-1])):
        return None
    return Finding(0.1, f"asked value is {_plain(expected)}, the answer concludes {stated[-1]}")


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{Decimal(value.numerator) / value.denominator:.6g}"


def wrong_yes_no(turn: Turn) -> Finding | None:
    """`Is 17 prime?`, `Is 12 divisible by 5?` answered with the wrong yes or no."""
    match = _YES_NO.search(turn.question) if turn.question else None
    said = says_yes(turn.response)
    if match is None or said is None:
        return None
    value, kind = number(match[1]), (match[2] or "").lower()
    if value.denominator != 1 or value > 10**9:
        return None
    n = int(value)
    if kind in ("prime", "composite"):
        truth = is_prime(n) if kind == "prime" else n > 1 and not is_prime(n)
    elif kind in ("even", "odd"):
        truth = (n % 2 == 0) == (kind == "even")
    else:
        divisor = number(match[3] or match[4])
        truth = divisor != 0 and value % divisor == 0
    if said == truth:
        return None
    return Finding(0.1, f"says {'yes' if said else 'no'}, but the opposite is so: {clip(match[0])}")
