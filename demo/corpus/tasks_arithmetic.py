"""Bare arithmetic: sums, products, percentages, powers, equations.

Worked answers show their equations, so that a reader who recomputes them can tell right from wrong.
"""

from fractions import Fraction
from random import Random

from demo.corpus.task import Maker, Task, ask, listing, number, slip


def _add(rng: Random) -> Task:
    a, b = rng.randint(12, 4999), rng.randint(12, 4999)
    c, w = a + b, slip(rng, a + b)
    return ask(
        rng, "arithmetic/add",
        ["What is {a} + {b}?", "Add {a} and {b}.", "Compute the sum of {a} and {b}.", "{a} + {b} = ?",
         ("Add the two numbers.", "{a} and {b}"), "If I have {a} points and win {b} more, what is my total?"],
        ["{c}", "{a} + {b} = {c}", "The sum is {c}.", "Adding {a} and {b}: {a} + {b} = {c}.", "That makes {c}.",
         "Start from {a} and count on {b}. Since {a} + {b} = {c}, the answer is {c}."], {"a": a, "b": b, "c": c},
        {"c": w}, problem=sorted([a, b]),
    )  # fmt: skip


def _add_many(rng: Random) -> Task:
    xs = [rng.randint(3, 250) for _ in range(rng.randint(3, 5))]
    plus = " + ".join(map(str, xs))

    def steps(last: int) -> str:
        lines, total = [], xs[0]
        for x in xs[1:-1]:
            lines.append(f"{total} + {x} = {total + x}")
            total += x
        return "; ".join([*lines, f"{total} + {xs[-1]} = {last}"])

    c, w = sum(xs), slip(rng, sum(xs))
    return ask(
        rng, "arithmetic/add_many",
        ["Work out {plus}.", "What do you get when you add {items}?",
         ("Find the total of these numbers.", "{items}"), "Sum these up for me: {items}", "What is {plus}?"],
        ["{plus} = {c}", "The total is {c}.", "Step by step: {steps}. So the total is {c}.", "{c}",
         "Running total: {steps}."], {"items": listing(xs), "plus": plus, "c": c, "steps": steps(c)},
        {"c": w, "steps": steps(w)}, problem=sorted(xs),
    )  # fmt: skip


def _subtract(rng: Random) -> Task:
    a, b = rng.randint(50, 6000), rng.randint(12, 3000)
    return ask(
        rng, "arithmetic/subtract",
        ["What is {a} - {b}?", "Subtract {b} from {a}.", "Take {b} away from {a}.", "Find the difference {a} - {b}.",
         ("Compute the difference: first number minus second number.", "{a}\n{b}")],
        ["{c}", "{a} - {b} = {c}", "The difference is {c}.", "Taking {b} from {a} leaves {c}.",
         "We want {a} minus {b}. {a} - {b} = {c}, so the result is {c}."], {"a": a, "b": b, "c": a - b},
        {"c": slip(rng, a - b)},
    )  # fmt: skip


def _multiply(rng: Random) -> Task:
    a, b = rng.randint(12, 199), rng.randint(12, 99)
    while b % 10 == 0:
        b = rng.randint(12, 99)
    tens, ones = b - b % 10, b % 10
    p1, p2 = a * tens, a * ones
    # The slip is either in a partial product, and carried to the end, or in the last sum alone.
    q1 = slip(rng, p1) if rng.random() < 0.5 else p1
    w = q1 + p2 if q1 != p1 else slip(rng, a * b)
    return ask(
        rng, "arithmetic/multiply",
        ["What is {a} × {b}?", "Multiply {a} by {b}.", "Calculate {a} * {b}.", "Find the product of {a} and {b}.",
         ("Multiply the numbers and show your work.", "{a} and {b}"), "How much is {a} times {b}?"],
        ["{c}", "{a} × {b} = {c}.", "The product is {c}.",
         "Split {b} into {tens} and {ones}. {a} × {tens} = {p1} and {a} × {ones} = {p2}. Together {p1} + {p2} = "
         "{c}.", "1. {a} × {tens} = {p1}\n2. {a} × {ones} = {p2}\n3. {p1} + {p2} = {c}\n\nAnswer: {c}",
         "{a} * {b} = {c}"], {"a": a, "b": b, "c": a * b, "tens": tens, "ones": ones, "p1": p1, "p2": p2},
        {"p1": q1, "c": w}, problem=sorted([a, b]),
    )  # fmt: skip


