"""Unit conversions, exact by construction: factors are fractions and numbers are drawn so that results end."""

from fractions import Fraction
from random import Random

from demo.corpus.task import Maker, Task, ask, number

# kind: (larger unit, its abbreviation, smaller unit, abbreviation, smaller per larger)
SCALES: dict[str, list[tuple[str, str, str, str, Fraction]]] = {
    "length": [("kilometres", "km", "metres", "m", Fraction(1000)),
               ("metres", "m", "centimetres", "cm", Fraction(100)),
               ("centimetres", "cm", "millimetres", "mm", Fraction(10)),
               ("inches", "in", "centimetres", "cm", Fraction(254, 100)),
               ("feet", "ft", "inches", "in", Fraction(12)), ("yards", "yd", "feet", "ft", Fraction(3)),
               ("miles", "mi", "kilometres", "km", Fraction("1.609344")),
               ("metres", "m", "millimetres", "mm", Fraction(1000))],
    "mass": [("kilograms", "kg", "grams", "g", Fraction(1000)), ("grams", "g", "milligrams", "mg", Fraction(1000)),
             ("tonnes", "t", "kilograms", "kg", Fraction(1000)), ("pounds", "lb", "ounces", "oz", Fraction(16))],
    "volume": [("litres", "L", "millilitres", "mL", Fraction(1000)),
               ("decilitres", "dL", "millilitres", "mL", Fraction(100)),
               ("cubic metres", "m³", "litres", "L", Fraction(1000)),
               ("tablespoons", "tbsp", "teaspoons", "tsp", Fraction(3))],
    "time": [("hours", "h", "minutes", "min", Fraction(60)), ("minutes", "min", "seconds", "s", Fraction(60)),
             ("days", "d", "hours", "h", Fraction(24)), ("weeks", "wk", "days", "d", Fraction(7))],
    "data": [("megabytes", "MB", "kilobytes", "kB", Fraction(1000)),
             ("gibibytes", "GiB", "mebibytes", "MiB", Fraction(1024)), ("bytes", "B", "bits", "bit", Fraction(8))],
    "area": [("square metres", "m²", "square centimetres", "cm²", Fraction(10000)),
             ("hectares", "ha", "square metres", "m²", Fraction(10000))],
}  # fmt: skip


def _amount(rng: Random) -> Fraction:
    """Whole numbers, halves and tenths of everyday size."""
    top, bottom = rng.choice([
        (rng.randint(2, 60), 1), (rng.randint(61, 900), 1), (rng.randint(3, 199), 2), (rng.randint(11, 499), 10),
    ])  # fmt: skip
    return Fraction(top, bottom)


def _scale(kind: str) -> Maker:
    def make(rng: Random) -> Task:
        big, b, small, s, factor = rng.choice(SCALES[kind])
        n = _amount(rng)
        down = rng.random() < 0.6  # from the larger unit to the smaller one
        if down:
            x, y, source, from_short, target, to_short = n, n * factor, big, b, small, s
            work, trap = f"{number(n)} × {number(factor)}", n * factor * rng.choice([Fraction(10), Fraction(1, 10)])
        else:
            x, y, source, from_short, target, to_short = n * factor, n, small, s, big, b
            work, trap = f"{number(n * factor)} / {number(factor)}", n * rng.choice([Fraction(10), Fraction(1, 10)])
        return ask(
            rng, f"units/{kind}",
            ["Convert {x} {from} to {to}.", "How many {to} are {x} {from}?", "{x} {f} in {t}?",
             "Express {x} {f} in {to}.", ("Convert the quantity to {to}.", "{x} {from}"),
             "What is {x} {f} written in {t}?", "I have {x} {from}. How much is that in {to}?"],
            ["{y} {t}", "{x} {f} = {y} {t}", "{x} {from} are {y} {to}.", "1 {B} = {k} {S}, so {x} {f} = {y} {t}.",
             "One {B} is {k} {S}. {work} = {y}, so {x} {f} = {y} {t}.", "{work} = {y}",
             "To go from {from} to {to}, {verb} by {k}. {work} = {y}. The answer is {y} {to}."],
            {"x": number(x), "y": number(y), "from": source, "to": target, "f": from_short, "t": to_short,
             "k": number(factor), "B": b, "S": s, "work": work, "verb": "multiply" if down else "divide"},
            {"y": number(trap)}, problem=(number(x), source, target),
        )  # fmt: skip

    return make


def _temperature(rng: Random) -> Task:
    c = rng.randrange(-40, 220, 5)
    f = c * 9 // 5 + 32
    if rng.random() < 0.5:
        return ask(
            rng, "units/temperature",
            ["Convert {c} °C to Fahrenheit.", "What is {c} degrees Celsius in °F?",
             "It is {c} °C outside my lab oven. How much is that in Fahrenheit?",
             ("Convert the temperature to °F.", "{c} °C")],
            ["{f} °F", "{c} °C = {f} °F", "{c} × 9 / 5 + 32 = {f}, so it is {f} °F.",
             "Multiply by 9, divide by 5 and add 32. That gives {f} °F."], {"c": c, "f": f},
            {"f": f - 32 if c != 0 else 0}, problem=(c, "C"),
        )  # fmt: skip
    return ask(
        rng, "units/temperature",
        ["Convert {f} °F to Celsius.", "What is {f} degrees Fahrenheit in °C?",
         ("Convert the temperature to °C.", "{f} °F")],
        ["{c} °C", "{f} °F = {c} °C", "({f} - 32) × 5 / 9 = {c}, so it is {c} °C.",
         "Subtract 32, multiply by 5 and divide by 9. The result is {c} °C."], {"c": c, "f": f},
        {"c": c + rng.choice([-10, 5, 18])}, problem=(c, "C"),
    )  # fmt: skip


