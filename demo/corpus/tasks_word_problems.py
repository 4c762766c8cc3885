"""Arithmetic told as a story: shopping, travel, sharing, areas, ages, savings."""

from fractions import Fraction
from random import Random

from demo.corpus.task import Maker, Task, ask, number, slip

NAMES = [
    "Ada", "Ben", "Chloe", "Dev", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Leo", "Mara", "Noah",
    "Olga", "Priya", "Quentin", "Rosa", "Sam", "Tariq", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe",
]  # fmt: skip
GOODS = [
    "notebooks", "pencils", "apples", "light bulbs", "postcards", "bus tickets", "muffins", "batteries", "stickers",
    "lemons", "tea bags", "socks", "candles", "seed packets", "bagels",
]  # fmt: skip


def _shopping(rng: Random) -> Task:
    n, price = rng.randint(3, 24), rng.randint(2, 19)
    cost = n * price
    paid = cost + rng.randint(1, 60)
    change, w = paid - cost, slip(rng, paid - cost)
    return ask(
        rng, "arithmetic/shopping",
        ["{who} buys {n} {goods} at {p} euros each and pays with {paid} euros. How much change is due?",
         "A shop sells {goods} for {p} euros apiece. {who} takes {n} and hands over {paid} euros. What is the "
         "change?", "{n} {goods}, {p} euros each, paid with {paid} euros. Work out the change.",
         ("Solve the word problem.",
          "{who} has {paid} euros and buys {n} {goods} for {p} euros each. How much is left?")],
        ["{c} euros", "The {goods} cost {n} × {p} = {cost} euros. The change is {paid} - {cost} = {c} euros.",
         "{paid} - {n} × {p} = {c}, so {c} euros come back.",
         "First the bill: {n} × {p} = {cost}.\nThen the change: {paid} - {cost} = {c}.\n{who} keeps {c} euros."],
        {"who": rng.choice(NAMES), "n": n, "goods": rng.choice(GOODS), "p": price, "cost": cost, "paid": paid,
         "c": change}, {"c": w}, problem=(n, price, paid),
    )  # fmt: skip


def _travel(rng: Random) -> Task:
    speed, hours = rng.choice([12, 15, 18, 40, 45, 50, 60, 65, 70, 80, 90, 110, 120]), rng.randint(2, 9)
    far = speed * hours
    what = (
        rng.choice(["train", "bus", "car", "lorry", "coach"])
        if speed > 30
        else rng.choice(["cyclist", "runner on a bike", "ferry"])
    )
    values = {"what": what, "v": speed, "t": hours, "d": far}
    if rng.random() < 0.5:
        return ask(
            rng, "arithmetic/distance",
            ["A {what} travels at {v} km/h for {t} hours. How far does it get?",
             "How many kilometres are covered in {t} hours at {v} km/h by a {what}?",
             "Speed {v} km/h, time {t} h: what is the distance for the {what}?"],
            ["{d} km", "Distance is speed times time: {v} × {t} = {d}, so {d} km.", "It covers {d} kilometres.",
             "In one hour the {what} covers {v} km. In {t} hours that is {v} × {t} = {d} km."], values,
            {"d": slip(rng, far)}, problem=(speed, hours),
        )  # fmt: skip
    return ask(
        rng, "arithmetic/travel_time",
        ["A {what} has to cover {d} km at {v} km/h. How long does it take?",
         "How many hours does a {what} need for {d} km at a steady {v} km/h?",
         ("Compute the travel time.", "Distance: {d} km\nSpeed: {v} km/h\nVehicle: {what}")],
        ["{t} hours", "Time is distance over speed: {d} / {v} = {t} hours.",
         "It takes {t} hours, since {d} ÷ {v} = {t}."], values, {"t": slip(rng, hours)}, problem=(speed, hours),
    )  # fmt: skip


