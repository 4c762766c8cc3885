"""The part of a plan about grades: by which rubric a source's rows are graded, and what the grader will take."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from dselect_core.kinds import FromSamples
from dselect_core.lineage.cost_estimates import grader_tokens
from dselect_core.lineage.plan import Step
from dselect_core.pool.future_pool import FuturePool
from dselect_core.scores.update import ScoreTodo
from dselect_core.settings.workspace import Workspace


def with_grader(step: Step, due: Collection[ScoreTodo], workspace: Workspace, pool: FuturePool) -> Step:
    """The step that computes what is due of a source, with the tokens of its grader. No text is read without one."""
    (source,) = {todo.source for todo in due}
    grader = workspace.settings.grader
    if grader.rubrics and any(todo.kind.of_its_source for todo in due):
        step = replace(step, why=f"{step.why}; graded by {grader.rubric_of(source)}")
    workspace = workspace.of_source(source)
    for todo in due:
        computation = todo.kind.computed_by(workspace.settings)
        if not isinstance(computation, FromSamples) or todo.store is None:
            continue
        if computation.paid or computation.runs_model:
            taken = grader_tokens(
                todo.missing_rows, pool.characters, workspace, todo.store, partial(pool.texts, source)
            )
            step = replace(step, judge_tokens=taken) if computation.paid else replace(step, grader_tokens=taken[0])
    return step
