"""Assembles the corpus: draws tasks per source, plants defects, copies rows, shuffles and labels them.

One seeded generator makes all choices in one order, so any change to that order changes the corpus of every seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from demo.corpus import (
    plant,
    tasks_arithmetic,
    tasks_code,
    tasks_conversations,
    tasks_dates,
    tasks_dialogues,
    tasks_facts,
    tasks_lists,
    tasks_numbers,
    tasks_rewriting,
    tasks_strings,
    tasks_units,
    tasks_word_problems,
)
from demo.corpus.task import Maker, Task

LabelName = Literal["clean", "exact_duplicate", "near_duplicate", "wrong_answer", "truncated", "empty", "off_topic"]

# Tasks per source and module, before copies are added.
PLAN: dict[str, list[tuple[Sequence[Maker], int]]] = {
    "arithmetic_and_units": [
        (tasks_arithmetic.MAKERS, 180), (tasks_numbers.MAKERS, 80), (tasks_word_problems.MAKERS, 140),
        (tasks_units.MAKERS, 200), (tasks_dates.MAKERS, 160),
    ],
    "text_and_code": [
        (tasks_strings.MAKERS, 150), (tasks_lists.MAKERS, 140), (tasks_code.MAKERS, 150), (tasks_facts.MAKERS, 120),
        (tasks_rewriting.MAKERS, 100),
    ],
    "conversations": [(tasks_conversations.MAKERS, 190), (tasks_dialogues.MAKERS, 190)],
}  # fmt: skip

WRONG, TRUNCATED, EMPTY, OFF_TOPIC, EXACT, NEAR = 100, 60, 40, 60, 80, 120
"""Rows planted per label: of 2,000 rows 5%, 3%, 2%, 3%, 4% and 6%."""
WRONG_WITH_EQUATION = 60
"""Wrong answers that show a false equation or conversion, which can be recomputed without knowing the task."""
EXACT_ACROSS_SOURCES, NEAR_ACROSS_SOURCES = 30, 25
SYSTEM_SHARE = 0.15
HELD_OUT_SHARE = 10
"""One task in ten is drawn once more, for the held-out rows."""

_NUMERIC = {
    "arithmetic", "units", "dates", "conversation/running_sum", "conversation/cart", "conversation/unit_ladder",
    "conversation/trip", "conversation/calendar", "conversation/number_facts", "conversation/recheck",
    "conversation/portions", "conversation/memory",
}  # fmt: skip
_SYSTEMS = {
    "code": ["You are a patient tutor.", "You write correct, readable Python.", "You are a coding assistant."],
    "facts": ["You are a quiz master who knows the answers.", "You are a helpful assistant."],
    "rewriting": ["You are a careful editor.", "You help people to write good English."],
    "strings": ["You are a helpful assistant.", "You follow instructions about text to the letter."],
    "lists": ["You are a helpful assistant.", "You are an assistant for tidy data."],
}  # fmt: skip


@dataclass(frozen=True)
class Label:
    """The truth about one row: keyed by (source, 1-based row) kept apart from the rows.

    copy_of_source, copy_of_row: the row a duplicate copies, else None; clean_response: the right and whole
    last answer of a row whose own was spoilt, else None; category: `family/kind`; template: the wording drawn.
    """

    source: str
    row: int
    label: LabelName
    category: str
    template: str
    copy_of_source: str | None = None
    copy_of_row: int | None = None
    clean_response: str | None = None


@dataclass(frozen=True)
class BuiltinCorpus:
    """rows: per source, in the shape of its file; labels: one per row, in source and row order.

    held_out: OpenAI messages; other problems of the same kinds, all with right answers, to try models on.
    """

    rows: dict[str, list[dict[str, Any]]]
    labels: list[Label]
    held_out: list[dict[str, Any]]


@dataclass(eq=False)
class _Item:
    source: str
    task: Task
    label: LabelName = "clean"
    copy_of: "_Item | None" = None
    clean_response: str | None = None
    row: int = 0

    def spoil(self, label: LabelName, answer: str) -> None:
        self.clean_response = self.task.answer
        self.label = label
        *earlier_turns, (prompt, _) = self.task.turns
        self.task = replace(self.task, turns=(*earlier_turns, (prompt, answer)))

    @property
    def portable(self) -> bool:
        """Whether every format can hold it: one turn, no system prompt."""
        return len(self.task.turns) == 1 and self.task.system is None


def generate(seed: int = 0) -> BuiltinCorpus:
    """2,000 rows in three sources, 460 of them planted; the same seed gives the same corpus. [ours]"""
    rng = Random(f"dselect builtin corpus {seed}")
    draw = _Drawer(rng)
    items = [_Item(source, task) for source, parts in PLAN.items() for makers, n in parts for task in draw(makers, n)]
    for item in items:
        systems = _SYSTEMS.get(item.task.family)
        if item.source == "text_and_code" and systems and rng.random() < SYSTEM_SHARE:
            item.task = replace(item.task, system=rng.choice(systems))
    _spoil(rng, items, draw)
    items += _copies(rng, items)
    corpus = _rows(rng, items)
    # Drawn last, so that the rows are those of the corpus before there were any.
    parts = [part for of_source in PLAN.values() for part in of_source]
    held_out = [task for makers, n in parts for task in draw(makers, n // HELD_OUT_SHARE)]
    return replace(corpus, held_out=[_messages(task) for task in held_out])


class _Drawer:
    """Draws tasks that ask something new: no problem and no prompt comes twice, even with other punctuation."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._used_keys: set[str] = set()

    def __call__(self, makers: Sequence[Maker], n: int) -> list[Task]:
        tasks: list[Task] = []
        turn = 0
        while len(tasks) < n:
            task = makers[turn % len(makers)](self._rng)  # in turn, so that kinds are evenly spread
            turn += 1
            if turn > 100 * n:
                raise RuntimeError(f"{task.category} and its neighbours have fewer than {n} different problems")
            keys = {task.problem, "".join(c for c in prompt_text(task).lower() if c.isalnum() or c in "+-×*÷/^.")}
            if keys.isdisjoint(self._used_keys):
                self._used_keys |= keys
                tasks.append(task)
        return tasks


