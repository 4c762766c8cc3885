"""What is measured of each run: metrics on eval sets, and tasks, under a name that says on which rows and how."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.lm.load import LanguageModel
from dselect_core.pool.held_out import EvalSet
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.trials.lm_eval_tasks import Task, TaskError, find_tasks, measure_task
from dselect_core.trials.mark_store import marks_name
from dselect_core.trials.measure import greedy_answers, response_losses
from dselect_core.trials.report import ALL

LOSS, ANSWERS, TASK = "loss", "answers", "task"
"""Kinds of measurement. Exact match and ROUGE-L come from the same answers."""

TASK_ROWS, TOKENS_OF_A_TASK_ROW = 1000, 256
"""What a task is taken to cost that was never measured here: its rows are not read before. For plans alone. [ours]"""

_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run. name: of its marks. tokens: through the model, estimated."""

    name: str
    tokens: int

    @abstractmethod
    def measure(self, lm: LanguageModel) -> tuple[pl.DataFrame, int]:
        """(the marks, the tokens that they took)."""


@dataclass(frozen=True)
class EvalMeasurement(Measurement):
    """A metric on an eval set. Its marks have a row per eval sample, ascending by id."""

    kind: str
    eval_set: EvalSet
    answer_tokens: int

    def measure(self, lm: LanguageModel) -> tuple[pl.DataFrame, int]:
        """(LOSS or ANSWERS, tokens estimated from characters)."""
        if self.kind == LOSS:
            return response_losses(lm, self.eval_set.samples), self.tokens
        return greedy_answers(lm, self.eval_set.samples, self.answer_tokens), self.tokens


@dataclass(frozen=True)
class TaskMeasurement(Measurement):
    """A task of lm-evaluation-harness, with all of its metrics."""

    task: str
    trials: TrialsSpec

    def measure(self, lm: LanguageModel) -> tuple[pl.DataFrame, int]:
        """(TASK_MARKS, tokens). Raises TaskError where the package cannot run the task."""
        return measure_task(lm, self.task, self.trials)


def measurements(
    eval_sets: Sequence[EvalSet], trials: TrialsSpec, model: dict[str, Any], tokens_of: Callable[[str], int | None]
) -> list[Measurement]:
    """All measurements of a run.

    model: the provenance of the model that measures, for its rendering. tokens_of: what a measurement took when it was
    made of another run, by its name. Raises TaskError for a task that is not there, or has the name of an eval set.
    """
    rendering = {key: value for key, value in model.items() if key != "model"}
    kinds = [LOSS] + ([ANSWERS] if {"exact_match", "rouge_l"} & set(trials.metrics) else [])
    on_sets = [_on_eval_set(kind, each, trials, rendering) for each in eval_sets for kind in kinds]
    tasks = find_tasks(trials)
    if taken := {each.name for each in tasks} & {ALL, *(each.name for each in eval_sets)}:
        name = min(taken)
        raise TaskError(f"trials.tasks: `{name}` is the name of a task and of an eval source: give that another name")
    return [*on_sets, *(_on_task(task, trials, rendering, tokens_of) for task in tasks)]


def _on_eval_set(kind: str, eval_set: EvalSet, trials: TrialsSpec, rendering: dict[str, Any]) -> Measurement:
    how = rendering if kind == LOSS else {**rendering, "answer_tokens": trials.answer_tokens}
    characters = eval_set.samples["messages"].list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()
    tokens = int(float(characters.sum() or 0) / _CHARACTERS_PER_TOKEN)
    if kind == ANSWERS:
        tokens += trials.answer_tokens * eval_set.samples.height
    return EvalMeasurement(marks_name(kind, eval_set.version, how), tokens, kind, eval_set, trials.answer_tokens)


def _on_task(
    task: Task, trials: TrialsSpec, rendering: dict[str, Any], tokens_of: Callable[[str], int | None]
) -> Measurement:
    how = {
        **rendering,
        "limit": trials.task_limit,
        "num_fewshot": trials.num_fewshot,
        "chat": trials.apply_chat_template,
    }
    name = marks_name(TASK, task.definition, how)
    known = tokens_of(name)
    expected = min(trials.task_limit or TASK_ROWS, TASK_ROWS) * TOKENS_OF_A_TASK_ROW
    return TaskMeasurement(name, expected if known is None else known, task.name, trials)
