"""Small Python and SQL: write, explain, repair, predict the output. Outputs come from running the snippet."""

from random import Random
from typing import Any

from demo.corpus.functions import FUNCTIONS
from demo.corpus.task import Maker, Task, ask
from demo.corpus.words import WORDS


def block(code: str, language: str = "python") -> str:
    """A fenced Markdown block."""
    return f"```{language}\n{code}\n```"


def _write(rng: Random) -> Task:
    f = rng.choice(FUNCTIONS)
    k = rng.randint(*f.k)
    return ask(
        rng, "code/write",
        ["Write a Python function `{name}` that {does}.", "Implement {name}({arg}) in Python. It {does}.",
         ("Write the Python function described below.", "{name}({arg}): {does}"),
         "I need a one-line Python function that {does}. Call it {name}.",
         "Show me how to write {name}({arg}), which {does}."],
        ["{code}", "{fenced}", "Here is a function that {does}:\n\n{fenced}",
         "{fenced}\n\nFor example, `{call}` returns `{result}`.",
         "The function takes `{arg}` and {does}.\n\n{fenced}\n\nTrying it out: `{call}` gives `{result}`."],
        {"name": f.name.format(k=k), "arg": f.argument, "does": f.does.format(k=k), "code": f.code(k),
         "fenced": block(f.code(k)), "call": f.call(k), "result": f.result(k)},
        {"code": f.code(k, bug=True), "fenced": block(f.code(k, bug=True))}, problem=(f.name, k),
    )  # fmt: skip


def _repair(rng: Random) -> Task:
    f = rng.choice(FUNCTIONS)
    k = rng.randint(*f.k)
    return ask(
        rng, "code/repair",
        [("I want a function that {does}, but this one is wrong. Fix it.", "{bad}"),
         "Below is meant to be a function that {does}. Find the bug.\n\n{bad}",
         ("Correct the mistake. Intended: it {does}.", "{bad}")],
        ["{fenced}", "The return value is wrong. Corrected:\n\n{fenced}",
         "Replace the return line by `return {body}`:\n\n{fenced}\n\nThen `{call}` is `{result}`."],
        {"does": f.does.format(k=k), "bad": block(f.code(k, bug=True)), "fenced": block(f.code(k)),
         "body": f.body.format(k=k), "call": f.call(k), "result": f.result(k)},
        {"fenced": block(f.code(k, bug=True)), "body": f.bug.format(k=k)}, problem=(f.name, k),
    )  # fmt: skip


def _explain(rng: Random) -> Task:
    f, other = rng.sample(FUNCTIONS, 2)
    k = rng.randint(*f.k)
    return ask(
        rng, "code/explain",
        ["What does this function do?\n\n{fenced}", ("Explain the code in one or two sentences.", "{fenced}"),
         "Describe in plain words: `{name} = lambda {arg}: {body}`"],
        ["It {does}.", "The function {does}. Called as `{call}`, it returns `{result}`.",
         "Given `{arg}`, it computes `{body}`, which means that it {does}."],
        {"fenced": block(f.code(k).replace(f.name.format(k=k), "f")), "name": "f", "arg": f.argument,
         "body": f.body.format(k=k), "does": f.does.format(k=k), "call": f"f({f.example})", "result": f.result(k)},
        {"does": other.does.format(k=k)}, problem=(f.name, k),
    )  # fmt: skip


def _expressions(rng: Random) -> tuple[str, str]:
    """An expression and one a reader might take it for; both are built here from literals."""
    xs = rng.sample(range(1, 40), rng.randint(5, 7))
    word, other = rng.sample([w for w in WORDS if len(w) > 5], 2)
    a, b, k = rng.randint(20, 99), rng.randint(3, 9), rng.randint(1, 3)
    return rng.choice([
        (f"{xs}[{k}:{k + 2}]", f"{xs}[{k - 1}:{k + 1}]"), (f"{xs}[::-1]", f"sorted({xs})"),
        (f"[x * {b} for x in {xs}]", f"[x + {b} for x in {xs}]"),
        (f"[x for x in {xs} if x % 2]", f"[x for x in {xs} if x % 2 == 0]"), (f"'{word}'[{k}:]", f"'{word}'[:{k}]"),
        (f"'{word}'.upper() + '!' * {k}", f"'{word}' + '!' * {k}"), (f"divmod({a}, {b})", f"divmod({a}, {b})[::-1]"),
        (f"len('{word} {other}')", f"len('{word}{other}')"), (f"sorted({xs})[-{k}]", f"{xs}[-{k}]"),
        (f"'-'.join(['{word}', '{other}'])", f"'{word}' + '{other}'"),
        (f"list(range({b}, {a}, {b * 2}))", f"list(range({b * 2}, {a}, {b * 2}))"),
        (f"sum({xs}[:{k + 1}])", f"sum({xs})"),
        (f"{{c: '{word}'.count(c) for c in '{word[:3]}'}}", f"{{c: 1 for c in '{other[:3]}'}}"),
        (f"max({xs}) - min({xs})", f"max({xs}) + min({xs})"),
        (f"list(enumerate(['{word}', '{other}'], {b}))", f"list(enumerate(['{word}', '{other}']))"),
        (f"'{word}'.find('{word[k]}')", f"'{word}'.find('{word[k]}') + 1"),
        (f"list(zip({xs[:3]}, '{word[:3]}'))", f"list(zip('{word[:3]}', {xs[:3]}))"),
        (f"'{word}'.replace('{word[0]}', '{other[0]}')", f"'{word}{other[0]}'"),
        (f"sorted('{word}')", f"list('{word}')"),
        (f"{a} > {b} and {xs[0]} > {xs[1]}", f"not ({a} > {b} and {xs[0]} > {xs[1]})"),
    ])  # fmt: skip


