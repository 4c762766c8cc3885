"""Numbers in running text: digits with thousands separators and decimals, fractions, number words.

Exact (`Fraction`), so that a comparison never depends on binary rounding.
"""

import re
from fractions import Fraction

NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,40})(?:\.\d{1,40})?"
_NUMERAL = re.compile(
    rf"(?<![\d.])(?P<sign>(?<![\w)])[-−])?(?P<number>{NUMBER})(?:\s*/\s*(?P<denominator>[1-9]\d{{0,39}}))?"
)
_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
WORDS: dict[str, int] = {
    **{word: value for value, word in enumerate(_UNITS)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
    "hundred": 100,
    **_SCALES,
}
_WORD_NUMBER = re.compile(rf"\b(?:{'|'.join(WORDS)})(?:[\s-]+(?:and\s+)?(?:{'|'.join(WORDS)}))*\b", re.IGNORECASE)
_QUANTITY_WORD = re.compile(
    rf"\b(?:{'|'.join(WORDS)}|none|no|nil|nobody|nothing|once|twice|thrice|single|pair|couple|few|several|many|most|"
    rf"all|"
    r"both|half|third|quarter|dozens?|hundreds|thousands|millions|billions|first|second|infinite(?:ly)?|unlimited|"
    r"countless|every|any|unknown|neither|each|an?)\b",
    re.IGNORECASE,
)


def number(text: str) -> Fraction:
    """`1,234.5` as an exact number. Raises ValueError on anything else."""
    return Fraction(text.replace(",", ""))


def decimals(text: str) -> int:
    """Digits after the decimal point, as written."""
    return len(text.partition(".")[2])


def numbers_in(text: str) -> list[tuple[Fraction, int]]:
    """Every number of `text` in order, as (value, decimals written); number words come last."""
    found: list[tuple[Fraction, int]] = []
    for match in _NUMERAL.finditer(text):
        sign = -1 if match["sign"] else 1
        value = number(match["number"])
        found.append((sign * value, decimals(match["number"])))
        if match["denominator"]:
            found[-1:] = [(sign * value / int(match["denominator"]), 9), (sign * value, 0)]
    found += [(Fraction(words_value(m[0])), 0) for m in _WORD_NUMBER.finditer(text)]
    return found


def words_value(text: str) -> int:
    """`two hundred and five` as 205."""
    total = group = 0
    for word in re.findall(r"[a-z]+", text.lower()):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
        elif word in WORDS:
            group += WORDS[word]
    return total + group


def matches(expected: Fraction, value: Fraction, places: int) -> bool:
    """Whether `value`, written with `places` decimals, states `expected`: rounded or cut, sign left to the words."""
    wanted, stated = abs(expected), abs(value)
    unit = Fraction(1, 10**places)
    return (
        stated == wanted
        or (abs(stated - wanted) <= unit / 2 and (wanted / unit).denominator != 1)
        or stated == wanted // unit * unit
    )


def mentions_quantity(text: str) -> bool:
    """Whether `text` holds a digit or any word that can answer `how many`."""
    return any(c.isnumeric() for c in text) or _QUANTITY_WORD.search(text) is not None
