"""Checks of unit conversions: false ones in the answer, and conversion questions with a computable value.

Linear units by one factor to the dimension's base, temperatures by formula. A unit with several customary
sizes (gallon, cup, ton) is right at any of them, and customary approximations (1 mile = 1.6 km) pass. [ours]
"""

import re
from collections.abc import Callable
from fractions import Fraction

from dselect_core.graders.heuristics.numerals import (
    NUMBER,
    WORDS,
    decimals,
    matches,
    mentions_quantity,
    number,
    numbers_in,
)
from dselect_core.graders.heuristics.turn import Finding, Turn, clip

# unit names → (dimension, sizes in the dimension's base unit)
_TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "mm millimeter millimeters millimetre millimetres": ("length", ("0.001",)),
    "cm centimeter centimeters centimetre centimetres": ("length", ("0.01",)),
    "m meter meters metre metres": ("length", ("1",)),
    "km kilometer kilometers kilometre kilometres": ("length", ("1000",)),
    "inch inches": ("length", ("0.0254",)),
    "ft foot feet": ("length", ("0.3048",)),
    "yd yard yards": ("length", ("0.9144",)),
    "mile miles": ("length", ("1609.344",)),
    "mg milligram milligrams": ("mass", ("0.000001",)),
    "g gram grams": ("mass", ("0.001",)),
    "kg kilogram kilograms kilo kilos": ("mass", ("1",)),
    "tonne tonnes": ("mass", ("1000",)),
    "ton tons": ("mass", ("1000", "907.18474", "1016.0469088")),
    "lb lbs pound pounds": ("mass", ("0.45359237",)),
    "oz ounce ounces": ("mass", ("0.028349523125",)),
    "ml milliliter milliliters millilitre millilitres": ("volume", ("0.001",)),
    "cl centiliter centiliters centilitre centilitres": ("volume", ("0.01",)),
    "l liter liters litre litres": ("volume", ("1",)),
    "gallon gallons": ("volume", ("3.785411784", "4.54609")),
    "quart quarts": ("volume", ("0.946352946", "1.1365225")),
    "pint pints": ("volume", ("0.473176473", "0.56826125")),
    "cup cups": ("volume", ("0.2365882365", "0.25", "0.24")),
    "tablespoon tablespoons tbsp": ("volume", ("0.01478676478", "0.015", "0.02")),
    "teaspoon teaspoons tsp": ("volume", ("0.00492892159", "0.005")),
    "ms millisecond milliseconds": ("time", ("0.001",)),
    "s sec second seconds": ("time", ("1",)),
    "min minute minutes": ("time", ("60",)),
    "h hr hrs hour hours": ("time", ("3600",)),
    "day days": ("time", ("86400",)),
    "week weeks": ("time", ("604800",)),
    "fortnight fortnights": ("time", ("1209600",)),
    "cent cents": ("dollars", ("0.01",)),
    "dollar dollars": ("dollars", ("1",)),
    "°c celsius centigrade": ("temperature", ()),
    "°f fahrenheit": ("temperature", ()),
    "kelvin kelvins": ("temperature", ()),
}
_SIZES = {name: (dim, [Fraction(s) for s in sizes]) for names, (dim, sizes) in _TABLE.items() for name in names.split()}
_FLUID_OUNCE = {"oz", "ounce", "ounces"}
_METRIC_OR_TIME = re.compile(
    r"(?:milli|centi|kilo)?(?:met(?:er|re)s?|grams?|lit(?:er|re)s?)|[mck]?m|[mk]?g|[mc]?l|.*(?:sec|min|hour|day|week|"
    r"fort).*|kilos?|h|hrs?|s|ms|tonnes?|cents?|dollars?"
)
_UNIT = (
    r"(?:degrees?\s+|°\s?)?(?P<{0}>"
    + "|".join(sorted((re.escape(n).replace("°", "°\\s?") for n in _SIZES), key=len, reverse=True))
    + r")"
)
_NOT_COMPOUND = r"(?![\w²³^/]|\s*(?:per\b|/|squared|cubed|and\s+\d|,?\s*\d))"
_ABOUT = (
    r"(?:about|approximately|approx\.?|roughly|around|nearly|almost|exactly|equal to|the same as|equivalent to|"
    r"\s|~|≈|\*\*)*+"
)
_STATEMENT = re.compile(
    rf"(?<![\w.,:/$€£^*+-])(?P<a>{NUMBER})[ -]?{_UNIT.format('ua')}\b\s*(?:=|≈|is|are|equals|"
    rf"makes?){_ABOUT}(?P<b>{NUMBER})[ -]?{_UNIT.format('ub')}{_NOT_COMPOUND}",
    re.IGNORECASE,
)
_COUNT = rf"(?P<a>-?{NUMBER}|an?|one|{'|'.join(WORDS)})"
_QUESTIONS = [
    re.compile(
        rf"how many {_UNIT.format('ub')} (?:are |is )?(?:there )?(?:in|make|equal|equals|are|"
        rf"does) (?:up )?{_COUNT} ?{_UNIT.format('ua')}\b(?P<rest>.*)$",
        re.IGNORECASE | re.DOTALL,
    ),
    re.compile(
        rf"(?:convert|express|change|what is|what's|how much is|turn|write|give)\s+(?:a (?:length|distance|weight|"
        rf"mass|time|temperature|duration|volume) of )?{_COUNT} ?{_UNIT.format('ua')}\s+(?:expressed |equal |"
        rf"converted )?(?:in|to|into|as)\s+{_UNIT.format('ub')}\b(?P<rest>.*)$",
        re.IGNORECASE | re.DOTALL,
    ),
]
_TO_KELVIN: dict[str, Callable[[Fraction], Fraction]] = {
    "c": lambda v: v + Fraction("273.15"),
    "f": lambda v: (v - 32) * Fraction(5, 9) + Fraction("273.15"),
    "k": lambda v: v,
}
_FROM_KELVIN: dict[str, Callable[[Fraction], Fraction]] = {
    "c": lambda v: v - Fraction("273.15"),
    "f": lambda v: (v - Fraction("273.15")) * Fraction(9, 5) + 32,
    "k": lambda v: v,
}


