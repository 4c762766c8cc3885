"""Rewriting sentences: tense, voice, number, politeness, questions, negation, joining, bullet points, summaries.

Sentences are put together from parts whose forms are listed, so the rewritten sentence is computed too.
"""

from random import Random

from demo.corpus.task import Maker, Task, ask
from demo.corpus.tasks_word_problems import NAMES

# base, third person, past, participle, -ing, objects it goes with
ACTIONS = [
    ("paint", "paints", "painted", "painted", "painting", ["the fence", "the old door", "a mural"]),
    ("write", "writes", "wrote", "written", "writing", ["a long letter", "the report", "a short poem"]),
    ("repair", "repairs", "repaired", "repaired", "repairing", ["the bicycle", "the leaking roof", "the printer"]),
    ("read", "reads", "read", "read", "reading", ["the contract", "a mystery novel", "the instructions"]),
    ("bake", "bakes", "baked", "baked", "baking", ["an apple pie", "two loaves", "a birthday cake"]),
    ("clean", "cleans", "cleaned", "cleaned", "cleaning", ["the kitchen", "the windows", "the garage"]),
    ("open", "opens", "opened", "opened", "opening", ["the shop", "the parcel", "the front gate"]),
    ("choose", "chooses", "chose", "chosen", "choosing", ["the colours", "a new logo", "the venue"]),
    ("plan", "plans", "planned", "planned", "planning", ["the trip", "the budget", "the meeting"]),
    ("draw", "draws", "drew", "drawn", "drawing", ["a map", "the floor plan", "a portrait"]),
    ("teach", "teaches", "taught", "taught", "teaching", ["the course", "a piano class", "the evening lesson"]),
    ("test", "tests", "tested", "tested", "testing", ["the software", "the brakes", "the new sensor"]),
]  # fmt: skip
TIMES = [
    "every morning", "on Fridays", "after lunch", "in the evening", "before work", "at the weekend", "once a month",
]  # fmt: skip
PLACES = ["at home", "in the office", "at school", "in the workshop", "next door", "in the village hall"]
REQUESTS = [
    ("Send me the file", "send me the file"), ("Call me back", "call me back"),
    ("Check these figures", "check these figures"), ("Close the window", "close the window"),
    ("Move the meeting to {t}", "move the meeting to {t}"), ("Book a table for {n}", "book a table for {n}"),
    ("Print {n} copies", "print {n} copies"), ("Order {n} chairs", "order {n} chairs"),
    ("Reply before {t}", "reply before {t}"),
]  # fmt: skip


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _tense(rng: Random) -> Task:
    who, when = rng.choice(NAMES), rng.choice(TIMES)
    base, third, past, _, _, things = rng.choice(ACTIONS)
    what = rng.choice(things)
    sentence = f"{who} {third} {what} {when}."
    old, future = f"{who} {past} {what} {when}.", f"{who} will {base} {what} {when}."
    name, right, wrong = rng.choice([("past", old, future), ("future", future, old)])
    return ask(
        rng, "rewriting/tense",
        ["Put this sentence into the {t} tense: {s}", ("Rewrite in the {t} tense.", "{s}"),
         "Change the tense to {t}: \"{s}\"", "How would you say '{s}' in the {t} tense?"],
        ["{r}", "In the {t} tense: {r}", "The verb changes to match the {t} tense. {r}"],
        {"t": name, "s": sentence, "r": right}, {"r": wrong},
    )  # fmt: skip


def _voice(rng: Random) -> Task:
    who = rng.choice(NAMES)
    _, _, past, participle, _, things = rng.choice(ACTIONS)
    what, where = rng.choice(things), rng.choice(PLACES)
    be = "were" if what.endswith("s") or what.startswith("two") else "was"
    active, passive = f"{who} {past} {what} {where}.", f"{_capital(what)} {be} {participle} by {who} {where}."
    wrong = passive.replace(f"by {who}", f"by {rng.choice([n for n in NAMES if n != who])}")
    return ask(
        rng, "rewriting/voice",
        ["Rewrite in the passive voice: {s}", "Turn this into a passive sentence: '{s}'",
         ("Change active to passive.", "{s}")], ["{r}", "Passive: {r}", "The object becomes the subject: {r}"],
        {"s": active, "r": passive}, {"r": wrong},
    )  # fmt: skip


