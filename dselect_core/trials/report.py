"""What a trial says: a table of means and differences, the verdict, the compute multiplier, and what it cost.

Stored as JSON under the recipe's name; everything that a person is shown of a trial is read from it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl

from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json, write_json
from dselect_core.trials import draws

COLUMNS: dict[str, pl.DataType] = {
    "set": pl.String(),  # coreset, random, random tokens, random balanced, pool, random x2, random x4
    "eval": pl.String(),  # eval source, ALL: the mean over them, or task
    "metric": pl.String(),  # loss (nats a token), row loss (mean over rows), exact_match, rouge_l; of a task its own
    "mean": pl.Float64(),  # over runs
    "sd": pl.Float64(),  # over runs; null for one run
    "runs": pl.Int64(),
    "rows": pl.Int64(),  # of the training set, mean over runs
    "tokens": pl.Int64(),  # response tokens of the training set, mean over runs
    # The coreset against this set, positive where the coreset is better, with a 95% interval; null for the coreset.
    "better_by": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
}

ALL = "all"
"""The row of the mean over all eval sources, each with the same weight."""

Word = Literal["better", "worse", "no difference"]


@dataclass(frozen=True)
class AgainstRandom:
    """The verdict. better_by: nats per response token, ± half_width at 95%; sentence: the same in words."""

    word: Word
    better_by: float
    half_width: float
    sentence: str

    @property
    def in_short(self) -> str:
        """`no difference: +0.0021 ± 0.0232 nats a token`."""
        return f"{self.word}: {self.better_by:+.4f} ± {self.half_width:.4f} nats a token"


@dataclass(frozen=True)
class Multiplier:
    """How much more random data reaches the coreset's loss: between low and high at 95%, in budgets.

    beyond: the loss lies beyond the curve, so `value` (and `high`) is the largest multiple that was tried, and "at
    least" it. None of the curve below 1 is known: a coreset that does worse than random has value 1 and "at most".
    """

    value: float
    low: float
    high: float
    beyond: Literal["", "at least", "at most"]
    sentence: str


@dataclass(frozen=True)
class TrialReport:
    """A recipe's trial, whole.

    version: hash of all that it was made from (runs, eval sets, metrics). tuned, reused: runs; measured: marks made
    now. tokens, seconds: spent now, in tuning and measuring. notes: for people (what was left out and why). tasks:
    those of the table, on which the verdict does not depend.
    """

    recipe: str
    strategy: str
    budget: str
    version: str
    coreset: str
    table: list[dict[str, Any]]
    against_random: AgainstRandom
    multiplier: Multiplier | None
    tuned: int
    reused: int
    measured: int
    tokens: int
    seconds: float
    model: str
    notes: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)

    @property
    def frame(self) -> pl.DataFrame:
        """The table, with COLUMNS."""
        return pl.DataFrame(self.table, schema=COLUMNS)

    @property
    def random_set(self) -> str:
        """The draws that the verdict is about: of as many rows, or of as many response tokens."""
        by_tokens = self.budget.endswith("tokens") and any(row["set"] == draws.TOKENS for row in self.table)
        return draws.TOKENS if by_tokens else draws.RANDOM


def write_report(report: TrialReport, workspace: Workspace) -> None:
    """Keep the report as the recipe's trial."""
    write_json(asdict(report), workspace.trial(report.recipe))


def read_report(workspace: Workspace, recipe: str) -> TrialReport | None:
    """The recipe's trial as it was made last; None where there is none. Raises DamagedFileError."""
    try:
        stored = read_json(workspace.trial(recipe))
    except FileNotFoundError:
        return None
    multiplier = stored.pop("multiplier")
    return TrialReport(
        **{
            **stored,
            "against_random": AgainstRandom(**stored["against_random"]),
            "multiplier": None if multiplier is None else Multiplier(**multiplier),
        }
    )
