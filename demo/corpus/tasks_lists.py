"""Lists of numbers and words: sorting, filtering, counting, grouping, reformatting."""

import json
from collections import Counter
from random import Random

from demo.corpus.task import Maker, Task, ask, listing, slip
from demo.corpus.words import WORDS


def _numbers(rng: Random, low: int = 5, high: int = 8) -> list[int]:
    return rng.sample(range(1, 120), rng.randint(low, high))


def _swap(rng: Random, items: list[str]) -> list[str]:
    """The items with two different neighbours exchanged."""
    i = rng.choice([i for i in range(len(items) - 1) if items[i] != items[i + 1]])
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def _sort_numbers(rng: Random) -> Task:
    xs, down = _numbers(rng), rng.random() < 0.4
    right = [str(x) for x in sorted(xs, reverse=down)]
    return ask(
        rng, "lists/sort_numbers",
        ["Sort {xs} in {dir} order.", "Arrange these numbers from {way}: {xs}", ("Sort the list, {dir}.", "[{xs}]"),
         "Put {xs} in order, {way}."],
        ["{r}", "[{r}]", "Sorted: {r}", "From {way} the list reads {r}. It starts with {first} and ends with {last}."],
        {"xs": listing(xs), "dir": "descending" if down else "ascending",
         "way": "largest to smallest" if down else "smallest to largest", "r": listing(right), "first": right[0],
         "last": right[-1]}, {"r": listing(_swap(rng, right))}, problem=(xs, down),
    )  # fmt: skip


def _sort_words(rng: Random) -> Task:
    words = rng.sample(WORDS, rng.randint(4, 7))
    by_length = rng.random() < 0.35
    right = sorted(words, key=lambda w: (len(w), w)) if by_length else sorted(words)
    rule = "by length, ties alphabetically" if by_length else "alphabetically"
    return ask(
        rng, "lists/sort_words",
        ["Sort these words {rule}: {ws}", ("Sort {rule}.", "{ws}"), "Arrange {ws} {rule}.",
         "List the words {ws} again, but sorted {rule}."],
        ["{r}", "Sorted {rule}: {r}", "The order is: {r}.", "1st is {first}; the whole list is {r}."],
        {"ws": listing(words), "rule": rule, "r": listing(right), "first": right[0]},
        {"r": listing(_swap(rng, right)), "first": right[0]}, problem=(words, rule),
    )  # fmt: skip


def _extreme(rng: Random) -> Task:
    xs = _numbers(rng)
    name, right = rng.choice([
        ("largest", max(xs)), ("smallest", min(xs)), ("second largest", sorted(xs)[-2]),
        ("second smallest", sorted(xs)[1]),
    ])  # fmt: skip
    return ask(
        rng, "lists/extreme",
        ["Which is the {name} number in {xs}?", "Find the {name} of {xs}.", ("Give the {name} value.", "{xs}")],
        ["{v}", "The {name} number is {v}.", "Sorted, the list is {s}. So the {name} is {v}."],
        {"xs": listing(xs), "name": name, "v": right, "s": listing(sorted(xs))},
        {"v": rng.choice([x for x in xs if x != right])}, problem=(xs, name),
    )  # fmt: skip


