"""Conversations about text, code and facts, ones that test memory, and ones that change the subject."""

from collections.abc import Sequence
from random import Random

from demo.corpus import (
    tasks_arithmetic,
    tasks_code,
    tasks_dates,
    tasks_facts,
    tasks_lists,
    tasks_numbers,
    tasks_rewriting,
    tasks_strings,
    tasks_units,
    tasks_word_problems,
)
from demo.corpus.facts import COUNTRIES, ELEMENTS, VERBS
from demo.corpus.functions import FUNCTIONS
from demo.corpus.talk import Talk
from demo.corpus.task import Maker, Task, listing
from demo.corpus.tasks_code import block
from demo.corpus.tasks_rewriting import ACTIONS, TIMES
from demo.corpus.tasks_word_problems import NAMES
from demo.corpus.words import WORDS

SINGLE: list[Maker] = [
    *tasks_arithmetic.MAKERS, *tasks_numbers.MAKERS, *tasks_word_problems.MAKERS, *tasks_units.MAKERS,
    *tasks_dates.MAKERS, *tasks_strings.MAKERS, *tasks_lists.MAKERS, *tasks_code.MAKERS, *tasks_facts.MAKERS,
    *tasks_rewriting.MAKERS,
]  # fmt: skip
"""Every maker of single-turn tasks."""
_GREETINGS = ["", "", "Hi! ", "Hello. ", "Good morning. ", "Hey, ", "I have a few questions. "]
_LINKS = [
    "Thanks. ", "Thank you! Next: ", "Good. ", "Now something else. ", "", "OK, and another one. ",
    "Great, that helps. ", "Different topic: ",
]  # fmt: skip


def _mixed(rng: Random) -> Task:
    tasks: list[Task] = []
    while len(tasks) < 2 + (rng.random() < 0.35):
        task = rng.choice(SINGLE)(rng)
        if task.category not in [t.category for t in tasks]:
            tasks.append(task)
    turns, links = [], []
    for i, task in enumerate(tasks):
        options: Sequence[str] = _LINKS if i else _GREETINGS
        link = rng.randrange(len(options))
        links.append(link)
        prompt, answer = task.turns[0]
        turns.append((options[link] + prompt + (f"\n\n{task.context}" if task.context else ""), answer))
    return Task(
        category="conversation/mixed",
        template="conversation/mixed/" + "+".join(f"{link}:{t.template}" for link, t in zip(links, tasks, strict=True)),
        problem="conversation/mixed:" + "|".join(t.problem for t in tasks),
        turns=tuple(turns),
        wrong=tasks[-1].wrong,
    )


def _edit_list(rng: Random) -> Task:
    items, new = rng.sample(WORDS, rng.randint(3, 5)), rng.choice(WORDS)
    while new in items:
        new = rng.choice(WORDS)
    gone = rng.choice(items)
    longer = [*items, new]
    left = [w for w in longer if w != gone]
    talk = (
        Talk(rng, "conversation/edit_list")
        .turn(
            ["Here is my packing list: {xs}. Please add {n}.", "Start a list with {xs} and put {n} at the end.",
             "My list is {xs}. Append {n}, please."], ["{ys}", "The list is now: {ys}", "Added. It reads {ys}."],
            xs=listing(items), n=new, ys=listing(longer),
        )
        .turn(
            ["Remove {g}.", "Take {g} off again.", "I don't need {g} after all."],
            ["{zs}", "Without {g}: {zs}", "Done, {k} items are left: {zs}"],
            {"zs": listing(items), "k": len(left) + 1}, g=gone, zs=listing(left), k=len(left),
        )
    )  # fmt: skip
    if rng.random() < 0.6:
        talk.turn(
            ["Sort it alphabetically.", "Now in alphabetical order, please.", "Can you sort the list from A to Z?"],
            ["{s}", "Sorted: {s}", "From A to Z the list is {s}."], {"s": listing(sorted(left)[::-1])},
            s=listing(sorted(left)),
        )  # fmt: skip
    return talk.task(items, new, gone)