def _question(rng: Random) -> Task:
    who, when = rng.choice(NAMES), rng.choice(TIMES)
    base, third, past, _, _, things = rng.choice(ACTIONS)
    what = rng.choice(things)
    tail = f"{what} {when}"
    sentence, right, wrong = rng.choice([
        (f"{who} {third} {tail}.", f"Does {who} {base} {tail}?", f"Does {who} {third} {tail}?"),
        (f"{who} {past} {tail}.", f"Did {who} {base} {tail}?", f"Does {who} {base} {tail}?"),
    ])  # fmt: skip
    return ask(
        rng, "rewriting/question",
        ["Turn the statement into a yes/no question: {s}", ("Make it a question.", "{s}"),
         "Ask whether this is true: {s}"],
        ["{r}", "As a question: {r}", "{r} (The helper verb takes over the ending.)"], {"s": sentence, "r": right},
        {"r": wrong},
    )  # fmt: skip


def _negate(rng: Random) -> Task:
    who, where = rng.choice(NAMES), rng.choice(PLACES)
    base, third, past, _, ing, things = rng.choice(ACTIONS)
    what = rng.choice(things)
    sentence, right = rng.choice([
        (f"{who} {third} {what} {where}.", f"{who} does not {base} {what} {where}."),
        (f"{who} {past} {what} {where}.", f"{who} did not {base} {what} {where}."),
        (f"{who} is {ing} {what} {where}.", f"{who} is not {ing} {what} {where}."),
    ])  # fmt: skip
    return ask(
        rng, "rewriting/negation",
        ["Make this sentence negative: {s}", ("Negate the sentence.", "{s}"),
         "Write the opposite of '{s}' using 'not'."], ["{r}", "Negative: {r}", "With 'not' in place it reads: {r}"],
        {"s": sentence, "r": right}, {"r": sentence},
    )  # fmt: skip


def _polite(rng: Random) -> Task:
    slots = {"t": rng.choice(["Monday", "Tuesday", "noon", "three o'clock", "the 14th"]), "n": rng.randint(3, 40)}
    command, request = (text.format_map(slots) for text in rng.choice(REQUESTS))
    who = rng.choice(NAMES)
    polite = rng.choice([
        f"{who}, could you please {request}?", f"Dear {who}, would you mind if I asked you to {request}? Thank you.",
        f"Hello {who}, I would be grateful if you could {request}.",
    ])  # fmt: skip
    return ask(
        rng, "rewriting/polite",
        ["Rewrite this politely: {s}", "Make the message to {who} sound friendlier: '{s}'",
         ("Turn the command into a polite request.", "{s}"), "How can I say '{s}' in a nicer way?"],
        ["{r}", "You could write: {r}", "A politer version keeps the request but softens it.\n\n{r}"],
        {"s": f"{who}! {command}!", "who": who, "r": polite}, problem=(who, command),
    )  # fmt: skip


def _join(rng: Random) -> Task:
    who, when = rng.choice(NAMES), rng.choice(TIMES)
    (_, _, past, *_, things), (_, _, past2, _, ing2, things2) = rng.sample(ACTIONS, 2)
    what, what2 = rng.choice(things), rng.choice(things2)
    if rng.random() < 0.5:
        word, second = "and", f"{who} {past2} {what2} {when}."
        joined = f"{who} {past} {what} and {past2} {what2} {when}."
    else:
        word, second, joined = "before", f"Later {who} {past2} {what2}.", f"{who} {past} {what} before {ing2} {what2}."
    return ask(
        rng, "rewriting/join",
        ["Join the two sentences with '{w}': {a} {b}", ("Combine into one sentence, using '{w}'.", "{a}\n{b}"),
         "Make one sentence with '{w}' out of: {a} {b}"],
        ["{r}", "Combined: {r}", "{r} The repeated name is dropped."],
        {"w": word, "a": f"{who} {past} {what}.", "b": second, "r": joined},
    )  # fmt: skip


