"""What a plan of a refresh says: its steps, with rows, tokens, seconds and money. Made by make_plan.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dselect_core.settings.settings import Settings

Reasons = Mapping[tuple[str, str | None], str]
"""{(asset, partition): why the orchestrator will run it}."""


@dataclass(frozen=True)
class Rate:
    """What past runs of an asset took: seconds per computed row, per token where it counts them, and per run."""

    per_row: float | None = None
    per_token: float | None = None
    per_run: float = 0.0

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Any]]) -> "Rate":
        """From what runs reported: `seconds`, and where they have them `rows computed` (or `rows`) and `tokens`.

        A trial reports the models that it tuned, not rows.
        """

        def total(name: str, of: list[Mapping[str, Any]]) -> float:
            return float(sum(run.get(name) or 0 for run in of))

        def rows(run: Mapping[str, Any]) -> float:
            return float(run.get("rows computed", run.get("runs tuned", run.get("rows", 0))) or 0)

        idle = [run for run in runs if not rows(run)]
        busy = [run for run in runs if rows(run)]
        counted = [run for run in busy if run.get("tokens")]
        return cls(
            per_row=total("seconds", busy) / sum(map(rows, busy)) if busy else None,
            per_token=total("seconds", counted) / total("tokens", counted) if counted else None,
            per_run=total("seconds", idle) / len(idle) if idle else 0.0,
        )


class Bought(NamedTuple):
    """Grades to be paid for: rows, and the tokens that they will take."""

    rows: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class GradesToBuy:
    """Of rows that can still be chosen: grades that are needed whatever the others are, about as many as will be asked
    for, and the most. expected: None where too few are known to guess from. tokens_a_row: (prompt, completion)."""

    now: int
    expected: int | None
    most: int
    tokens_a_row: tuple[float, float] = (0.0, 0.0)

    def tokens(self, rows: int) -> tuple[int, int]:
        """(prompt, completion) tokens that so many rows take."""
        return int(rows * self.tokens_a_row[0]), int(rows * self.tokens_a_row[1])


@dataclass(frozen=True)
class Step:
    """One asset partition that would be made. None where a figure has no meaning or cannot be known.

    computed, reused: rows; of a trial, models to tune and those tuned before. exact: False where `computed` is an
    estimate. tokens: through the model, estimated from lengths; the assets of one pass (`pass_name`) name the same
    tokens. bought: grades to pay for, by the judge's name among `graders`, None for the only one. grader_tokens:
    through a reward model or judge that runs here. seconds: from past runs, None without any. evaluations: of models,
    each on one held-out source or task. note: what else there is to say of how it is made. grades: of the rows that can
    still be chosen, how many are needed for certain and at most.
    """

    asset: str
    partition: str | None
    why: str
    computed: int | None = None
    reused: int | None = None
    exact: bool = True
    tokens: int | None = None
    bought: Mapping[str | None, Bought] = field(default_factory=dict)
    grader_tokens: int | None = None
    seconds: float | None = None
    pass_name: str = ""
    evaluations: int | None = None
    note: str = ""
    grades: GradesToBuy | None = None


def timed(step: Step, rate: Rate | None) -> Step:
    """The step with the seconds that it will take at the rate of past runs."""
    if rate is None:
        return step
    rows, tokens = step.computed or 0, step.tokens or 0
    if tokens and rate.per_token is not None:
        return replace(step, seconds=rate.per_run + tokens * rate.per_token)
    if not rows:
        return replace(step, seconds=rate.per_run)
    return step if rate.per_row is None else replace(step, seconds=rate.per_run + rows * rate.per_row)


@dataclass(frozen=True)
class Plan:
    """steps, upstream first. lost: {asset partition: what of it was made and is not in the storage any more}."""

    steps: list[Step]
    lost: Mapping[tuple[str, str | None], str]
    problems: dict[str, str]

    @property
    def tokens(self) -> int:
        """Tokens through the target model; the assets of one pass counted once."""
        by_pass: dict[tuple[str, str | None], int] = {}
        for step in self.steps:
            at = (step.pass_name, step.partition)
            by_pass[at] = max(by_pass.get(at, 0), step.tokens or 0)
        return sum(by_pass.values())

    @property
    def evaluations(self) -> int:
        """Of models, each on one held-out source or task. What trials share is counted for each."""
        return sum(step.evaluations or 0 for step in self.steps)

    @property
    def bought(self) -> dict[str | None, Bought]:
        """Grades to be bought from each judge, by its name among `graders`; None: the only one."""
        sums: dict[str | None, Bought] = {}
        for step in self.steps:
            for judge, more in step.bought.items():
                before = sums.get(judge, Bought(0, 0, 0))
                sums[judge] = Bought(*(a + b for a, b in zip(before, more, strict=True)))
        return dict(sorted(sums.items(), key=lambda each: each[0] or ""))

    @property
    def judge_tokens(self) -> tuple[int, int]:
        """(prompt, completion) tokens to be bought from all judges."""
        bought = self.bought.values()
        return sum(each.prompt_tokens for each in bought), sum(each.completion_tokens for each in bought)

    @property
    def grader_tokens(self) -> int:
        """Tokens through the reward model or judge that runs here."""
        return sum(step.grader_tokens or 0 for step in self.steps)

    @property
    def seconds(self) -> float | None:
        """None as long as some step that computes rows has never run."""
        seconds_of_steps = [step.seconds for step in self.steps]
        return (
            sum(s for s in seconds_of_steps if s is not None) if all(s is not None for s in seconds_of_steps) else None
        )

    def usd(self, settings: Settings) -> float | None:
        """Of all judges; None where grades are to be bought and no price is in the settings or the shipped table."""
        usd = [self.usd_of(judge, settings) for judge in self.bought]
        known = [each for each in usd if each is not None]
        return sum(known) if len(known) == len(usd) else None

    def usd_of(self, judge: str | None, settings: Settings) -> float | None:
        """Of one judge, by its name among `graders`. None as above."""
        bought = self.bought.get(judge)
        if bought is None or not bought.prompt_tokens:
            return 0.0
        price = settings.grader_of(judge).price
        return None if price is None else price.usd(bought.prompt_tokens, bought.completion_tokens)
