"""Arithmetic expressions as people write them: `17 × 23`, `(3 + 4)*2`, `12 plus 7`, `\\$1,200 / 4`, `15%`.

Only text with one reading is accepted. A letter, a function, implicit multiplication or a mixed number raises
ExpressionError, because a wrong reading would accuse a right answer.
"""

import re
from fractions import Fraction

from dselect_core.graders.heuristics.numerals import NUMBER, number

_OPERATORS = str.maketrans({"×": "*", "✕": "*", "⋅": "*", "·": "*", "÷": "/", "∕": "/", "−": "-", "–": "-"})
_SPELLED = re.compile(
    r"(?<=[\d)%])(?P<x>\s*[xX]\s*(?=[\d($]))|(?<=[\d)%])\s+(?P<word>plus|minus|times|multiplied by|"
    r"divided by)\s+(?=[\d($-])|(?<=\d)\s?(?:%|percent)\s+(?P<share>of)\s+(?=[\d$])"
)
_LATEX = re.compile(r"\\(times|cdot|div)(?![a-z])\s?")
_SYMBOL = {"plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "cdot": "*", "div": "/"}
_ATOM = rf"[(]*-?[$€£]?{NUMBER}(?:[ ]?%)?[)]*"
_OP = r"[ \t]*(?:\*\*|[-+*/^])[ \t]*"
SIDE = rf"{_ATOM}(?:{_OP}{_ATOM})*"
_TOKEN = re.compile(rf"\s*(?:(?P<number>{NUMBER})\s?(?P<percent>%)?|(?P<op>\*\*|[-+*/^()]))")


class ExpressionError(ValueError):
    """The text is not one arithmetic expression with one reading."""


def normalise(text: str) -> str:
    """Operators in one spelling (`* / - +`); everything else as it was."""
    text = text.translate(_OPERATORS)
    if "\\" in text:
        text = _LATEX.sub(lambda m: f" {_SYMBOL.get(m[1], '*')} ", text)
    return _SPELLED.sub(lambda m: f" {_SYMBOL[m['word']]} " if m["word"] else "% * " if m["share"] else " * ", text)


def has_operator(text: str) -> bool:
    """Whether a (normalised) side computes something, rather than naming a number."""
    return re.search(r"(?<=[\d)%])\s*[-+*/^]", text) is not None


def evaluate(text: str, percent: bool = True) -> Fraction:
    """Value of a normalised expression; `n%` is n/100, or n itself with `percent=False`.

    Raises ExpressionError where the text has no value or more than one reading.
    """
    tokens: list[str | Fraction] = []
    plain = re.sub(r"[$€£]", "", text).strip()
    at = 0
    while at < len(plain):
        match = _TOKEN.match(plain, at)
        if match is None:
            raise ExpressionError(text)
        at = match.end()
        if match["number"]:
            if re.match(r"0\d", match["number"]):
                raise ExpressionError(f"leading zero, perhaps not decimal: {text}")
            tokens.append(number(match["number"]) / (100 if match["percent"] and percent else 1))
        else:
            tokens.append("^" if match["op"] == "**" else match["op"])
    parser = _Parser(tokens)
    value = parser.sum()
    if parser.tokens:
        raise ExpressionError(text)
    return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 4096:
        raise ExpressionError("too large a number")
    return value


class _Parser:
    """Recursive descent over + - * / ^ and parentheses, with the usual precedence."""

    def __init__(self, tokens: list[str | Fraction]) -> None:
        self.tokens = tokens

    def _take(self, *wanted: str) -> str | None:
        if self.tokens and isinstance(self.tokens[0], str) and self.tokens[0] in wanted:
            return str(self.tokens.pop(0))
        return None

    def sum(self) -> Fraction:
        value = self._product()
        while op := self._take("+", "-"):
            right = self._product()
            value = _bounded(value + right if op == "+" else value - right)
        return value

    def _product(self) -> Fraction:
        value = self._power()
        while op := self._take("*", "/"):
            right = self._power()
            if op == "/" and right == 0:
                raise ExpressionError("division by zero")
            value = _bounded(value * right if op == "*" else value / right)
        return value

    def _power(self) -> Fraction:
        base = self._atom()
        if not self._take("^"):
            return base
        exponent = self._power()
        if exponent.denominator != 1 or abs(exponent) > 64 or abs(base) > 10**9 or (base == 0 and exponent < 0):
            raise ExpressionError("exponent out of range")
        return base ** int(exponent)

    def _atom(self) -> Fraction:
        if self._take("-"):
            return -self._power()
        if self._take("("):
            value = self.sum()
            if not self._take(")"):
                raise ExpressionError("unbalanced parenthesis")
            return value
        if not self.tokens or isinstance(self.tokens[0], str):
            raise ExpressionError("number expected")
        head = self.tokens.pop(0)
        assert isinstance(head, Fraction)
        return head
