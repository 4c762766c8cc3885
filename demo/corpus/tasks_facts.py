"""Questions about the fact tables: geography, chemistry, language, books, physics, shapes."""

from collections.abc import Mapping, Sequence
from random import Random

from demo.corpus.facts import ANTONYMS, BABIES, COUNTRIES, ELEMENTS, FACES, PLANETS, PLURALS, SIDES, UNITS, VERBS, WORKS
from demo.corpus.task import Maker, Prompt, Task, ask


def _other(rng: Random, values: Sequence[object], right: object) -> object:
    """Another value of the same kind."""
    return rng.choice([v for v in dict.fromkeys(values) if v != right])


def lookup(category: str, table: Mapping[str, object], prompts: Sequence[Prompt], answers: Sequence[str]) -> Maker:
    """A maker that asks a table's value {v} for its key {k}."""

    def make(rng: Random) -> Task:
        key = rng.choice(list(table))
        wrong = _other(rng, list(table.values()), table[key])
        return ask(rng, category, prompts, answers, {"k": key, "v": table[key]}, {"v": wrong}, problem=key)

    return make


_capital = lookup(
    "facts/capital", {country: row[0] for country, row in COUNTRIES.items()},
    ["What is the capital of {k}?", "Name the capital city of {k}.", "Which city is the capital of {k}?",
     ("Give the capital of the country.", "{k}")],
    ["{v}", "The capital of {k} is {v}.", "{v} is the capital of {k}.", "{k} is governed from {v}, its capital city."],
)  # fmt: skip
_country = lookup(
    "facts/country_of_capital", {row[0]: country for country, row in COUNTRIES.items()},
    ["{k} is the capital of which country?", "Which country has {k} as its capital?",
     "Of what country is {k} the capital?"], ["{v}", "{k} is the capital of {v}.", "The country is {v}."],
)  # fmt: skip
_symbol = lookup(
    "facts/symbol", {name: row[0] for name, row in ELEMENTS.items()},
    ["What is the chemical symbol of {k}?", "Give the symbol for {k} in the periodic table.",
     ("Chemical symbol?", "{k}")], ["{v}", "The symbol of {k} is {v}.", "In the periodic table {k} is written {v}."],
)  # fmt: skip
_antonym = lookup(
    "facts/antonym", ANTONYMS,
    ["What is the opposite of '{k}'?", "Give an antonym of '{k}'.", "Which word means the opposite of {k}?",
     ("Antonym, please.", "{k}")], ["{v}", "The opposite of '{k}' is '{v}'.", "An antonym of '{k}' is '{v}'."],
)  # fmt: skip
_plural = lookup(
    "facts/plural", PLURALS, ["What is the plural of '{k}'?", "Write the plural form of {k}.", "One {k}, two ...?"],
    ["{v}", "The plural of '{k}' is '{v}'.", "One {k}, two {v}."],
)  # fmt: skip
_baby = lookup(
    "facts/baby_animal", BABIES,
    ["What is the young of a {k} called?", "Name for a baby {k}?", "What do you call a young {k}?"],
    ["{v}", "The young of a {k} is called a {v}.", "It is a {v}."],
)  # fmt: skip
_author = lookup(
    "facts/author", WORKS,
    ["Who wrote {k}?", "Name the author of '{k}'.", "Which author is known for {k}?", ("Who is the author?", "{k}")],
    ["{v}", "{k} was written by {v}.", "The author of {k} is {v}."],
)  # fmt: skip
_si_unit = lookup(
    "facts/si_unit", UNITS,
    ["What is the SI unit of {k}?", "In which SI unit is {k} measured?", "Name the SI unit used for {k}."],
    ["The {v}.", "The SI unit of {k} is the {v}.", "It is measured in the unit called {v}."],
)  # fmt: skip


def _shape(rng: Random) -> Task:
    part, table = rng.choice([("sides", SIDES), ("faces", FACES)])
    shape = rng.choice(list(table))
    return ask(
        rng, "facts/shape",
        ["How many {part} does {a} {s} have?", "Give the number of {part} of {a} {s}.",
         "Count the {part} of {a} {s}."], ["{n}", "{A} {s} has {n} {part}.", "It has {n} {part}."],
        {"part": part, "s": shape, "a": "an" if shape[0] in "aeiou" else "a",
         "A": "An" if shape[0] in "aeiou" else "A", "n": table[shape]}, {"n": table[shape] + rng.choice([-1, 1, 2])},
        problem=shape,
    )  # fmt: skip