def _median(rng: Random) -> Task:
    xs = rng.sample(range(1, 99), rng.choice([5, 7]))
    s = sorted(xs)
    m = s[len(s) // 2]
    return ask(
        rng, "lists/median",
        ["What is the median of {xs}?", "Find the middle value of {xs} once sorted.", ("Compute the median.", "{xs}")],
        ["{m}", "The median is {m}.", "In order: {s}. With {k} values the middle one is number {mid}, which is {m}."],
        {"xs": listing(xs), "m": m, "s": listing(s), "k": len(s), "mid": len(s) // 2 + 1},
        {"m": s[len(s) // 2 + rng.choice([-1, 1])]}, problem=xs,
    )  # fmt: skip


def _filter(rng: Random) -> Task:
    xs, limit = _numbers(rng, 6, 9), rng.randint(30, 80)
    name, keep = rng.choice([
        ("even", [x for x in xs if x % 2 == 0]), ("odd", [x for x in xs if x % 2]),
        (f"greater than {limit}", [x for x in xs if x > limit]), (f"below {limit}", [x for x in xs if x < limit]),
        ("divisible by 3", [x for x in xs if x % 3 == 0]),
    ])  # fmt: skip
    dropped = [x for x in xs if x not in keep]
    wrong = [x for x in xs if x in keep[1:]] if len(keep) > 1 else [*keep, *dropped[:1]]
    return ask(
        rng, "lists/filter",
        ["Which of these numbers are {name}: {xs}?", "Keep only the numbers that are {name}: {xs}",
         ("Filter the list: keep what is {name}.", "{xs}")],
        ["{r}", "[{r}]", "The numbers that are {name}: {r}.",
         "Going through the list, these are {name}: {r}. That is {n} out of {k}."],
        {"xs": listing(xs), "name": name, "r": listing(keep) or "none", "n": len(keep), "k": len(xs)},
        {"r": listing(wrong), "n": len(wrong)}, problem=(xs, name),
    )  # fmt: skip


def _unique(rng: Random) -> Task:
    base = rng.sample(WORDS, 4)
    items = base + [rng.choice(base) for _ in range(rng.randint(2, 4))]
    rng.shuffle(items)
    right = list(dict.fromkeys(items))
    return ask(
        rng, "lists/unique",
        ["Remove the duplicates from: {xs}", "List each item once, in order of first appearance: {xs}",
         ("Deduplicate, keep the order.", "{xs}")],
        ["{r}", "Without duplicates: {r}", "{n} different items remain: {r}."],
        {"xs": listing(items), "r": listing(right), "n": len(right)},
        {"r": listing(right[:-1]), "n": len(right) - 1}, problem=items,
    )  # fmt: skip


def _count(rng: Random) -> Task:
    base = rng.sample(WORDS, 3)
    items = [rng.choice(base) for _ in range(rng.randint(6, 10))]
    word, n = Counter(items).most_common(1)[0]
    if rng.random() < 0.5:
        return ask(
            rng, "lists/count_item",
            ["How often does '{w}' occur in this list: {xs}?", ("Count '{w}'.", "{xs}"),
             "Count the entries equal to '{w}': {xs}"],
            ["{n}", "'{w}' occurs {n} times.", "{n} of the {k} entries are '{w}'."],
            {"xs": listing(items), "w": word, "n": n, "k": len(items)}, {"n": n + rng.choice([-1, 1])}, problem=items,
        )  # fmt: skip
    counts = {w: items.count(w) for w in sorted(set(items))}
    off = {**counts, word: n + 1}
    return ask(
        rng, "lists/tally",
        ["Count how often each word occurs: {xs}", ("Make a tally of the words.", "{xs}"),
         "Give the frequency of every item in {xs}."], ["{r}", "Counts: {r}", "There are {k} entries in all. {r}"],
        {"xs": listing(items), "k": len(items), "r": listing([f"{w}: {c}" for w, c in counts.items()])},
        {"r": listing([f"{w}: {c}" for w, c in off.items()])}, problem=items,
    )  # fmt: skip


def _sets(rng: Random) -> Task:
    common, a, b = (rng.sample(range(k, 90, 3), 3) for k in (0, 1, 2))
    left, right = common[:2] + a, common[:2] + b
    rng.shuffle(left)
    rng.shuffle(right)
    name, answer = rng.choice(
        [
            ("in both lists", [x for x in left if x in right]),
            ("in the first list but not in the second", [x for x in left if x not in right]),
        ]
    )
    return ask(
        rng, "lists/sets",
        ["Which numbers are {name}: A = [{a}], B = [{b}]?", ("Give the numbers that are {name}.", "A: {a}\nB: {b}"),
         "A is {a} and B is {b}. List what is {name}."],
        ["{r}", "These are {name}: {r}", "[{r}]", "Comparing the two lists, {r} are {name}."],
        {"a": listing(left), "b": listing(right), "name": name, "r": listing(answer)},
        {"r": listing([answer[0], next(x for x in right if x not in answer)])}, problem=(left, right, name),
    )  # fmt: skip


def _element(rng: Random) -> Task:
    words = rng.sample(WORDS, rng.randint(4, 7))
    i = rng.randrange(1, len(words))
    return ask(
        rng, "lists/index",
        ["In the list {xs}, which element has index {i} (counting from 0)?", "Python: xs = {py}. What is xs[{i}]?",
         ("Give element {i}, counting from 0.", "{xs}")],
        ["{v}", "The element at index {i} is '{v}'.", "Index 0 is '{zero}', so index {i} is '{v}'."],
        {"xs": listing(words), "py": words, "i": i, "v": words[i], "zero": words[0]}, {"v": words[i - 1]},
        problem=(words, i),
    )  # fmt: skip


def _sum_list(rng: Random) -> Task:
    xs = _numbers(rng, 3, 5)
    total = sum(xs)
    return ask(
        rng, "lists/sum", ["What is sum([{xs}])?", ("Sum the list.", "[{xs}]"), "Add up all elements of [{xs}]."],
        ["{t}", "sum([{xs}]) is {t}.", "{plus} = {t}"],
        {"xs": listing(xs), "t": total, "plus": " + ".join(map(str, xs))}, {"t": slip(rng, total)},
        problem=sorted(xs),
    )  # fmt: skip


def _format(rng: Random) -> Task:
    words = rng.sample(WORDS, rng.randint(3, 5))
    counts = [rng.randint(1, 40) for _ in words]
    pairs = list(zip(words, counts, strict=True))
    lost = pairs[:-1]

    def shape(how: str, rows: list[tuple[str, int]]) -> str:
        if how == "a JSON object":
            return json.dumps(dict(rows))
        if how == "CSV with a header":
            return "\n".join(["item,count", *(f"{w},{c}" for w, c in rows)])
        if how == "a Markdown table":
            return "\n".join(["| item | count |", "| --- | --- |", *(f"| {w} | {c} |" for w, c in rows)])
        return "\n".join(f"- {w}: {c}" for w, c in rows)

    how = rng.choice(["a JSON object", "CSV with a header", "a Markdown table", "a bulleted list"])
    return ask(
        rng, "lists/reformat",
        ["Write this stock as {how}: {p}", ("Format as {how} (item, count).", "{p}"),
         "Turn '{p}' into {how} of items and counts."], ["{r}", "Here is {how}:\n\n{r}"],
        {"p": listing([f"{w} {c}" for w, c in pairs]), "how": how, "r": shape(how, pairs)}, {"r": shape(how, lost)},
        problem=(pairs, how),
    )  # fmt: skip


MAKERS: list[Maker] = [
    _sort_numbers, _sort_words, _extreme, _median, _filter, _unique, _count, _sets, _element, _sum_list, _format,
]  # fmt: skip
