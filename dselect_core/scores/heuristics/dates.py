"""Checks of calendar questions: weekday of a date, date arithmetic, days between, leap years.

Only for a short request that asks exactly that; dates inside stories and letters are left alone.
Numeric dates are read as ISO (2024-03-15) only, because 03/04 has two readings. [ours]
"""

import re
from calendar import isleap, monthrange
from datetime import date, timedelta

from dselect_core.graders.heuristics.numerals import WORDS, numbers_in
from dselect_core.graders.heuristics.turn import Finding, Turn, says_yes

_MONTHS = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]  # fmt: skip
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATE = re.compile(
    rf"\b(?:(?P<y>\d{{4}})-(?P<m>\d\d)-(?P<d>\d\d)|(?P<mon>{_MONTH})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|"
    rf"th)?(?:,?\s+(?P<year>\d{{4}}))?|(?P<day2>\d{{1,2}})(?:st|nd|rd|"
    rf"th)?(?:\s+of)?\s+(?P<mon2>{_MONTH})(?:,?\s+(?P<year2>\d{{4}}))?)\b",
    re.IGNORECASE,
)
_WEEKDAY_ASKED = re.compile(
    r"\b(?:what|which) (?:day of the week|weekday|day)\b(?! of the (?:month|year))", re.IGNORECASE
)
_SHIFT = re.compile(
    rf"\b(?P<n>\d{{1,5}}|an?|{'|'.join(WORDS)}) (?P<unit>day|week|year)s? (?P<way>after|before|from|later than|"
    rf"earlier than|prior to|following)\b"
    r"|\b(?P<add>add|subtract) (?P<n2>\d{1,5}) (?P<unit2>day|week|year)s? (?:to|from)\b",
    re.IGNORECASE,
)
_SPAN = re.compile(
    r"\bhow many (?P<unit>days|weeks) (?:are |is |were )?(?:there |passed |pass |elapsed )?(?:between|from)\b",
    re.IGNORECASE,
)
_LEAP = re.compile(r"\b(?:is|was|whether|if)(?: the year)? (?P<year>\d{4})(?: is| was)? a leap year", re.IGNORECASE)
_MONTH_LENGTH = re.compile(
    rf"\bhow many days (?:are |were |does |"
    rf"did )?(?:there )?(?:in )?(?P<mon>{_MONTH})(?:,? (?:of )?(?P<year>\d{{4}}))?(?: have)?\s*\?",
    re.IGNORECASE,
)


def _month(name: str) -> int:
    return next(i for i, m in enumerate(_MONTHS, start=1) if m.startswith(name.lower().rstrip(".")[:3]))


def _dates(text: str) -> list[tuple[int | None, int, int]]:
    """(year or None, month, day) of every date in `text`."""
    found: list[tuple[int | None, int, int]] = []
    for match in _DATE.finditer(text):
        if match["y"]:
            found.append((int(match["y"]), int(match["m"]), int(match["d"])))
            continue
        year = match["year"] or match["year2"]
        name, day = match["mon"] or match["mon2"], match["day"] or match["day2"]
        found.append((int(year) if year else None, _month(name), int(day)))
    return found


def _full(found: tuple[int | None, int, int]) -> date | None:
    try:
        return date(found[0], found[1], found[2]) if found[0] else None
    except ValueError:
        return None


def wrong_date(turn: Turn) -> Finding | None:
    """A calendar question whose answer can be computed, answered otherwise."""
    question = turn.question
    if not any(c.isdigit() for c in question):
        return _month_length(turn) if "how many days" in question.lower() else None
    if (leap := _LEAP.search(question)) is not None:
        said = says_yes(turn.body)
        truth = isleap(int(leap["year"]))
        return (
            None
            if said is None or said == truth
            else Finding(0.1, f"{leap['year']} is {'' if truth else 'not '}a leap year")
        )
    asked = [_full(d) for d in _dates(question)]
    if not asked or any(d is None for d in asked):
        return _month_length(turn)
    first = asked[0]
    assert first is not None
    if len(asked) == 2 and asked[1] is not None and (span := _SPAN.search(question)):
        return _wrong_span(turn, abs((asked[1] - first).days), span["unit"].lower())
    shift = _SHIFT.search(question)
    if len(asked) == 1 and shift is not None:
        return _wrong_shift(turn, first, shift, weekday=_WEEKDAY_ASKED.search(question) is not None)
    if len(asked) == 1 and _WEEKDAY_ASKED.search(question):
        return _wrong_weekday(turn, first)
    return None


def _wrong_span(turn: Turn, days: int, unit: str) -> Finding | None:
    found = [int(v) for v, _ in numbers_in(_DATE.sub(" ", turn.body)) if v.denominator == 1]
    wanted = range(days - 1, days + 2) if unit == "days" else range(days // 7, days // 7 + 2)  # either end may count
    return (
        None
        if not found or any(v in wanted for v in found)
        else Finding(0.1, f"{days} days lie between the dates asked")
    )


def _wrong_shift(turn: Turn, start: date, shift: re.Match[str], weekday: bool) -> Finding | None:
    raw = (shift["n"] or shift["n2"]).lower()
    n = int(raw) if raw.isdigit() else WORDS.get(raw, 1)
    unit = (shift["unit"] or shift["unit2"]).lower()
    back = (shift["way"] or "").lower() in ("before", "earlier than", "prior to") or (
        shift["add"] or ""
    ).lower() == "subtract"
    sign = -1 if back else 1
    try:
        if unit == "year":
            expected = start.replace(year=start.year + sign * n)
        else:
            expected = start + timedelta(days=sign * n * (7 if unit == "week" else 1))
    except (ValueError, OverflowError):
        return None
    if weekday:
        return _wrong_weekday(turn, expected)
    found = [d for d in _dates(turn.body) if d[1:] != (start.month, start.day) or d[0] not in (None, start.year)]
    right = any(d[1:] == (expected.month, expected.day) and d[0] in (None, expected.year) for d in found)
    return None if not found or right else Finding(0.1, f"the date asked is {expected.isoformat()}, not in the answer")


def _wrong_weekday(turn: Turn, day: date) -> Finding | None:
    named = [d for d in _DAYS if d.lower() in turn.body.lower()]
    expected = _DAYS[day.weekday()]
    if not named:
        return Finding(0.3, f"{day.isoformat()} is a {expected}; the answer names no weekday")
    return None if expected in named else Finding(0.1, f"{day.isoformat()} is a {expected}")


def _month_length(turn: Turn) -> Finding | None:
    match = _MONTH_LENGTH.search(turn.question)
    found = [v for v, _ in numbers_in(turn.body)]
    if match is None or not found:
        return None
    month = _month(match["mon"])
    lengths = {monthrange(int(match["year"]) if match["year"] else y, month)[1] for y in (2023, 2024)}
    return None if any(v in lengths for v in found) else Finding(0.1, f"{match['mon']} has {max(lengths)} days")
