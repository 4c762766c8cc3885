"""Check of the equations that an answer states: `12 + 7 = 20` is false. [ours]

An equation is judged only where each side has one reading and nothing around it says that it is modular, binary, a
puzzle or quoted as wrong. Usual rounding is accepted. A wrong number outside a stated equation is never seen.
"""

import re
from fractions import Fraction
from itertools import pairwise

from dselect_core.graders.heuristics import expression
from dselect_core.graders.heuristics.expression import SIDE, ExpressionError, evaluate, has_operator
from dselect_core.graders.heuristics.numerals import NUMBER, decimals, matches, number
from dselect_core.graders.heuristics.turn import Finding, Turn, clip

_CHAIN = re.compile(
    r"(?<![\w.,:($€£%\]}\\|^-])"
    rf"(?P<chain>{SIDE}(?:[ \t]*(?:=|(?<=[\d)]) (?:equals|is equal to|is|makes) )[ \t]*{SIDE})+)"
    r"(?![\w:^*/!(\[\\]|[.,]\d)"
)
_SPLIT = re.compile(r"=|equals|is equal to|is|makes")
# Text before an expression that makes it the tail of a longer one, or a label.
_CONTINUES = re.compile(
    r"(?:[-+*/^%√∛!&|~<>≈≡±∑∏∫]|\b(?:mod|log|ln|sqrt|root|of|by|minus|plus|times|over|step|example|problem|question|"
    r"equation|exercise|part|case|no|number|figure|table|chapter|line|day|item))\s*$",
    re.IGNORECASE,
)
_OF_A_SUM = re.compile(
    r"\b(?:sum|product|difference|quotient|result|value|total|answer|expression) of\s*$", re.IGNORECASE
)
_TRAILS = re.compile(
    r"\s*(?:[-+*/^%]\s*[\w(]|\(\s*[\d(]|\d|,?\s*(?:with |and )?(?:a )?(?:r|rem|remainder|mod|modulo)\b|\(mod\b|"
    r"million|billion|trillion|thousand|hundred|dozen|or\b|x\s*10)",
    re.IGNORECASE,
)
_NOT_CLAIMED = re.compile(
    r"\b(?:not|wrong|incorrect|false|mistake|error|fallacy|paradox|joke|if|suppose|imagine|pretend|assume|claim\w*|"
    r"instead|puzzle|riddle|binary|octal|hexadecimal|hex|base|modulo|mod|clock|estimate\w*|approximat\w*|round\w*|"
    r"about|roughly)\b|n't\b",
    re.IGNORECASE,
)
# An answer may change unit on the way: 45 + 15 = 1 hour.
_UNIT_RATIOS = {Fraction(r) for r in (7, 10, 12, 16, 24, 36, 52, 60, 100, 365, 1000, 3600, 10**6, 10**9)}


def find_false_equation(turn: Turn) -> Finding | None:
    """A false equation outside code: `12 + 7 = 20`, `17 times 23 is 401`, `(3 + 4) / 2 = 4.5`."""
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
        wrong = any(not _equal(a, b, after) for a, b in pairwise(sides))
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