def _output(rng: Random) -> Task:
    while True:
        expression, trap = _expressions(rng)
        value, wrong = str(eval(expression)), str(eval(trap))  # literals from our own tables, no outside text
        if value != wrong:
            break
    return ask(
        rng, "code/output",
        ["What does `print({e})` print?", "What is the value of `{e}` in Python?",
         ("Predict the output.", "print({e})"), "Evaluate this Python expression: {e}",
         "In a Python shell I type {e}. What comes back?"],
        ["{v}", "It prints `{v}`.", "The result is {v}.", "`{e}` evaluates to `{v}`."],
        {"e": expression, "v": value}, {"v": wrong}, problem=expression,
    )  # fmt: skip


def _loop(rng: Random) -> Task:
    start, a, b, step = rng.randint(0, 20), rng.randint(1, 6), rng.randint(8, 15), rng.randint(1, 3)
    update, name = rng.choice([
        ("total += i", "sum"), ("total += 1", "count"), ("total += i * 2", "doubled sum"),
        ("total -= i", "difference"), ("total = max(total, i)", "maximum"),
    ])  # fmt: skip
    code = f"total = {start}\nfor i in range({a}, {b}, {step}):\n    {update}\nprint(total)"
    scope: dict[str, Any] = {"print": lambda value: None}
    exec(code, scope)  # built above from numbers
    value = scope["total"]
    seen = list(range(a, b, step))
    return ask(
        rng, "code/loop",
        ["What is printed?\n\n{c}", ("Trace the program and give its output.", "{c}"),
         "Run this in your head. Which number does it print?\n\n{c}"],
        ["{v}", "It prints {v}.", "i takes the values {seen}. Starting from {s}, the {name} ends at {v}."],
        {"c": block(code), "v": value, "seen": seen, "s": start, "name": name},
        {"v": value + rng.choice([-b, -1, 1, b])}, problem=code,
    )  # fmt: skip


_TABLES = [
    ("customers", ["name", "city", "age"], ["age"]), ("orders", ["id", "amount", "status"], ["amount"]),
    ("books", ["title", "author", "pages"], ["pages"]), ("employees", ["name", "team", "salary"], ["salary"]),
    ("flights", ["number", "origin", "minutes"], ["minutes"]),
    ("plants", ["species", "garden", "height"], ["height"]),
]  # fmt: skip


def _sql(rng: Random) -> Task:
    table, columns, numeric = rng.choice(_TABLES)
    column, test, n = rng.choice(columns[:2]), numeric[0], rng.randint(2, 60) * 5
    op, words, bad = rng.choice([
        (">", "more than", "<"), ("<", "less than", ">"), (">=", "at least", ">"), ("<=", "at most", ">="),
    ])  # fmt: skip
    order = rng.random() < 0.4
    tail = f" ORDER BY {column}" if order else ""
    right = f"SELECT {column} FROM {table} WHERE {test} {op} {n}{tail};"
    return ask(
        rng, "code/sql",
        ["Write an SQL query for the {col} of all {t} whose {test} is {words} {n}{sorted}.",
         ("Write SQL.", "From {t}: the {col} where {test} is {words} {n}{sorted}"),
         "How do I select the {col} from table {t} where {test} is {words} {n}{sorted}?"],
        ["{q}", "{fenced}", "Filter with WHERE:\n\n{fenced}",
         "The condition belongs in the WHERE clause, after the table name.\n\n{fenced}"],
        {"col": column, "t": table, "test": test, "words": words, "n": n,
         "sorted": f", sorted by {column}" if order else "", "q": right, "fenced": block(right, "sql")},
        {"q": right.replace(f" {op} ", f" {bad} "), "fenced": block(right.replace(f" {op} ", f" {bad} "), "sql")},
        problem=right,
    )  # fmt: skip


MAKERS: list[Maker] = [_write, _write, _write, _repair, _explain, _output, _output, _output, _loop, _sql]
