"""Numbers in running text: digits with thousands separators and decimals, English number words.

Values are exact (`Fraction`), so that a comparison never depends on binary rounding.
"""

import re
from fractions import Fraction

NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,40})(?:\.\d{1,40})?"
_NUMBER_WORD = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|billion)\b",
    re.IGNORECASE,
)


def number(text: str) -> Fraction:
    """`1,234.5` as an exact number. Raises ValueError on anything else."""
    return Fraction(text.replace(",", ""))


def decimals(text: str) -> int:
    """Digits after the decimal point, as written."""
    return len(text.partition(".")[2])


def has_number(text: str) -> bool:
    """Whether `text` holds a digit or a number word."""
    return any(c.isdigit() for c in text) or _NUMBER_WORD.search(text) is not None


def matches(expected: Fraction, value: Fraction, places: int) -> bool:
    """Whether `value`, written with `places` decimals, states `expected`: rounded or cut, and in absolute value."""
    wanted, stated = abs(expected), abs(value)
    unit = Fraction(1, 10**places)
    return (
        stated == wanted
        or (abs(stated - wanted) <= unit / 2 and (wanted / unit).denominator != 1)
        or stated == wanted // unit * unit
    )
