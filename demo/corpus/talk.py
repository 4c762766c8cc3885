"""A builder of multi-turn tasks. Each turn is worded on its own, and the last one may have a wrong answer."""

from collections.abc import Sequence
from random import Random

from demo.corpus.task import Task


class Talk:
    """Collects the turns of one conversation; values given to a turn can be used in all later ones."""

    def __init__(self, rng: Random, category: str) -> None:
        self._rng = rng
        self._category = category
        self._turns: list[tuple[str, str]] = []
        self._words: list[str] = []
        self._values: dict[str, object] = {}
        self._wrong: str | None = None

    def turn(
        self, users: Sequence[str], answers: Sequence[str], wrong: dict[str, object] | None = None, **values: object
    ) -> "Talk":
        """Add a turn: one wording of each, filled with the values; `wrong` overrides them for the wrong answer."""
        self._values |= values
        u, a = self._rng.randrange(len(users)), self._rng.randrange(len(answers))
        answer = answers[a].format_map(self._values)
        self._turns.append((users[u].format_map(self._values), answer))
        self._words.append(f"{u}.{a}")
        self._wrong = None if wrong is None else answers[a].format_map(self._values | wrong)
        if self._wrong == answer:
            raise ValueError(f"{self._category}: answer wording {a} does not show the wrong value: {answer!r}")
        return self

    def task(self, *problem: object) -> Task:
        """The finished conversation; `problem` says what it is about, whatever the wording."""
        return Task(
            category=self._category,
            template=f"{self._category}/{'-'.join(self._words)}",
            problem=f"{self._category}:{problem}",
            turns=tuple(self._turns),
            wrong=self._wrong,
        )