def _divide(rng: Random) -> Task:
    b, c = rng.randint(3, 48), rng.randint(4, 160)
    return ask(
        rng, "arithmetic/divide",
        ["What is {a} ÷ {b}?", "Divide {a} by {b}.", "How many times does {b} go into {a}?", "Calculate {a} / {b}.",
         ("Divide the first number by the second.", "{a}, {b}")],
        ["{c}", "{a} ÷ {b} = {c}", "{a} / {b} = {c}", "It goes in exactly {c} times, because {b} × {c} = {a}.",
         "Look for the number that gives {a} when multiplied by {b}. {b} × {c} = {a}, so the quotient is {c}."],
        {"a": b * c, "b": b, "c": c}, {"c": slip(rng, c)},
    )  # fmt: skip


def _remainder(rng: Random) -> Task:
    b, q = rng.randint(3, 29), rng.randint(3, 60)
    r = rng.randint(1, b - 1)
    w = (r + rng.randint(1, b - 1)) % b
    return ask(
        rng, "arithmetic/remainder",
        ["What is the remainder when {a} is divided by {b}?", "Divide {a} by {b} and give quotient and remainder.",
         "Find {a} mod {b}.", "I split {a} cards among {b} players. How many cards are left over?"],
        ["{a} = {b} × {q} + {r}, so the remainder is {r}.", "The remainder is {r}.", "{q} remainder {r}",
         "{b} × {q} = {m}, and from {m} to {a} it is {r} more. The quotient is {q} and {r} is left over."],
        {"a": b * q + r, "b": b, "q": q, "r": r, "m": b * q}, {"r": w}, problem=(b * q + r, b),
    )  # fmt: skip


def _order_of_operations(rng: Random) -> Task:
    a, b, c = rng.randint(2, 60), rng.randint(2, 15), rng.randint(2, 15)
    if rng.random() < 0.5:
        expression, inner, value, trap = f"{a} + {b} × {c}", f"{b} × {c} = {b * c}", a + b * c, (a + b) * c
        rest, why = f"{a} + {b * c}", "multiplication comes before addition"
    else:
        expression, inner, value, trap = f"({a} + {b}) × {c}", f"{a} + {b} = {a + b}", (a + b) * c, a + b * c
        rest, why = f"{a + b} × {c}", "the parentheses come first"
    return ask(
        rng, "arithmetic/order_of_operations",
        ["Evaluate {e}.", "What is {e}?", "Compute {e} using the order of operations.",
         ("Simplify the expression.", "{e}"), "How much is {e}, and which part do you do first?"],
        ["{e} = {v}", "Because {why}, start with {inner}. Then {rest} = {v}.", "The value is {v}.",
         "First {inner}, then {rest} = {v}. The rule is that {why}."],
        {"e": expression, "inner": inner, "rest": rest, "why": why, "v": value}, {"v": trap}, problem=expression,
    )  # fmt: skip


def _percent(rng: Random) -> Task:
    p, n = rng.choice([5, 10, 12, 15, 20, 25, 30, 35, 40, 60, 75, 80]), rng.randint(2, 90) * 10
    v = Fraction(p * n, 100)
    return ask(
        rng, "arithmetic/percent_of",
        ["What is {p}% of {n}?", "Find {p} percent of {n}.", "Calculate {p}% of {n} and show how.",
         "A class has {n} marks in total. How many marks is {p}%?", ("Compute the percentage.", "{p}% of {n}")],
        ["{v}", "{p}% of {n} is {v}.", "{n} × {p} / 100 = {v}",
         "Divide by 100 and multiply by {p}: {n} × {p} / 100 = {v}.",
         "One percent of {n} is {one}. Taking {p} of those, {one} × {p} = {v}."],
        {"p": p, "n": n, "v": number(v), "one": number(Fraction(n, 100))},
        {"v": number(v + rng.choice([-1, 1, 2, 5]))},
    )  # fmt: skip