def _rectangle(rng: Random) -> Task:
    a, b = rng.randint(3, 60), rng.randint(3, 60)
    thing = rng.choice(["garden", "room", "field", "poster", "table top", "car park", "rug", "sports hall"])
    unit = "cm" if thing in ("poster", "rug", "table top") else "m"
    values = {"thing": thing, "a": a, "b": b, "u": unit, "area": a * b, "s": a + b, "p": 2 * (a + b)}
    if rng.random() < 0.5:
        return ask(
            rng, "arithmetic/area",
            ["A rectangular {thing} is {a} {u} long and {b} {u} wide. What is its area?",
             "Find the area of a {a} {u} by {b} {u} {thing}.",
             ("Compute the area of the rectangle.", "{thing}: length {a} {u}, width {b} {u}")],
            ["{area} square {u}", "Area = length × width: {a} × {b} = {area}. That is {area} square {u}.",
             "{a} × {b} = {area} ({u}²)"], values, {"area": slip(rng, a * b)}, problem=sorted([a, b]),
        )  # fmt: skip
    return ask(
        rng, "arithmetic/perimeter",
        ["What is the perimeter of a {thing} measuring {a} {u} by {b} {u}?",
         "How many {u} of edging go around a {a} {u} × {b} {u} {thing}?",
         "A {thing} has sides of {a} {u} and {b} {u}. How long is the way around it?"],
        ["{p} {u}", "2 × ({a} + {b}) = {p}, so {p} {u}.",
         "One length and one width make {a} + {b} = {s}. Twice that is 2 × {s} = {p} {u}."], values,
        {"p": slip(rng, 2 * (a + b))}, problem=sorted([a, b]),
    )  # fmt: skip


def _share(rng: Random) -> Task:
    x, y, unit = rng.randint(1, 7), rng.randint(1, 7), rng.randint(4, 40)
    while x == y:
        y = rng.randint(1, 7)
    first, second = rng.sample(NAMES, 2)
    total = (x + y) * unit
    return ask(
        rng, "arithmetic/ratio",
        ["{first} and {second} share {total} euros in the ratio {x}:{y}. How much does {first} get?",
         "Split {total} euros between {first} and {second} as {x} to {y}. What is {first}'s part?",
         "{total} euros are divided {x}:{y} between {first} and {second}. Find the amount for {first}."],
        ["{v} euros",
         "There are {x} + {y} = {n} parts. One part is {total} / {n} = {u} euros, so {first} gets {x} × {u} = {v} "
         "euros.", "{first} gets {v} euros.", "Each part is worth {u} euros. {x} × {u} = {v}."],
        {"first": first, "second": second, "x": x, "y": y, "n": x + y, "u": unit, "total": total, "v": x * unit},
        {"v": y * unit}, problem=(total, x, y),
    )  # fmt: skip


def _discount(rng: Random) -> Task:
    price, p = rng.randint(2, 60) * 10, rng.choice([5, 10, 15, 20, 25, 30, 40, 50])
    off = Fraction(price * p, 100)
    item = rng.choice([
        "coat", "lamp", "bicycle helmet", "keyboard", "desk chair", "tent", "watch", "blender", "backpack",
    ])  # fmt: skip
    return ask(
        rng, "arithmetic/discount",
        ["A {item} costs {price} euros and is reduced by {p}%. What is the new price?",
         "What do I pay for a {price} euro {item} at {p}% off?",
         ("Calculate the sale price.", "Item: {item}\nPrice: {price} euros\nDiscount: {p}%")],
        ["{v} euros",
         "The discount is {price} × {p} / 100 = {off} euros. The new price is {price} - {off} = {v} euros.",
         "{price} - {off} = {v}", "{p}% of {price} is {off}, so you pay {v} euros."],
        {"item": item, "price": price, "p": p, "off": number(off), "v": number(price - off)},
        {"v": number(price - off + rng.choice([-3, -2, 1, 4]))}, problem=(price, p),
    )  # fmt: skip