def _edit_text(rng: Random) -> Task:
    words = rng.sample(WORDS, 3)
    text = " ".join(words)
    c = rng.choice(sorted(set(text) - {" "}))
    return (
        Talk(rng, "conversation/edit_text")
        .turn(
            ["Write '{t}' in capital letters.", "Upper-case this for me: {t}",
             "Can you shout '{t}'? I mean in capitals."], ["{u}", "In capitals: {u}", "{u}!"], t=text, u=text.upper(),
        )
        .turn(
            ["Now reverse the order of the words.", "Put the last word first, and so on.",
             "Swap the word order around."], ["{r}", "Reversed: {r}", "The words in the opposite order: {r}"],
            r=" ".join(reversed(text.upper().split())),
        )
        .turn(
            ["How many times does the letter {C} occur in it?", "Count the {C}s.", "And how often is {C} in there?"],
            ["{n}", "{C} occurs {n} time(s).", "I count {n}."], {"n": text.count(c) + rng.choice([1, 2])},
            C=c.upper(), n=text.count(c),
        )
        .task(words)
    )  # fmt: skip


def _country(rng: Random) -> Task:
    country = rng.choice(list(COUNTRIES))
    capital, continent, language = COUNTRIES[country]
    other = rng.choice([c for c, row in COUNTRIES.items() if row[1] != continent])
    k = rng.randint(0, 2)
    talk = Talk(rng, "conversation/country").turn(
        ["I am preparing a quiz about {c}. What is its capital?", "Tell me the capital of {c}.",
         "Geography time! Capital of {c}?", "{who} is travelling to {c}. Which city is the capital?"],
        ["{cap}", "The capital of {c} is {cap}.", "It is {cap}."], c=country, cap=capital, who=rng.choice(NAMES),
    )  # fmt: skip
    if k != 1:
        talk.turn(
            ["Which continent is that on?", "And the continent?", "Where is that, roughly?"],
            ["{con}", "{c} is in {con}.", "That is in {con}."], {"con": COUNTRIES[other][1]}, con=continent,
        )  # fmt: skip
    if k:
        talk.turn(
            ["What language could I learn for it?", "Name an official language there.",
             "Which official language is used?"],
            ["{l}", "You could learn {l}, an official language of {c}.", "{l} is an official language there."],
            {"l": rng.choice([x for x in ("Icelandic", "Khmer", "Samoan", "Estonian") if x != language])}, l=language,
        )  # fmt: skip
    return talk.task(country, k)


def _element(rng: Random) -> Task:
    name = rng.choice(list(ELEMENTS))
    symbol, n = ELEMENTS[name]
    return (
        Talk(rng, "conversation/element")
        .turn(
            ["Which element has the symbol {s}?", "In chemistry, what does {s} stand for?",
             "I found the label {s} on a bottle in the chemistry room. Which element is that?"],
            ["{e}", "{s} is the symbol of {e}.", "That is {e}."], s=symbol, e=name,
        )
        .turn(
            ["How many protons does one atom of it have?", "What is its atomic number?",
             "And its number in the periodic table?"],
            ["{n}", "The atomic number of {e} is {n}.", "An atom of {e} has {n} protons."],
            {"n": n + rng.choice([1, 2, 4])}, n=n,
        )
        .task(name)
    )  # fmt: skip


def _function(rng: Random) -> Task:
    f = rng.choice(FUNCTIONS)
    k, m = rng.sample(range(f.k[0], f.k[1] + 1), 2)
    talk = Talk(rng, "conversation/function").turn(
        ["Write a Python function that {does}.", "I'm learning Python. How do I write a function that {does}?",
         "Python, please: a function that {does}."],
        ["{code}", "Sure:\n\n{code}", "{code}\n\nIt takes one argument."], does=f.does.format(k=k),
        code=block(f.code(k)),
    )  # fmt: skip
    if rng.random() < 0.6:
        talk.turn(
            ["What does {call} return?", "And what comes out of {call}?", "Show me the result of {call}."],
            ["{r}", "It returns `{r}`.", "`{call}` gives `{r}`."], call=f.call(k), r=f.result(k),
        )  # fmt: skip
    talk.turn(
        ["Now make one that {other}.", "Change it so that it {other}.", "And a second function that {other}?"],
        ["{new}", "Only the number changes:\n\n{new}", "Here you are:\n\n{new}"],
        {"new": block(f.code(m, bug=True))}, other=f.does.format(k=m), new=block(f.code(m)),
    )  # fmt: skip
    return talk.task(f.name, k, m)


