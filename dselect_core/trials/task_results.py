"""From what runs scored on a task to marks that training sets can be compared by.

A row counts where every run has a value for it, so differences are paired. A metric that is one figure of all rows has
no rows to draw again: its interval holds the spread of runs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dselect_core.trials.statistics import Marks


@dataclass(frozen=True, eq=False)
class TaskResult:
    """A metric of a task. marks: {training set: of its runs}; higher_is_better: None where the task does not say."""

    task: str
    metric: str
    higher_is_better: bool | None
    marks: Mapping[str, Marks]


def task_results(task: str, frames: Mapping[str, Sequence[pl.DataFrame]]) -> list[TaskResult]:
    """By metric, in the task's order. frames: {training set: TASK_MARKS of each of its runs}.

    A metric without a row that has a value in every run is left out.
    """
    of_runs = [
        frame.with_columns(pl.lit(name).alias("set"), pl.lit(number).alias("run"))
        for name, runs in frames.items()
        for number, frame in enumerate(runs)
    ]
    values = pl.concat(of_runs).drop_nulls("value")
    everywhere = values.filter(pl.len().over("metric", "task", "row") == len(of_runs))
    results = []
    for (metric,), found in everywhere.group_by("metric", maintain_order=True):
        ordered = found.sort("run", "task", "row")
        marks = {}
        for name, runs in frames.items():
            matrix = ordered.filter(set=name)["value"].to_numpy().reshape(len(runs), -1)
            marks[name] = Marks({task: matrix}, {task: np.ones(matrix.shape[1])})
        results.append(TaskResult(task, str(metric), found["higher_is_better"][0], marks))
    return results