def _mean(rng: Random) -> Task:
    k, mean = rng.randint(3, 6), rng.randint(8, 90)
    xs = [mean + rng.randint(-7, 7) for _ in range(k - 1)]
    xs.append(mean * k - sum(xs))
    total, w = sum(xs), slip(rng, mean)
    return ask(
        rng, "arithmetic/mean",
        ["What is the average of {xs}?", "Find the mean of these numbers: {xs}.",
         ("Compute the arithmetic mean.", "{xs}"), "My last {k} scores were {xs}. What is my average score?"],
        ["{m}", "The mean is {m}.", "The numbers add up to {t} and there are {k} of them: {t} / {k} = {m}.",
         "{plus} = {t}\n{t} ÷ {k} = {m}", "Average = sum / count, which is {t} / {k} = {m}."],
        {"xs": listing(xs), "k": k, "m": mean, "t": total, "plus": " + ".join(map(str, xs))}, {"m": w},
    )  # fmt: skip


def _power(rng: Random) -> Task:
    base, exponent = rng.choice(
        [(n, 2) for n in range(4, 80)] + [(n, 3) for n in range(3, 22)] + [(2, n) for n in range(4, 16)]
    )
    v = base**exponent
    return ask(
        rng, "arithmetic/power",
        ["What is {b} to the power of {e}?", "Compute {b}^{e}.", "Raise {b} to the power {e}.", "Evaluate {b}**{e}."],
        ["{v}", "{b}^{e} = {v}", "{product} = {v}",
         "Multiply {b} by itself so that it appears {e} times: {product} = {v}."],
        {"b": base, "e": exponent, "v": v, "product": " × ".join([str(base)] * exponent)}, {"v": slip(rng, v)},
    )  # fmt: skip


def _square_root(rng: Random) -> Task:
    root = rng.randint(11, 99)
    return ask(
        rng, "arithmetic/square_root",
        ["What is the square root of {n}?", "Find √{n}.", "Which positive number squared gives {n}?",
         "Is {n} a perfect square? If so, of what?"],
        ["{r}", "√{n} = {r}", "It is {r}, since {r} × {r} = {n}.",
         "{n} is a perfect square, because {r} × {r} = {n}."], {"n": root * root, "r": root}, {"r": slip(rng, root)},
        problem=root,
    )  # fmt: skip


def _equation(rng: Random) -> Task:
    a, x, b = rng.randint(2, 15), rng.randint(2, 40), rng.randint(1, 60)
    plus = rng.random() < 0.5
    c = a * x + b if plus else a * x - b
    left, undo = (f"{a}x + {b}", f"{c} - {b}") if plus else (f"{a}x - {b}", f"{c} + {b}")
    return ask(
        rng, "arithmetic/equation",
        ["Solve {left} = {c}.", "Solve for x: {left} = {c}", "For which x is {left} equal to {c}?",
         ("Solve the linear equation.", "{left} = {c}"), "Find x if {left} = {c}."],
        ["x = {x}", "{a}x = {undo} = {ax}, so x = {ax} / {a} = {x}.", "The solution is x = {x}.",
         "Move the constant over: {a}x = {undo} = {ax}.\nDivide by {a}: x = {ax} / {a} = {x}.\nCheck by putting "
         "{x} back in."], {"left": left, "undo": undo, "a": a, "c": c, "ax": a * x, "x": x}, {"x": slip(rng, x)},
        problem=(left, c),
    )  # fmt: skip


MAKERS: list[Maker] = [
    _add, _add_many, _subtract, _multiply, _multiply, _divide, _remainder, _order_of_operations, _percent, _mean,
    _power, _square_root, _equation, _equation,
]  # fmt: skip