def _memory(rng: Random) -> Task:
    who, friend = rng.sample(NAMES, 2)
    things = rng.sample(
        ["cats", "bicycles", "lanterns", "chess boards", "cameras", "plants", "umbrellas", "guitars", "hats", "maps"],
        2,
    )  # fmt: skip
    a, b = rng.sample(range(2, 30), 2)
    return (
        Talk(rng, "conversation/memory")
        .turn(
            ["My name is {who}. I have {a} {x} and {b} {y}.", "Hi, I'm {who}, owner of {a} {x} and {b} {y}.",
             "Please remember: I am {who}, I have {a} {x}, and my friend {f} has {b} {y}."],
            ["Nice to meet you, {who}!", "Hello {who}. I will keep that in mind: {a} {x}, {b} {y}.",
             "Thank you, {who}. What would you like to know?"], who=who, f=friend, a=a, b=b, x=things[0], y=things[1],
        )
        .turn(
            ["How many {y} did I mention?", "What was the number of {y}?",
             "Do you still know how many {y} there were?"], ["{b}", "You mentioned {b} {y}.", "There were {b} {y}."],
        )
        .turn(
            ["And how many things is that together with the {x}?", "{x} and {y} together?",
             "Add up both numbers, please."],
            ["{a} + {b} = {s}", "Together that is {s}.", "{s} in total: {a} {x} and {b} {y}."],
            {"s": a + b + rng.choice([-2, -1, 1, 10])}, s=a + b,
        )
        .task(who, a, b, things)
    )  # fmt: skip


def _sentence(rng: Random) -> Task:
    who, when = rng.choice(NAMES), rng.choice(TIMES)
    base, third, past, participle, _, things = rng.choice(ACTIONS)
    what = rng.choice(things)
    talk = Talk(rng, "conversation/sentence").turn(
        ["Help me with English. Put this in the past: {who} {third} {what} {when}.",
         "What is the past tense of '{who} {third} {what} {when}.'?",
         "Could you rewrite '{who} {third} {what} {when}.' in the past tense?"],
        ["{who} {past} {what} {when}.", "In the past tense: {who} {past} {what} {when}."], who=who, when=when,
        base=base, third=third, past=past, participle=participle, what=what,
    )  # fmt: skip
    if rng.random() < 0.5:
        talk.turn(
            ["And as a question?", "Now ask it as a question.", "How would I ask that?"],
            ["Did {who} {base} {what} {when}?", "As a question: Did {who} {base} {what} {when}?"],
        )  # fmt: skip
    talk.turn(
        ["Make it negative.", "And with 'not'?", "Now the negative form, still in the past."],
        ["{no}", "Negative: {no}", "The verb goes back to its base form: {no}"],
        {"no": f"{who} did not {third} {what} {when}."}, no=f"{who} did not {base} {what} {when}.",
    )  # fmt: skip
    return talk.task(who, when, base, what)


def _verbs(rng: Random) -> Task:
    first, second = rng.sample(list(VERBS), 2)
    return (
        Talk(rng, "conversation/verbs")
        .turn(
            ["Let's practise irregular verbs. What are the forms of '{a}'?",
             "Give me simple past and participle of '{a}'.", "Conjugate '{a}': past and participle, please."],
            ["{a}, {p}, {q}", "The forms are {a}, {p}, {q}.", "Simple past: {p}. Past participle: {q}."], a=first,
            p=VERBS[first][0], q=VERBS[first][1],
        )
        .turn(
            ["And '{b}'?", "The same for '{b}'.", "Good. Next verb: '{b}'."],
            ["{b}, {r}, {s}", "The forms are {b}, {r}, {s}.", "Simple past: {r}. Past participle: {s}."],
            {"r": VERBS[second][1], "s": VERBS[second][0]}, b=second, r=VERBS[second][0], s=VERBS[second][1],
        )
        .task(first, second)
    )  # fmt: skip


MAKERS: list[Maker] = [
    _mixed, _mixed, _mixed, _mixed, _edit_list, _edit_text, _country, _element, _function, _memory, _sentence, _verbs,
]  # fmt: skip