def _bullets(rng: Random) -> Task:
    who, when = rng.choice(NAMES), rng.choice(TIMES)
    steps = [f"{base} {rng.choice(things)}" for base, *_, things in rng.sample(ACTIONS, rng.randint(3, 4))]
    text = f"{_capital(when)}, {who} has to {', '.join(steps[:-1])} and {steps[-1]}."
    marks = {"bullet points": "- {}", "check boxes": "[ ] {}", "stars": "* {}"}
    name = rng.choice(list(marks))

    def shape(items: list[str]) -> str:
        return "\n".join(marks[name].format(item) for item in items)

    return ask(
        rng, "rewriting/bullets",
        ["Turn this into a to-do list with {m}: {t}", ("Rewrite as {m}, one task per line.", "{t}"),
         "List {who}'s tasks as {m}. {t}"],
        ["{r}", "{who}'s tasks:\n{r}", "Here is the list with {n} items.\n\n{r}"],
        {"m": name, "t": text, "who": who, "n": len(steps), "r": shape(steps)},
        {"r": shape(steps[:-1]), "n": len(steps) - 1},
    )  # fmt: skip


def _summary(rng: Random) -> Task:
    who, friend = rng.sample(NAMES, 2)
    (base, _, past, *_, things), (_, _, past2, *_, things2) = rng.sample(ACTIONS, 2)
    what, what2, when, where = rng.choice(things), rng.choice(things2), rng.choice(TIMES), rng.choice(PLACES)
    text = (
        f"{who} had wanted to {base} {what} for a long time. Last week there was finally a free day, and {friend} "
        f"came over to help. They started early {where} and were done by four o'clock. While {who} {past} {what}, "
        f"{friend} {past2} {what2}. Both agreed that it had been hard work and that they would do something easier "
        f"{when}."
    )
    right = f"With {friend} helping, {who} finally {past} {what} {where}, while {friend} {past2} {what2}."
    wrong = f"With {who} helping, {friend} finally {past2} {what} {where}, while {who} {past} {what2}."
    return ask(
        rng, "rewriting/summary",
        ["Summarise in one sentence: {t}", ("Give a one-sentence summary.", "{t}"),
         "{t}\n\nWhat happened, in one sentence?"], ["{r}", "In short: {r}", "{r} It took them until four o'clock."],
        {"t": text, "r": right}, {"r": wrong},
    )  # fmt: skip


def _errors(rng: Random) -> Task:
    who, when = rng.choice(NAMES), rng.choice(TIMES)
    base, third, _, participle, _, things = rng.choice([action for action in ACTIONS if action[0] != action[2]])
    what = rng.choice(things)
    bad, good, why = rng.choice([
        (f"{who} {base} {what} {when}.", f"{who} {third} {what} {when}.", "the verb needs the third-person ending"),
        (f"{who} don't {base} {what} {when}.", f"{who} doesn't {base} {what} {when}.",
         "a single person takes 'doesn't'"),
        (f"{who.lower()} {third} {what} {when}", f"{who} {third} {what} {when}.",
         "names are capitalised and a sentence ends with a full stop"),
        (f"{who} have {participle} {what}.", f"{who} has {participle} {what}.", "a single person takes 'has'"),
    ])  # fmt: skip
    return ask(
        rng, "rewriting/grammar",
        ["Correct the grammar: {s}", ("Fix the mistake in the sentence.", "{s}"),
         "What is wrong with '{s}'? Write it correctly.", "Proofread this: {s}"],
        ["{r}", "Corrected: {r}", "{r} The rule: {why}.", "It should read '{r}', because {why}."],
        {"s": bad, "r": good, "why": why}, {"r": bad},
    )  # fmt: skip


MAKERS: list[Maker] = [_tense, _voice, _question, _negate, _polite, _join, _bullets, _summary, _errors]
