"""Conversations that go on from their own earlier answers: sums, shopping, units, trips, calendars, numbers."""

import math
from datetime import date, timedelta
from fractions import Fraction
from random import Random

from demo.corpus.talk import Talk
from demo.corpus.task import Maker, Task, number, slip
from demo.corpus.tasks_dates import DAYS, long
from demo.corpus.tasks_word_problems import GOODS, NAMES


def _running_sum(rng: Random) -> Task:
    a, b = rng.randint(10, 400), rng.randint(10, 400)
    value = a + b
    talk = Talk(rng, "conversation/running_sum").turn(
        ["What is {a} + {b}?", "Please add {a} and {b}.", "Let's do some sums. {a} plus {b}?",
         "I have {a} and get {b} more. Total?"], ["{v}", "{a} + {b} = {v}.", "That is {v}."], a=a, b=b, v=value,
    )  # fmt: skip
    for _ in range(rng.randint(1, 3)):
        step = rng.randint(2, 9)
        op, after, words = rng.choice([
            ("×", value * step, ["Multiply that by {s}.", "Now times {s}.", "And {s} of those?"]),
            ("+", value + 10 * step, ["Add {t} to it.", "Plus {t}?", "Now add another {t}."]),
            ("-", value - step, ["Take {s} away from that.", "Minus {s}?", "And if I lose {s}?"]),
        ])  # fmt: skip
        operand = 10 * step if op == "+" else step
        talk.turn(
            words, ["{old} {op} {n} = {v}", "That gives {v}.", "{v}, because {old} {op} {n} = {v}."],
            {"v": slip(rng, after)}, s=step, t=10 * step, old=value, op=op, n=operand, v=after,
        )  # fmt: skip
        value = after
    return talk.task(a, b, value)


def _cart(rng: Random) -> Task:
    goods = rng.sample(GOODS, rng.randint(2, 3))
    who, total, talk, seen = rng.choice(NAMES), 0, Talk(rng, "conversation/cart"), []
    for i, item in enumerate(goods):
        n, price = rng.randint(2, 9), rng.randint(2, 14)
        before, cost = total, n * price
        total += cost
        seen.append((item, n, price))
        if i == 0:
            talk.turn(
                ["{who} here. I want {n} {item} at {p} euros each. What does that cost?",
                 "I am shopping: {n} {item}, {p} euros each. How much?",
                 "Keep a running total for me, please. First {n} {item} for {p} euros apiece."],
                ["{n} × {p} = {c}, so {c} euros.", "{c} euros so far.", "That is {c} euros for the {item}."],
                who=who, n=n, item=item, p=price, c=cost,
            )  # fmt: skip
        else:
            talk.turn(
                ["Add {n} {item} at {p} euros each. What is the total now?", "And {n} {item} for {p} euros apiece?",
                 "Put in {n} {item} too, {p} euros each."],
                ["The {item} cost {n} × {p} = {c} euros. With the earlier {b} euros the total is {b} + {c} = {t} "
                 "euros.", "{b} + {n} × {p} = {t}", "The total is now {t} euros."], {"t": slip(rng, total)}, n=n,
                item=item, p=price, c=cost, b=before, t=total,
            )  # fmt: skip
    if rng.random() < 0.6:
        paid = total + rng.randint(2, 50)
        talk.turn(
            ["I pay with {paid} euros. What do I get back?", "Here are {paid} euros.",
             "How much change from {paid} euros?"],
            ["{paid} - {total} = {back}, so you get {back} euros back.", "Your change is {back} euros.",
             "{back} euros"], {"back": slip(rng, paid - total)}, paid=paid, total=total, back=paid - total,
        )  # fmt: skip
    return talk.task(seen)