def _interest(rng: Random) -> Task:
    capital, rate, years = rng.randint(2, 60) * 100, rng.randint(1, 8), rng.randint(2, 9)
    yearly = capital * rate // 100
    return ask(
        rng, "arithmetic/simple_interest",
        ["{who} puts {c} euros in an account at {r}% simple interest. How much interest is earned in {y} years?",
         "Simple interest on {c} euros at {r}% per year for {y} years: how much for {who}?",
         ("Compute the simple interest.", "Owner: {who}\nPrincipal: {c} euros\nRate: {r}%\nYears: {y}")],
        ["{i} euros",
         "Each year earns {c} × {r} / 100 = {one} euros. Over {y} years that is {one} × {y} = {i} euros.",
         "The interest comes to {i} euros ({one} euros a year).", "{c} × {r} × {y} / 100 = {i}"],
        {"who": rng.choice(NAMES), "c": capital, "r": rate, "y": years, "one": yearly, "i": yearly * years},
        {"i": slip(rng, yearly * years)}, problem=(capital, rate, years),
    )  # fmt: skip


def _ages(rng: Random) -> Task:
    younger, gap, later = rng.randint(4, 40), rng.randint(2, 25), rng.randint(2, 20)
    a, b = rng.sample(NAMES, 2)
    return ask(
        rng, "arithmetic/ages",
        ["{a} is {n} years old and {b} is {g} years older. How old will {b} be in {l} years?",
         "{b} is {g} years older than {a}, who is {n}. What will {b}'s age be {l} years from now?"],
        ["{v}", "{b} is {n} + {g} = {now} today and will be {now} + {l} = {v}.",
         "In {l} years {b} will be {v} years old.", "Today {b} is {now}. Add {l}: {now} + {l} = {v}."],
        {"a": a, "b": b, "n": younger, "g": gap, "l": later, "now": younger + gap, "v": younger + gap + later},
        {"v": slip(rng, younger + gap + later)}, problem=(younger, gap, later),
    )  # fmt: skip


def _savings(rng: Random) -> Task:
    have, weekly, weeks = rng.randint(2, 90), rng.randint(3, 30), rng.randint(3, 26)
    goal = have + weekly * weeks
    thing = rng.choice([
        "a skateboard", "a guitar", "a tablet", "a camera", "a drum kit", "a pair of running shoes", "a microscope",
    ])  # fmt: skip
    return ask(
        rng, "arithmetic/savings",
        ["{who} has {h} euros and saves {w} euros a week for {thing} that costs {g} euros. How many weeks does it "
         "take?",
         "The price of {thing} is {g} euros. {who} already has {h} euros and puts aside {w} euros every week. "
         "After how many weeks is there enough?"],
        ["{n} weeks", "{g} - {h} = {gap} euros are missing. {gap} / {w} = {n}, so it takes {n} weeks.",
         "It takes {n} weeks, because {h} + {n} × {w} = {g}."],
        {"who": rng.choice(NAMES), "thing": thing, "h": have, "w": weekly, "g": goal, "gap": goal - have, "n": weeks},
        {"n": slip(rng, weeks)}, problem=(have, weekly, goal),
    )  # fmt: skip


def _packing(rng: Random) -> Task:
    size, full, rest = rng.randint(4, 24), rng.randint(3, 30), rng.randint(1, 3)
    total = size * full + rest
    return ask(
        rng, "arithmetic/packing",
        ["{total} {goods} are packed into boxes of {s}. How many boxes are needed for all of them?",
         "A box holds {s} {goods}. How many boxes does {who} need for {total} {goods}?"],
        ["{v} boxes",
         "{f} boxes hold {f} × {s} = {m}. That leaves {r} more, so one extra box is needed: {f} + 1 = {v}.",
         "{v} boxes: {f} full ones and one with only {r} in it."],
        {"who": rng.choice(NAMES), "goods": rng.choice(GOODS), "total": total, "s": size, "f": full,
         "m": size * full, "r": rest, "v": full + 1}, {"v": full}, problem=(total, size),
    )  # fmt: skip


MAKERS: list[Maker] = [
    _shopping, _shopping, _travel, _rectangle, _share, _discount, _interest, _ages, _savings, _packing,
]  # fmt: skip
