"""The part of a plan about grades: by which rubric a source's rows are graded, and what the grader will take."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial

import polars as pl

from dselect_core.graders.open_batches import not_in_batches
from dselect_core.kinds import FromSamples
from dselect_core.lineage.cost_estimates import grader_tokens
from dselect_core.lineage.plan import Bought, Step
from dselect_core.pool.future_pool import FuturePool
from dselect_core.scores.update import ScoreTodo
from dselect_core.settings.workspace import Workspace


def with_grader(step: Step, due: Collection[ScoreTodo], workspace: Workspace, pool: FuturePool) -> Step:
    """The step that computes what is due of a source, with what its graders take. No text is read without one."""
    (source,) = {todo.source for todo in due}
    step = replace(step, why="; ".join([step.why, *_rubrics(due, workspace, source)]))
    workspace = workspace.of_source(source)
    for todo in due:
        computation = todo.kind.computed_by(workspace.settings)
        if not isinstance(computation, FromSamples) or todo.store is None:
            continue
        if computation.paid or computation.runs_model:
            judge = todo.kind.maker
            asked = [(todo.missing_rows, todo.store), *((repeat.missing, repeat.store) for repeat in todo.repeats)]
            if computation.paid:
                asked = [(not_in_batches(rows, workspace, store), store) for rows, store in asked]
            rows = pl.concat([rows for rows, _ in asked])
            texts = partial(pool.texts, source)
            taken = grader_tokens(rows, pool.characters, workspace, todo.store, texts, judge)
            if computation.paid and rows.height:
                step = replace(step, bought={**step.bought, judge: Bought(rows.height, *taken)})
            elif not computation.paid:
                step = replace(step, grader_tokens=(step.grader_tokens or 0) + taken[0])
    return step


def _rubrics(due: Collection[ScoreTodo], workspace: Workspace, source: str) -> Iterator[str]:
    """By which rubric each judge that has several grades the source."""
    for todo in due:
        if todo.kind.of_its_source and (grader := workspace.settings.grader_of(todo.kind.maker)).rubrics:
            whose = "" if grader.name is None else f" by {grader.name}"
            yield f"graded{whose} by {grader.rubric_of(source)}"