def _ladder(rng: Random) -> Task:
    units, factors = rng.choice([
        (("km", "m", "cm"), (1000, 100)), (("t", "kg", "g"), (1000, 1000)), (("h", "min", "s"), (60, 60)),
        (("wk", "d", "h"), (7, 24)), (("m", "cm", "mm"), (100, 10)), (("GB", "MB", "kB"), (1000, 1000)),
        (("yd", "ft", "in"), (3, 12)), (("m³", "L", "mL"), (1000, 1000)),
    ])  # fmt: skip
    x = Fraction(rng.randint(3, 180), rng.choice([1, 1, 2]))
    y, z = x * factors[0], x * factors[0] * factors[1]
    return (
        Talk(rng, "conversation/unit_ladder")
        .turn(
            ["How many {v} are {x} {u}?", "I need {x} {u} in {v}.", "Convert {x} {u} to {v} for me.",
             "{x} {u} in {v}, please."], ["{y} {v}", "{x} {u} = {y} {v}", "{x} × {f} = {y}, so {y} {v}."],
            x=number(x), y=number(y), u=units[0], v=units[1], f=factors[0],
        )
        .turn(
            ["And in {w}?", "What about {w}?", "Now the same in {w}.", "Can you go one step further, to {w}?"],
            ["{z} {w}", "{y} {v} = {z} {w}", "{y} × {g} = {z}, so {z} {w}.",
             "One {v} has {g} {w}, which makes {z} {w}."],
            {"z": number(z * rng.choice([Fraction(10), Fraction(1, 10), Fraction(2)]))}, w=units[2], g=factors[1],
            z=number(z),
        )
        .task(x, units)
    )  # fmt: skip


def _trip(rng: Random) -> Task:
    speed, hours, start = rng.choice([30, 40, 50, 60, 80, 90, 100]), rng.randint(2, 6), rng.randint(5, 14)
    rest = rng.choice([15, 20, 30, 45])
    minute = rng.choice([0, 5, 10, 20])
    arrive = start * 60 + minute + hours * 60
    w = arrive + rest + rng.choice([-60, -10, 5, 60])
    return (
        Talk(rng, "conversation/trip")
        .turn(
            ["I drive {d} km at {s} km/h on average. How long does that take?",
             "{who} has to cover {d} km and manages {s} km/h. How many hours is that?",
             "Help me plan a trip: {d} km, average speed {s} km/h."],
            ["{d} / {s} = {h}, so {h} hours.", "It takes {h} hours.", "At {s} km/h the {d} km take {h} hours."],
            who=rng.choice(NAMES), d=speed * hours, s=speed, h=hours,
        )
        .turn(
            ["Leaving at {a}, when is the arrival?", "If the start is at {a}?", "We leave at {a}. When are we there?"],
            ["{b}", "Arrival is at {b}.", "{a} plus {h} hours is {b}."], a=_clock(start * 60 + minute),
            b=_clock(arrive),
        )
        .turn(
            ["With a break of {r} minutes?", "And with a {r} minute stop on the way?",
             "Add {r} minutes for lunch, please."],
            ["Then it is {c}.", "{c}", "The break moves the arrival from {b} to {c}."], {"c": _clock(w)}, r=rest,
            c=_clock(arrive + rest),
        )
        .task(speed, hours, start, minute, rest)
    )  # fmt: skip


def _calendar(rng: Random) -> Task:
    day = date(rng.randint(1990, 2035), 1, 1) + timedelta(days=rng.randrange(365))
    n, m = rng.randint(3, 45), rng.randint(2, 20)
    then, last = day + timedelta(days=n), day + timedelta(days=n + m)
    return (
        Talk(rng, "conversation/calendar")
        .turn(
            ["Our course starts on {a} and runs for {n} days after that. Which date is the end?",
             "What is the date {n} days after {a}?", "Today is {a}. I have to be done in {n} days. When is that?"],
            ["{b}", "That is {b}.", "{n} days after {a} is {b}."], a=long(day), n=n, b=long(then),
        )
        .turn(
            ["Which weekday is that?", "And what day of the week?", "Is that on a weekend? Tell me the weekday."],
            ["{w}", "{b} is a {w}.", "It is a {w}."], {"w": DAYS[(then.weekday() + rng.randint(1, 6)) % 7]},
            w=DAYS[then.weekday()],
        )
        .turn(
            ["I need {m} more days. What is the new date?", "Suppose it takes {m} days longer.",
             "Shift it by another {m} days."], ["Then it is {c}, a {x}.", "{c}", "The new date is {c}."],
            {"c": long(last + timedelta(days=rng.choice([-1, 1, 2]))), "x": DAYS[(last.weekday() + 3) % 7]}, m=m,
            c=long(last), x=DAYS[last.weekday()],
        )
        .task(day, n, m)
    )  # fmt: skip