def converted(value: Fraction, source: str, target: str) -> list[Fraction]:
    """`value` of unit `source` in unit `target`, at every customary size; empty when they do not convert."""
    a, b = _canonical(source), _canonical(target)
    (dim_a, sizes_a), (dim_b, sizes_b) = _SIZES[a], _SIZES[b]
    if dim_a == dim_b == "temperature":
        return [_FROM_KELVIN[_scale(b)](_TO_KELVIN[_scale(a)](value))]
    if "volume" in (dim_a, dim_b) and (a in _FLUID_OUNCE or b in _FLUID_OUNCE):
        ounce = [Fraction("0.0295735295625"), Fraction("0.0284130625"), Fraction("0.03")]
        dim_a, sizes_a = ("volume", ounce) if a in _FLUID_OUNCE else (dim_a, sizes_a)
        dim_b, sizes_b = ("volume", ounce) if b in _FLUID_OUNCE else (dim_b, sizes_b)
    if dim_a != dim_b:
        return []
    return [value * x / y for x in sizes_a for y in sizes_b]


def _canonical(unit: str) -> str:
    return re.sub(r"\s", "", unit.lower())


def _scale(unit: str) -> str:
    return {"centigrade": "c"}.get(unit, unit.removeprefix("°")[0])


def _right(expected: list[Fraction], value: Fraction, places: int, exact: bool) -> bool:
    slack = Fraction(1, 1000) if exact else Fraction(1, 50)
    return any(matches(e, value, places) or abs(value - e) <= abs(e) * slack for e in expected)


def _is_exact(*units: str) -> bool:
    """Metric or time on both sides: nothing to approximate."""
    return all(_METRIC_OR_TIME.fullmatch(_canonical(u)) for u in units)


def false_conversion(turn: Turn) -> Finding | None:
    """`3 km = 300 m`, `1 hour is 100 minutes` in the answer."""
    if not any(c.isdigit() for c in turn.prose):
        return None
    for match in _STATEMENT.finditer(turn.prose):
        expected = converted(number(match["a"]), match["ua"], match["ub"])
        dim, sizes = _SIZES[_canonical(match["ua"])]
        same_unit = dim != "temperature" and (dim, sizes) == _SIZES[_canonical(match["ub"])]
        if (
            not expected
            or same_unit
            or re.search(r"[-+*/×÷]\s*$", turn.prose[max(0, match.start() - 5) : match.start()])
        ):
            continue  # the last term of a sum is not a conversion
        if not _right(expected, number(match["b"]), decimals(match["b"]), _is_exact(match["ua"], match["ub"])):
            return Finding(0.15, f"false conversion: {clip(match[0])}")
    return None


def wrong_conversion(turn: Turn) -> Finding | None:
    """`How many centimeters are in 3 meters?` answered with numbers, none of them right."""
    question = turn.question
    match = next((m for pattern in _QUESTIONS if (m := pattern.search(question))), None) if question else None
    if (
        match is None
        or any(c.isdigit() for c in match["rest"])
        or re.search(r"\band\b|round|function|code", match["rest"])
    ):
        return None
    a = match["a"].lower()
    amount = (
        Fraction(1)
        if a in ("a", "an")
        else Fraction(WORDS[a])
        if a in WORDS
        else (-1 if a[0] == "-" else 1) * number(a.lstrip("-"))
    )
    expected = converted(amount, match["ua"], match["ub"])
    found = numbers_in(turn.body)
    if not expected:
        return None
    if not found:
        return (
            None if mentions_quantity(turn.response) else Finding(0.2, "asks for a conversion, no number in the answer")
        )
    exact = _is_exact(match["ua"], match["ub"])
    if any(_right(expected, value, places, exact) for value, places in found):
        return None
    return Finding(0.1, f"asked conversion is {float(expected[0]):.6g} {match['ub']}, not in the answer")
