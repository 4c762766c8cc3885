"""A task of the built-in corpus: prompt, computed answer, and a plausible wrong answer.

A maker draws one problem from a seeded generator and words it with one of several prompts and
one of several answers, so that rows differ in wording and length as well as in numbers. The
wrong answer is the same wording around a wrong value: it looks like its right neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from random import Random

Prompt = str | tuple[str, str]
"""An instruction, or an instruction and its input (Alpaca's second field), with {named} fields."""


@dataclass(frozen=True)
class Task:
    """One problem, worded.

    category: `family/kind`; template: category and the wording drawn; problem: what is asked, whatever
    the wording, so that the corpus never asks one thing twice by accident; turns: (user, assistant)
    pairs; wrong: a wrong text for the last answer, None where no plausible one exists; context: text
    that belongs to a single-turn prompt (Alpaca's `input`); system: a system prompt or None.
    """

    category: str
    template: str
    problem: str
    turns: tuple[tuple[str, str], ...]
    wrong: str | None = None
    context: str = ""
    system: str | None = None

    @property
    def family(self) -> str:
        return self.category.partition("/")[0]

    @property
    def answer(self) -> str:
        return self.turns[-1][1]


Maker = Callable[[Random], Task]


def ask(
    rng: Random,
    category: str,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    right: Mapping[str, object],
    wrong: Mapping[str, object] | None = None,
    *,
    problem: object = None,
) -> Task:
    """Word a single-turn task: fill one prompt and one answer with `right`, the wrong answer with `wrong` on top.

    `problem` identifies what is asked (default: all of `right`). Raises ValueError when the wrong text
    equals the right one, so that no row can be labelled wrong and be right.
    """
    p, a = rng.randrange(len(prompts)), rng.randrange(len(answers))
    prompt = prompts[p]
    instruction, context = (prompt, "") if isinstance(prompt, str) else prompt
    answer = answers[a].format_map(right)
    wrong_answer = None if wrong is None else answers[a].format_map({**right, **wrong})
    if wrong_answer == answer:
        raise ValueError(f"{category}: answer wording {a} does not show the wrong value: {answer!r}")
    return Task(
        category=category,
        template=f"{category}/{p}.{a}",
        problem=f"{category}:{right if problem is None else problem}",
        turns=((instruction.format_map(right), answer),),
        wrong=wrong_answer,
        context=context.format_map(right),
    )


def slip(rng: Random, value: int) -> int:
    """An integer a careless worker might write for `value`: off by one, by ten, or two digits swapped."""
    digits = str(abs(value))
    slips = {value + step for step in (-10, -2, -1, 1, 2, 10)}
    for i in range(len(digits) - 1):
        swapped = int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :])
        slips.add(swapped if value >= 0 else -swapped)
    return rng.choice(sorted(s for s in slips if s != value and (s >= 0) == (value >= 0)))


def number(value: Fraction | int) -> str:
    """The exact decimal notation of `value`. Raises ValueError when its decimals never end."""
    exact = Fraction(value)
    with localcontext() as context:
        context.prec = 40
        decimal = Decimal(exact.numerator) / Decimal(exact.denominator)
    if Fraction(decimal) != exact:
        raise ValueError(f"{exact} has no finite decimal notation")
    text = format(decimal, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def listing(items: Sequence[object]) -> str:
    """`3, 1, 2`"""
    return ", ".join(str(item) for item in items)