def prompt_text(task: Task) -> str:
    """All that the user says, context included."""
    return "\n\n".join([*(prompt for prompt, _ in task.turns), *([task.context] if task.context else [])])


def _spoil(rng: Random, items: list[_Item], draw: _Drawer) -> None:
    order = rng.sample(items, len(items))

    def take(n: int, fits: Callable[[_Item], object]) -> list[_Item]:
        taken = [item for item in order if item.label == "clean" and fits(item)][:n]
        if len(taken) < n:
            raise RuntimeError(f"only {len(taken)} of {n} rows can be planted")
        return taken

    def has_equation(item: _Item) -> bool:
        return item.task.family in ("arithmetic", "units", "conversation") and " = " in (item.task.wrong or "")

    for n, fits in ((WRONG_WITH_EQUATION, has_equation), (WRONG - WRONG_WITH_EQUATION, lambda item: item.task.wrong)):
        for item in take(n, fits):
            item.spoil("wrong_answer", item.task.wrong or "")
    for item in take(TRUNCATED, lambda item: plant.cut(Random(0), item.task.answer)):
        item.spoil("truncated", plant.cut(rng, item.task.answer) or "")
    for i, item in enumerate(take(EMPTY, lambda item: True)):
        item.spoil("empty", rng.choice(plant.BLANK if i % 2 else plant.VACUOUS))
    # A mixed conversation has no one topic to be off. Donors are fresh tasks: their own rows are not in the corpus.
    donors = [task for task in draw(tasks_dialogues.SINGLE, 400) if len(task.answer) >= 20]
    rng.shuffle(donors)
    for item in take(OFF_TOPIC, lambda item: item.task.category != "conversation/mixed"):
        donor = next(d for d in donors if _is_foreign(d, item.task))
        donors.remove(donor)
        item.spoil("off_topic", donor.answer)


def _is_foreign(donor: Task, task: Task) -> bool:
    """Whether nobody could take the donor's answer for an answer to `task`, not even for a wrong one."""
    if task.family == "conversation" and not _is_numeric(task):
        return _is_numeric(donor)
    return donor.family != task.family and not (_is_numeric(donor) and _is_numeric(task))


def _is_numeric(task: Task) -> bool:
    return task.family in _NUMERIC or task.category in _NUMERIC


def _copies(rng: Random, items: list[_Item]) -> list[_Item]:
    """Exact copies and reworded ones of different clean rows, some of them in another source."""
    clean = [item for item in rng.sample(items, len(items)) if item.label == "clean"]
    prompts = {prompt_text(item.task) for item in items}
    copies: list[_Item] = []

    def target(original: _Item, across: bool) -> str:
        return rng.choice([s for s in PLAN if s != original.source]) if across else original.source

    def originals(n: int, n_across: int) -> list[tuple[_Item, bool]]:
        portable = [item for item in clean if item.portable][:n_across]
        others = [item for item in clean if item not in portable][: n - n_across]
        for item in portable + others:
            clean.remove(item)
        return [*((item, True) for item in portable), *((item, False) for item in others)]

    for original, across in originals(EXACT, EXACT_ACROSS_SOURCES):
        copies.append(_Item(target(original, across), original.task, "exact_duplicate", original))
    for original, across in originals(NEAR, NEAR_ACROSS_SOURCES):
        (prompt, answer), *later_turns = original.task.turns
        while True:
            task = replace(original.task, turns=((plant.reword(rng, prompt), answer), *later_turns))
            if prompt_text(task) not in prompts:
                break
        prompts.add(prompt_text(task))
        copies.append(_Item(target(original, across), task, "near_duplicate", original))
    return copies


def _rows(rng: Random, items: list[_Item]) -> BuiltinCorpus:
    shuffled = {source: [item for item in items if item.source == source] for source in PLAN}
    for members in shuffled.values():
        rng.shuffle(members)
        for row, item in enumerate(members, 1):
            item.row = row
    shapes = dict(zip(PLAN, (_alpaca, _messages, _sharegpt), strict=True))
    return BuiltinCorpus(
        rows={source: [shapes[source](item.task) for item in members] for source, members in shuffled.items()},
        labels=[
            Label(
                source=item.source,
                row=item.row,
                label=item.label,
                category=item.task.category,
                template=item.task.template,
                copy_of_source=item.copy_of.source if item.copy_of else None,
                copy_of_row=item.copy_of.row if item.copy_of else None,
                clean_response=item.clean_response,
            )
            for members in shuffled.values()
            for item in members
        ],
        held_out=[],
    )


def _alpaca(task: Task) -> dict[str, Any]:
    ((instruction, output),) = task.turns
    return {"instruction": instruction, "input": task.context, "output": output}


def _chat(task: Task) -> list[tuple[str, str]]:
    """Role and text of each message; the context follows the first prompt after an empty line, as loaders join them."""
    turns = [("system", task.system)] if task.system else []
    for i, (prompt, answer) in enumerate(task.turns):
        turns += [("user", f"{prompt}\n\n{task.context}" if task.context and i == 0 else prompt), ("assistant", answer)]
    return turns


def _messages(task: Task) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in _chat(task)]}


def _sharegpt(task: Task) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[role], "value": text} for role, text in _chat(task)]}