def _speed(rng: Random) -> Task:
    ms = Fraction(rng.randint(2, 200), 2)
    kmh = ms * Fraction(36, 10)
    values = {"ms": number(ms), "kmh": number(kmh)}
    if rng.random() < 0.5:
        return ask(
            rng, "units/speed",
            ["Convert {ms} m/s to km/h.", "How fast is {ms} metres per second in kilometres per hour?",
             "{ms} m/s is how many km/h?"],
            ["{kmh} km/h", "{ms} m/s = {kmh} km/h", "{ms} × 3.6 = {kmh}, so {kmh} km/h.",
             "One metre per second is 3.6 km/h, which makes {kmh} km/h."], values,
            {"kmh": number(ms * rng.choice([Fraction(3), Fraction(36), Fraction(16, 10)]))}, problem=(ms, "m/s"),
        )  # fmt: skip
    return ask(
        rng, "units/speed",
        ["Convert {kmh} km/h to m/s.", "What is {kmh} kilometres per hour in metres per second?",
         ("Give the speed in m/s.", "{kmh} km/h")],
        ["{ms} m/s", "{kmh} km/h = {ms} m/s", "{kmh} / 3.6 = {ms}, so {ms} m/s."], values,
        {"ms": number(ms * rng.choice([Fraction(2), Fraction(10), Fraction(1, 10)]))}, problem=(ms, "m/s"),
    )  # fmt: skip


def _compound(rng: Random) -> Task:
    kinds: list[tuple[str, str, str, int]] = [
        ("h", "min", "minutes", 60), ("min", "s", "seconds", 60), ("ft", "in", "inches", 12),
        ("kg", "g", "grams", 1000), ("lb", "oz", "ounces", 16), ("m", "cm", "centimetres", 100),
    ]  # fmt: skip
    big, small, name, factor = rng.choice(kinds)
    x, y = rng.randint(2, 30), rng.randint(1, factor - 1)
    v = x * factor + y
    return ask(
        rng, "units/compound",
        ["How many {name} are {x} {big} {y} {small}?", "Express {x} {big} {y} {small} in {name}.",
         ("Convert to {name} only.", "{x} {big} {y} {small}"),
         "{x} {big} and {y} {small} is how many {name} in total?"],
        ["{v} {small}", "{x} {big} {y} {small} = {v} {small}", "{x} × {k} + {y} = {v}, so {v} {name}.",
         "{x} {big} are {m} {small}. Add the {y} {small} you already have: {m} + {y} = {v}.", "In total {v} {name}."],
        {"x": x, "y": y, "big": big, "small": small, "name": name, "k": factor, "m": x * factor, "v": v},
        {"v": x * rng.choice([k for k in (10, 12, 60, 100) if k != factor]) + y}, problem=(x, y, big),
    )  # fmt: skip


def _compare(rng: Random) -> Task:
    _, b, _, s, factor = rng.choice([row for rows in SCALES.values() for row in rows if row[4].denominator == 1])
    n = rng.randint(2, 40)
    base = n * factor
    other = base + rng.choice([-1, 1]) * (
        rng.randint(1, int(factor)) if factor < 100 else rng.randint(1, 9) * factor / 10
    )
    left, right = f"{n} {b}", f"{number(other)} {s}"
    more, less = (left, right) if base > other else (right, left)
    return ask(
        rng, "units/compare",
        ["Which is more: {l} or {r}?", "Compare {l} and {r}. Which is greater?",
         ("Name the larger quantity.", "{l}; {r}"), "Is {l} more than {r}, or less?"],
        ["{more}", "{more} is more, since {n} {b} is {base} {s}.",
         "{n} {b} are {base} {s}, so {more} is the larger of the two and {less} the smaller."],
        {"l": left, "r": right, "more": more, "less": less, "n": n, "b": b, "base": number(base), "s": s},
        {"more": less, "less": more}, problem=(left, right),
    )  # fmt: skip


def _recipe(rng: Random) -> Task:
    per, people, wanted = (
        rng.choice([20, 25, 30, 40, 50, 60, 75, 125]), rng.choice([2, 3, 4, 6]), rng.choice([5, 7, 8, 9, 10, 12]),
    )  # fmt: skip
    item = rng.choice(["flour", "rice", "sugar", "quinoa", "semolina", "grated cheese", "couscous", "butter"])
    have, need = per * people, per * wanted
    return ask(
        rng, "units/recipe",
        ["A recipe for {p} people needs {have} g of {item}. How much {item} is needed for {w} people?",
         "Scale {have} g of {item} for {p} servings to {w} servings.",
         "For {p} portions I use {have} g of {item}. What do I need for {w} portions?"],
        ["{need} g", "One person needs {have} / {p} = {one} g, so {w} people need {w} × {one} = {need} g.",
         "You need {need} g of {item}.", "{have} / {p} × {w} = {need}"],
        {"p": people, "w": wanted, "item": item, "have": have, "need": need, "one": per},
        {"need": need + rng.choice([-per, per, 10, 2 * per])}, problem=(have, people, wanted),
    )  # fmt: skip


MAKERS: list[Maker] = [
    _scale("length"), _scale("length"), _scale("mass"), _scale("volume"), _scale("time"), _scale("data"),
    _scale("area"), _temperature, _speed, _compound, _compare, _recipe,
]  # fmt: skip