def _continent(rng: Random) -> Task:
    country = rng.choice(list(COUNTRIES))
    capital, continent, language = COUNTRIES[country]
    if rng.random() < 0.5:
        wrong = _other(rng, [row[1] for row in COUNTRIES.values()], continent)
        return ask(
            rng, "facts/continent",
            ["On which continent is {c}?", "{c} lies on which continent?", ("Name the continent.", "{c}"),
             "Where in the world is {c}? Name the continent."],
            ["{v}", "{c} is in {v}.", "{c}, whose capital is {capital}, lies in {v}."],
            {"c": country, "v": continent, "capital": capital}, {"v": wrong}, problem=country,
        )  # fmt: skip
    # Many countries have several official languages: a wrong one is taken from another part of the world.
    wrong = _other(rng, ["Icelandic", "Japanese", "Khmer", "Amharic", "Samoan"], language)
    return ask(
        rng, "facts/language",
        ["Name an official language of {c}.", "Which official language could I use to read signs in {c}?",
         "What is an official language in {c}?"],
        ["{v}", "{v} is an official language of {c}.", "In {c} you can use {v}."], {"c": country, "v": language},
        {"v": wrong}, problem=country,
    )  # fmt: skip


def _atomic_number(rng: Random) -> Task:
    name = rng.choice(list(ELEMENTS))
    symbol, n = ELEMENTS[name]
    return ask(
        rng, "facts/atomic_number",
        ["What is the atomic number of {e}?", "How many protons does an atom of {e} have?",
         ("Atomic number?", "{e} ({s})"), "Which place does {e} take in the periodic table, by number?"],
        ["{n}", "{e} has atomic number {n}.",
         "The atomic number of {e} ({s}) is {n}, which is the number of protons in its nucleus."],
        {"e": name, "s": symbol, "n": n}, {"n": n + rng.choice([1, 2, 3])}, problem=name,
    )  # fmt: skip


def _planet(rng: Random) -> Task:
    i = rng.randrange(8)
    ordinal = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"][i]
    wrong = PLANETS[(i + rng.choice([1, 2, 7])) % 8]
    if i < 7 and rng.random() < 0.5:
        return ask(
            rng, "facts/next_planet",
            ["Which planet comes after {p}, counting from the Sun?",
             "Going away from the Sun, what is the next planet after {p}?"],
            ["{v}", "After {p} comes {v}.", "The next planet is {v}."], {"p": PLANETS[i], "v": PLANETS[i + 1]},
            {"v": PLANETS[(i + 3) % 8]}, problem=i,
        )  # fmt: skip
    return ask(
        rng, "facts/planet",
        ["Which is the {o} planet from the Sun?", "Name planet number {n} of the solar system.",
         "What is the {o} planet, counting outward from the Sun?"],
        ["{v}", "The {o} planet from the Sun is {v}.", "{v}. It is number {n} of eight."],
        {"o": ordinal, "n": i + 1, "v": PLANETS[i]}, {"v": wrong}, problem=i,
    )  # fmt: skip


def _verb(rng: Random) -> Task:
    verb = rng.choice(list(VERBS))
    past, participle = VERBS[verb]
    form, right, wrong = rng.choice([("simple past", past, participle), ("past participle", participle, past)])
    return ask(
        rng, "facts/verb",
        ["What is the {f} of '{v}'?", "Give the {f} of the verb '{v}'.", ("Write the {f}.", "to {v}")],
        ["{r}", "The {f} of '{v}' is '{r}'.", "to {v}: {r} ({f})"], {"v": verb, "f": form, "r": right}, {"r": wrong},
        problem=(verb, form),
    )  # fmt: skip


MAKERS: list[Maker] = [
    _capital, _capital, _country, _symbol, _antonym, _plural, _baby, _author, _si_unit, _shape, _continent,
    _continent, _atomic_number, _planet, _verb,
]  # fmt: skip
