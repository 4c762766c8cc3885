"""Checks of sums: equations in the answer that are false, and questions whose value can be computed.

An equation is judged only where both of its sides can be read in one way and nothing around it says that
it is modular, binary, a puzzle or quoted as wrong. Rounding as people do it is accepted. [ours]
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction

from dselect_core.scores.heuristics import expression
from dselect_core.scores.heuristics.expression import SIDE, ExpressionError, evaluate, has_operator
from dselect_core.scores.heuristics.numerals import NUMBER, decimals, matches, number, numbers_in
from dselect_core.scores.heuristics.turn import Finding, Turn, clip, says_yes

_CHAIN = re.compile(
    rf"(?<![\w.,:($€£%\]}}\\|^-])(?P<chain>{SIDE}(?:[ \t]*(?:=|(?<=[\d)]) (?:equals|is equal to|is|makes) )[ \t]*{SIDE})+)"
    r"(?![\w:^*/!(\[\\]|[.,]\d)"
)
_SPLIT = re.compile(r"=|equals|is equal to|is|makes")
# What stands before an expression and makes it only the tail of a longer one, or a label.
_CONTINUES = re.compile(
    r"(?:[-+*/^%√∛!&|~<>≈≡±∑∏∫]|\b(?:mod|log|ln|sqrt|root|of|by|minus|plus|times|over|step|example|problem|question|equation|"
    r"exercise|part|case|no|number|figure|table|chapter|line|day|item))\s*$",
    re.IGNORECASE,
)
_OF_A_SUM = re.compile(
    r"\b(?:sum|product|difference|quotient|result|value|total|answer|expression) of\s*$", re.IGNORECASE
)
_TRAILS = re.compile(
    r"\s*(?:[-+*/^%(]\s*[\w(]|\d|,?\s*(?:with |and )?(?:a )?(?:r|rem|remainder|mod|modulo)\b|\(mod\b|million|billion|trillion|"
    r"thousand|hundred|dozen|or\b|×|x\s*10)",
    re.IGNORECASE,
)
_NOT_CLAIMED = re.compile(
    r"\b(?:not|wrong|incorrect|false|mistake|error|fallacy|paradox|joke|if|suppose|imagine|pretend|assume|claim\w*|instead|"
    r"puzzle|riddle|binary|octal|hexadecimal|hex|base|modulo|mod|clock|estimate\w*|approximat\w*|round\w*|about|roughly)\b|n't\b",
    re.IGNORECASE,
)
# An answer may change unit on the way: 45 + 15 = 1 hour.
_UNIT_RATIOS = {Fraction(r) for r in (7, 10, 12, 16, 24, 36, 52, 60, 100, 365, 1000, 3600, 10**6, 10**9)}


def false_equation(turn: Turn) -> Finding | None:
    """`12 + 7 = 20`, `17 times 23 is 401`, `(3 + 4) / 2 = 4.5` in the answer, outside code."""
    text = turn.prose
    if not _may_hold_equation(text):
        return None
    text = expression.normalise(text)
    for match in _CHAIN.finditer(text):
        if _claims_falsehood(match, text) and match["chain"] not in expression.normalise(turn.context):
            return Finding(0.15, f"false equation: {clip(match['chain'])}")
    return None


def _may_hold_equation(text: str) -> bool:
    return ("=" in text or " is " in text or " equal" in text or " makes " in text) and any(c.isdigit() for c in text)


def _claims_falsehood(match: re.Match[str], text: str) -> bool:
    chain, start, end = match["chain"], match.start(), match.end()
    before = text[max(0, start - 120) : start]
    after = text[end : end + 120]
    spelled = "=" not in chain
    if _CONTINUES.search(before) and not _OF_A_SUM.search(before) and not _is_bullet(before):
        return False
    # `is` also says other things of a number: "5 * 3 is 2 more than 13".
    if _TRAILS.match(after) or (spelled and re.match(r"\s*[a-z]", after)):
        return False
    sides = _balanced([side.strip() for side in _SPLIT.split(chain)])
    if any(_is_range(side) for side in sides):
        return False
    if not any(has_operator(side) for side in sides):
        return False
    try:
        wrong = any(not _equal(a, b, after) for a, b in zip(sides, sides[1:], strict=False))
    except ExpressionError:
        return False
    return wrong and not _NOT_CLAIMED.search(_sentence(before, after))


def _is_range(side: str) -> bool:
    """`pages 10-12`, `2019-2021`."""
    ends = re.fullmatch(rf"({NUMBER})-({NUMBER})", side)
    return ends is not None and number(ends[1]) < number(ends[2])


def _is_bullet(before: str) -> bool:
    return re.search(r"(?:^|\n)\s*[-*+]\s*$", before) is not None


def _balanced(sides: list[str]) -> list[str]:
    """Sides without the parentheses that belong to the sentence around: `(3 + 4 = 7)`."""
    first, last = sides[0], sides[-1]
    while first.count("(") > first.count(")") and first.startswith("("):
        first = first[1:]
    sides[0] = first
    while last.count(")") > last.count("(") and last.endswith(")"):
        last = last[:-1]
    sides[-1] = last
    return sides


def _sentence(before: str, after: str) -> str:
    return re.split(r"\n|[.!?]\s", before)[-1] + " " + re.split(r"\n|[.!?](?:\s|$)", after)[0]


def _equal(left: str, right: str, after: str) -> bool:
    percents = (True, False) if "%" in left + right else (True,)
    if "%" in left + right and re.search(r"[-+]", left + right):
        return True  # "100 - 20%": of what?
    a, bs = evaluate(left), [evaluate(right, percent) for percent in percents]
    if any(_same(a, b, left, right) for b in bs):
        return True
    if len(percents) > 1 and any(_same(evaluate(left, False), b, left, right) for b in bs):
        return True
    # A running total, "3 * 4 = 12 + 5 = 17", is bad style and a right answer.
    head = re.match(rf"[$€£]?({NUMBER})\s*[-+*/]", right)
    if head and _same(a, number(head[1]), left, head[1]):
        return True
    b = bs[0]
    if re.match(r"\s*[A-Za-z]", after) and a and b:
        return abs(a / b) in _UNIT_RATIOS or abs(b / a) in _UNIT_RATIOS
    return False


def _same(a: Fraction, b: Fraction, left: str, right: str) -> bool:
    if a == b or (not has_operator(right) and matches(a, b, decimals(right)) and (a >= 0) == (b >= 0)):
        return True
    if not has_operator(left) and matches(b, a, decimals(left)):
        return True
    multiplies = re.search(r"[*/^]", left + right) is not None
    if multiplies and ("." in left + right or "/" in left or (right.endswith("000") and abs(a) > 10**5)):
        return abs(a - b) <= abs(a) / 200
    return False


# Questions with one value. Each pattern is matched against the whole request, operators already normalised.
_N = rf"(-?[$€£]?{NUMBER})"
_ASK = (
    r"(?:(?:please|hi|hello|hey|and|now|so|can you|could you|tell me|help me)[,!.]?\s+)*"
    r"(?:what(?:'s|’s| is| are| does| would be| do you get (?:when|if) you)?|calculate|compute|evaluate|how much (?:is|are)|"
    r"solve|find|work out|determine|give me|give|simplify)?\s*(?:the\s+)?(?:(?:value|result|answer|solution)\s+(?:of|to|when)\s+)?:?\s*"
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
    r"\b(?P<what>sum|total|average|mean|median|maximum|largest|biggest|greatest|highest|minimum|smallest|lowest|product)\s+"
    r"(?:number |value |element |item )?(?:of|in|among|from)\s+(?:the |these |this |following |numbers?|values?|list|integers?|set|:|\s)*"
    rf"[\[{{(]?\s*(?P<list>{NUMBER}(?:\s*(?:,\s+|,(?!\d{{3}})|;\s*)(?:and )?{NUMBER}|\s+and\s+{NUMBER})+)\s*[\])}}]?{_END}",
    re.IGNORECASE | re.DOTALL,
)
_OTHER_FORM = re.compile(
    r"round|nearest|estimat|decimal|approximat|express|binary|hex|octal|base|mod\b|remainder|fraction|function|code|program|"
    r"python|script|word|roman|explain why",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    rf"(?:tell me |check )?(?:is|whether|if) (?:the number )?{NUMBER.join('()')} (?:is )?(?:an? )?"
    rf"(?:(prime|even|odd|composite)(?: number| integer)?|(?:evenly )?divisible by ({NUMBER})|a multiple of ({NUMBER}))\s*(?:\?|\.|$)",
    re.IGNORECASE,
)


def asked_value(question: str) -> Fraction | None:
    """The value a short request asks to compute (`What is 17 * 23?`, `15% of 200`), or None."""
    if not any(c.isdigit() for c in question):
        return None
    text = expression.normalise(question).strip()
    listed = _OF_LIST.search(text)
    if listed and not _other_form(text, listed["rest"]):
        return _over_list(listed["what"].lower(), _list(listed["list"]))
    for pattern, value in _QUESTIONS:
        if (match := pattern.fullmatch(text)) is not None:
            wants_remainder = "remainder when" in text.lower() and "mod" not in text.lower()
            return None if _other_form(text, match["rest"], remainder=wants_remainder) else value(_numbers(match))
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
    rf"\b(?:answer|result|total|sum|product|value)\s*(?:is|:|=|equals)\s*\**\s*-?[$€£]?({NUMBER}(?:\s*/\s*{NUMBER})?)",
    re.IGNORECASE,
)


def wrong_value(turn: Turn) -> Finding | None:
    """The question has one computable value and the answer states numbers, but not that one."""
    expected = asked_value(turn.question)
    if expected is None:
        return None
    found = numbers_in(turn.response)
    if not found:
        return Finding(0.2, "asks for a number, none in the answer")
    if not any(matches(expected, value, places) for value, places in found):
        return Finding(0.1, f"asked value is {_plain(expected)}, not in the answer")
    stated = _ANSWER_IS.findall(turn.response)
    if stated:
        if not any(matches(expected, value, places) for value, places in numbers_in(stated[-1])):
            return Finding(0.1, f"asked value is {_plain(expected)}, the answer concludes {stated[-1]}")
    return None


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def wrong_yes_no(turn: Turn) -> Finding | None:
    """`Is 17 prime?`, `Is 12 divisible by 5?` answered with the wrong yes or no."""
    match = _YES_NO.search(turn.question) if turn.question else None
    said = says_yes(turn.response)
    if match is None or said is None:
        return None
    value, kind = number(match[1]), (match[2] or "").lower()
    if value.denominator != 1 or value > 10**12:
        return None
    n = int(value)
    if kind in ("prime", "composite"):
        truth = _is_prime(n) if kind == "prime" else n > 1 and not _is_prime(n)
    elif kind in ("even", "odd"):
        truth = (n % 2 == 0) == (kind == "even")
    else:
        divisor = number(match[3] or match[4])
        truth = divisor != 0 and value % divisor == 0
    return (
        None
        if said == truth
        else Finding(0.1, f"says {'yes' if said else 'no'}, but the opposite is so: {clip(match[0])}")
    )


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
