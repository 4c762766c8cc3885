"""All recipes that were tried, side by side: the rows of one table, for a terminal and for a page.

Trade-off: losses of recipes with another budget stand in one table. Each is against random draws of its own budget, so
it is the last columns that compare them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import polars as pl

from dselect_core.settings.workspace import Workspace
from dselect_core.trials.report import ALL, TrialReport
from dselect_core.trials.standing import standing

PLOT_WIDTH = 31
"""Characters of an interval drawn as text."""


@dataclass(frozen=True)
class Compared:
    """A recipe in the comparison. report: its last trial, None without one; note: what does not hold of it."""

    recipe: str
    strategy: str
    budget: str
    report: TrialReport | None
    note: str

    @property
    def rows(self) -> int | None:
        """Rows of the coreset that was tried."""
        return self._of_coreset("rows")

    @property
    def tokens(self) -> int | None:
        """Response tokens of the coreset that was tried."""
        return self._of_coreset("tokens")

    def loss(self, source: str) -> float | None:
        """Mean loss of the coreset's runs on an eval source, nats a response token; None where it was not measured."""
        if self.report is None:
            return None
        found = self.report.frame.filter(set="coreset", eval=source, metric="loss")
        return float(found["mean"][0]) if found.height and found["mean"][0] is not None else None

    def _of_coreset(self, column: str) -> int | None:
        if self.report is None:
            return None
        found = self.report.frame.filter(set="coreset", metric="loss")
        return None if found.is_empty() or found[column][0] is None else int(found[column][0])


@dataclass(frozen=True)
class OnTask:
    """A coreset on a metric of a task, against the random draws of its verdict; better_by with a 95% interval.

    better_by, half_width: None where the task does not say which direction is better.
    """

    recipe: str
    task: str
    metric: str
    coreset: float
    random: float
    better_by: float | None
    half_width: float | None

    @property
    def against_random_text(self) -> str:
        """`+0.0210 ± 0.0080`."""
        return "" if self.better_by is None else f"{self.better_by:+.4f} ± {self.half_width:.4f}"


def on_tasks(compared: Iterable[Compared]) -> list[OnTask]:
    """What the trials found on tasks, by task and metric, the recipes in their order."""
    found = []
    for each in compared:
        if each.report is None or not each.report.tasks:
            continue
        frame = each.report.frame.filter(pl.col("eval").is_in(each.report.tasks))
        random = {(row["eval"], row["metric"]): row for row in frame.filter(set=each.report.random_set).to_dicts()}
        for row in frame.filter(set="coreset").to_dicts():
            other = random[row["eval"], row["metric"]]
            half_width = None if other["high"] is None else (other["high"] - other["low"]) / 2
            found.append(
                OnTask(
                    each.recipe, row["eval"], row["metric"], row["mean"], other["mean"], other["better_by"], half_width
                )
            )
    return sorted(found, key=lambda each: (each.task, each.metric))


def compare(workspace: Workspace, stale: Mapping[str, str] | None = None) -> list[Compared]:
    """Every recipe of the settings that is tried or was, best against random first, then those that were not tried.

    stale: {recipe: why its trial is behind its inputs}, as an orchestrator knows it.
    """
    compared = []
    for recipe, spec in workspace.settings.coresets.items():
        tried = standing(workspace, recipe)
        if not spec.trial and tried.report is None:
            continue
        note = tried.why or (stale or {}).get(recipe, "")
        if not spec.trial:
            note = f"not tried any more (`trial: true` is gone){f'; {note}' if note else ''}"
        of_settings = Compared(recipe, spec.strategy, str(spec.budget), tried.report, note)
        if tried.report is not None:
            of_settings = replace(of_settings, strategy=tried.report.strategy, budget=tried.report.budget)
        compared.append(of_settings)
    return sorted(compared, key=lambda each: (each.report is None, -_better_by(each)))


def eval_sources(compared: list[Compared]) -> list[str]:
    """The eval sources that some trial measured on, by name; the mean over them first, where there are several."""
    names: set[str] = set()
    for each in compared:
        if each.report is not None:
            names |= set(each.report.frame.filter(metric="loss")["eval"].to_list()) - set(each.report.tasks)
    sources = sorted(names - {ALL})
    return [ALL, *sources] if len(sources) > 1 else sources


def against_random_text(report: TrialReport) -> str:
    """`+0.0210 ± 0.0080 better`."""
    verdict = report.against_random
    return f"{verdict.better_by:+.4f} ± {verdict.half_width:.4f} {verdict.word}"


def multiplier_text(report: TrialReport) -> str:
    """`1.8x (1.2 to 2.6)`, with "at least" or "at most" where the curve ends; empty where none is known."""
    known = report.multiplier
    if known is None:
        return ""
    if known.beyond:
        return f"{known.beyond} {known.value:.2g}x"
    return f"{known.value:.2g}x ({known.low:.2g} to {known.high:.2g})"


def interval_line(report: TrialReport, scale: float) -> str:
    """The interval on an axis of PLOT_WIDTH characters from -scale to scale: `·····┆··├─●─┤···`, ┆ is random."""
    verdict, middle = report.against_random, PLOT_WIDTH // 2

    def place(value: float) -> int:
        return max(0, min(PLOT_WIDTH - 1, middle + round(middle * value / scale))) if scale else middle

    line = ["·"] * PLOT_WIDTH
    line[middle] = "┆"
    low, high = place(verdict.better_by - verdict.half_width), place(verdict.better_by + verdict.half_width)
    line[low : high + 1] = ["─"] * (high - low + 1)
    line[low], line[high] = "├", "┤"
    line[place(verdict.better_by)] = "●"
    return "".join(line)


def scale_of(compared: list[Compared]) -> float:
    """The end of the axis that holds every interval; 0 where there is none."""
    reports = [each.report.against_random for each in compared if each.report is not None]
    return max((abs(verdict.better_by) + verdict.half_width for verdict in reports), default=0.0)


def _better_by(compared: Compared) -> float:
    return 0.0 if compared.report is None else compared.report.against_random.better_by
