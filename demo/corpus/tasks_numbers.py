"""Properties of numbers: divisors, primes, fractions, binary notation, sequences, rounding."""

import math
from fractions import Fraction
from random import Random

from demo.corpus.task import Maker, Task, ask, listing, slip


def _common_divisor(rng: Random) -> Task:
    g, i, j = rng.randint(2, 18), rng.randint(2, 13), rng.randint(2, 13)
    while i == j or math.gcd(i, j) != 1:
        i, j = rng.randint(2, 13), rng.randint(2, 13)
    a, b, lcm = g * i, g * j, g * i * j
    if rng.random() < 0.5:
        return ask(
            rng, "arithmetic/gcd",
            ["What is the greatest common divisor of {a} and {b}?", "Find gcd({a}, {b}).",
             "Which is the largest number that divides both {a} and {b}?"],
            ["{v}", "The greatest common divisor is {v}.", "gcd({a}, {b}) = {v}",
             "{a} = {v} × {i} and {b} = {v} × {j}, and {i} and {j} share no factor, so it is {v}."],
            {"a": a, "b": b, "v": g, "i": i, "j": j}, {"v": slip(rng, g)}, problem=sorted([a, b]),
        )  # fmt: skip
    return ask(
        rng, "arithmetic/lcm",
        ["What is the least common multiple of {a} and {b}?", "Find lcm({a}, {b}).",
         "Two lights blink every {a} and {b} seconds. After how many seconds do they blink together again?"],
        ["{v}", "lcm({a}, {b}) = {v}", "The least common multiple is {v}: {a} × {j} = {v} and {b} × {i} = {v}.",
         "Multiples of {a} and of {b} first meet at {v}."], {"a": a, "b": b, "v": lcm, "i": i, "j": j},
        {"v": slip(rng, lcm)}, problem=sorted([a, b]),
    )  # fmt: skip


def _prime(rng: Random) -> Task:
    n = rng.randrange(31, 500, 2)
    factor = next((d for d in range(2, math.isqrt(n) + 1) if n % d == 0), None)
    if factor is None:
        right = {"verdict": "Yes", "is": "is", "why": f"no prime up to {math.isqrt(n)} divides it"}
        fake = rng.choice([3, 7, 11, 13])
        wrong = {"verdict": "No", "is": "is not", "why": f"{fake} × {n // fake} = {n}"}
    else:
        right = {"verdict": "No", "is": "is not", "why": f"{factor} × {n // factor} = {n}"}
        wrong = {"verdict": "Yes", "is": "is", "why": f"no prime up to {math.isqrt(n)} divides it"}
    return ask(
        rng, "arithmetic/prime",
        ["Is {n} a prime number?", "Decide whether {n} is prime and say why.", "Tell me if {n} is prime.",
         ("Is this number prime? Answer with a reason.", "{n}")],
        ["{verdict}.", "{verdict}, {n} {is} prime.", "{n} {is} prime: {why}.",
         "{verdict}. {n} {is} a prime number because {why}."], {"n": n, **right}, wrong, problem=n,
    )  # fmt: skip


def _simplify_fraction(rng: Random) -> Task:
    p, q, k = rng.randint(1, 20), rng.randint(2, 25), rng.randint(2, 12)
    while math.gcd(p, q) != 1 or q == 1:
        p, q = rng.randint(1, 20), rng.randint(2, 25)
    return ask(
        rng, "arithmetic/simplify_fraction",
        ["Simplify the fraction {a}/{b}.", "Write {a}/{b} in lowest terms.", ("Reduce the fraction.", "{a}/{b}"),
         "What is {a}/{b} in its simplest form?"],
        ["{p}/{q}", "{a}/{b} = {p}/{q}",
         "Divide top and bottom by {k}: {a} / {k} = {p} and {b} / {k} = {q}, so it is {p}/{q}.",
         "The common factor is {k}, which leaves {p}/{q}."], {"a": p * k, "b": q * k, "p": p, "q": q, "k": k},
        {"p": p + rng.choice([1, 2])}, problem=(p * k, q * k),
    )  # fmt: skip