def _number_facts(rng: Random) -> Task:
    n, k = rng.randint(12, 400), rng.randint(3, 12)
    least = next((d for d in range(2, math.isqrt(n) + 1) if n % d == 0), None)
    prime = "Yes, it has no divisor but 1 and itself." if least is None else f"No, {least} × {n // least} = {n}."
    return (
        Talk(rng, "conversation/number_facts")
        .turn(
            ["Is {n} even or odd?", "Tell me about the number {n}: even or odd?", "Let's talk about {n}. Is it even?"],
            ["{n} is {e}.", "It is {e}, because it ends in {last}."], n=n, e="odd" if n % 2 else "even", last=n % 10,
        )
        .turn(["Is it prime?", "And is it a prime number?", "Prime or not?"], ["{p}"], p=prime)
        .turn(
            ["What remainder does it leave when divided by {k}?", "Divide it by {k}. What is left over?",
             "And modulo {k}?"],
            ["{r}", "The remainder is {r}, since {n} = {k} × {q} + {r}.",
             "{k} goes in {q} times and {r} is left over."], {"r": (n + rng.randint(1, k - 1)) % k}, k=k, q=n // k,
            r=n % k,
        )
        .task(n, k)
    )  # fmt: skip


def _recheck(rng: Random) -> Task:
    a, b = rng.randint(12, 99), 10 * rng.randint(1, 4) + rng.randint(1, 9)
    tens, ones = b - b % 10, b % 10
    return (
        Talk(rng, "conversation/recheck")
        .turn(
            ["What is {a} × {b}?", "{a} times {b}?", "Quick one: {a} * {b}", "How much is {a} multiplied by {b}?"],
            ["{v}", "{a} × {b} = {v}", "It is {v}."], a=a, b=b, v=a * b,
        )
        .turn(
            ["Are you sure? Show me how.", "How did you get that?", "Explain the steps, please.",
             "My friend got {f}. Who is right?"],
            ["{a} × {t} = {p} and {a} × {o} = {q}. Together {p} + {q} = {v}.",
             "Split {b} into {t} + {o}: {p} + {q} = {v}.",
             "I multiply {a} by {t}, which is {p}, and by {o}, which is {q}. The sum {p} + {q} = {v} is the answer."],
            {"v": slip(rng, a * b)}, f=slip(rng, a * b), t=tens, o=ones, p=a * tens, q=a * ones,
        )
        .task(sorted([a, b]))
    )  # fmt: skip


def _portions(rng: Random) -> Task:
    per, start = rng.choice([20, 25, 30, 40, 60, 75, 80, 120]), rng.randint(2, 4)
    item = rng.choice(["rice", "pasta", "flour", "quinoa", "spinach", "soup mix", "muesli"])
    talk = Talk(rng, "conversation/portions").turn(
        ["My recipe uses {g} g of {item} for {n} people. How much is that per person?",
         "{g} g of {item} feed {n} people. What does one person get?"],
        ["{g} / {n} = {p}, so {p} g each.", "{p} g per person."], g=per * start, n=start, p=per, item=item,
    )  # fmt: skip
    wanted = rng.sample(range(5, 16), rng.randint(1, 2))
    for m in wanted:
        talk.turn(
            ["And for {m} people?", "How much for {m}?", "We will be {m}. How much {item} do I need?"],
            ["{p} × {m} = {v}, so {v} g.", "{v} g of {item}", "For {m} people take {v} g."],
            {"v": slip(rng, per * m)}, m=m, v=per * m,
        )  # fmt: skip
    return talk.task(per, start, item, wanted)


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"


MAKERS: list[Maker] = [_running_sum, _running_sum, _cart, _ladder, _trip, _calendar, _number_facts, _recheck, _portions]