def _add_fractions(rng: Random) -> Task:
    b, d = rng.sample([2, 3, 4, 5, 6, 8, 9, 10, 12], 2)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    s, den = Fraction(a, b) + Fraction(c, d), math.lcm(b, d)
    x, y = a * den // b, c * den // d
    trap = f"{a + c}/{b + d}"  # tops added, bottoms added: the classic mistake
    return ask(
        rng, "arithmetic/add_fractions",
        ["What is {a}/{b} + {c}/{d}?", "Add the fractions {a}/{b} and {c}/{d}.",
         ("Add and simplify.", "{a}/{b} + {c}/{d}"), "Compute {a}/{b} plus {c}/{d} as a fraction."],
        ["{s}", "{a}/{b} + {c}/{d} = {s}", "The sum is {s}.",
         "With the common denominator {den} the fractions become {x}/{den} and {y}/{den}. Their sum is {s}."],
        {"a": a, "b": b, "c": c, "d": d, "s": s, "den": den, "x": x, "y": y}, {"s": trap},
        problem=sorted([(a, b), (c, d)]),
    )  # fmt: skip


def _binary(rng: Random) -> Task:
    n = rng.randint(9, 255)
    bits = [1 << i for i in range(8) if n >> i & 1][::-1]
    sums = " + ".join(map(str, bits))
    if rng.random() < 0.5:
        return ask(
            rng, "arithmetic/to_binary",
            ["Write {n} in binary.", "Convert the decimal number {n} to base 2.", "What is {n} in binary notation?"],
            ["{v}", "{n} in binary is {v}.", "As powers of two, {n} is made of {sums}, which gives {v}."],
            {"n": n, "v": f"{n:b}", "sums": sums}, {"v": f"{n ^ rng.choice([2, 4, 6]):b}"}, problem=n,
        )  # fmt: skip
    return ask(
        rng, "arithmetic/from_binary",
        ["What decimal number is binary {v}?", "Convert {v} from base 2 to base 10.", ("Binary to decimal.", "{v}")],
        ["{n}", "{v} in binary is {n} in decimal.", "Add the powers of two that are set: {sums} = {n}."],
        {"n": n, "v": f"{n:b}", "sums": sums}, {"n": slip(rng, n)}, problem=n,
    )  # fmt: skip


def _sequence(rng: Random) -> Task:
    if rng.random() < 0.6:
        start, step = rng.randint(1, 60), rng.choice([3, 4, 5, 6, 7, 8, 9, 11, 12, 15, -4, -7])
        xs = [start + i * step for i in range(6)]
        rule = f"each term is {abs(step)} {'more' if step > 0 else 'less'} than the one before"
        last = f"{xs[4]} {'+' if step > 0 else '-'} {abs(step)}"
    else:
        start, step = rng.randint(1, 12), rng.choice([2, 3, 4])
        xs = [start * step**i for i in range(6)]
        rule, last = f"each term is {step} times the one before", f"{xs[4]} × {step}"
    return ask(
        rng, "arithmetic/sequence",
        ["What comes next: {xs}, ...?", "Find the next number in the sequence {xs}.",
         ("Continue the sequence by one term.", "{xs}"), "Which number follows {xs}, and what is the rule?"],
        ["{v}", "The next number is {v}.", "The rule: {rule}. So next is {last} = {v}.", "{v}, because {rule}."],
        {"xs": listing(xs[:5]), "v": xs[5], "rule": rule, "last": last}, {"v": slip(rng, xs[5])},
    )  # fmt: skip


def _round(rng: Random) -> Task:
    place = rng.choice([10, 100, 1000])
    n = rng.randint(place, 98 * place // 2) + rng.randint(1, place - 1)
    low = n - n % place
    up = n % place * 2 >= place
    v, w = (low + place, low) if up else (low, low + place)
    name = {10: "ten", 100: "hundred", 1000: "thousand"}[place]
    return ask(
        rng, "arithmetic/round",
        ["Round {n} to the nearest {name}.", "What is {n} rounded to the nearest {name}?",
         ("Round to the nearest {name}.", "{n}")],
        ["{v}", "Rounded to the nearest {name}, {n} is {v}.",
         "{n} lies between {low} and {high}, and it is {nearer}, so it rounds to {v}."],
        {"n": n, "name": name, "v": v, "low": low, "high": low + place,
         "nearer": f"{'at least' if up else 'less than'} halfway"}, {"v": w}, problem=(n, place),
    )  # fmt: skip


MAKERS: list[Maker] = [_common_divisor, _prime, _simplify_fraction, _add_fractions, _binary, _sequence, _round]
