"""The part of a plan that is about trials: which will run, how many models they tune, and how many tokens that takes.

A trial whose coreset and pool stay is asked itself, so its figures are those of its run, also where other rows will be
measured on. One whose coreset or pool will change is estimated: the draws of the pool there will be are known, the
coreset's rows are not.
"""

from collections.abc import Callable, Mapping
from functools import cache

import polars as pl

from dselect_core.coreset.manifest import readable_manifest
from dselect_core.coreset.todo import CoresetTodo
from dselect_core.errors import DselectError
from dselect_core.lineage.plan import Reasons, Step
from dselect_core.pool.future_pool import FuturePool
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.future_trial import future_todo, pool_to_come
from dselect_core.trials.lm_eval_tasks import TaskError
from dselect_core.trials.report import read_report
from dselect_core.trials.training_sets import TrialPool
from dselect_core.trials.trial import trial_todo

_HELD_OUT = ("held_out", None)


def trial_steps(
    workspace: Workspace,
    pool: FuturePool,
    coresets: Mapping[str, CoresetTodo],
    stale: Reasons,
    lost: Reasons,
    lengths: Callable[[], pl.DataFrame],
    model_changes: bool,
) -> list[Step]:
    """Steps of `held_out` and `trial`. lengths: sample_id, tokens of the pool there will be; read where needed."""
    tried = sorted(name for name, spec in workspace.settings.coresets.items() if spec.trial)
    if not tried:
        return []
    changing = {name for name, rows in pool.sources.items() if rows.moved}
    held_out_why = stale.get(_HELD_OUT) or ("a source changed" if changing else None)
    steps = [] if held_out_why is None else [Step(*_HELD_OUT, held_out_why)]
    eval_moves = bool(changing & set(workspace.settings.sources_of("eval")))

    @cache
    def candidates() -> dict[str, tuple[str, int]]:
        return _candidates(pool, lengths())

    for recipe in tried:
        coreset = coresets.get(recipe)
        moving = coreset if coreset is not None and coreset.moves else None
        why = stale.get(("trial", recipe)) or lost.get(("trial", recipe))
        if moving is not None:
            cause = "its coreset or pool changes"
        elif model_changes:
            cause = "the model changes"
        else:
            cause = "what it measures on changes" if eval_moves else ""
        try:
            if cause:
                if moving is None:
                    of_trial = TrialPool.of(workspace, recipe)
                else:
                    of_trial = _to_come(workspace, moving, candidates())
                sets = [each for each in pool.eval_sets if each.role == "eval"]
                todo = future_todo(workspace, recipe, of_trial, sets, model_changes=model_changes)
            elif why is not None or held_out_why is not None:
                todo = trial_todo(workspace, recipe)
                cause = "what it measures on changed" if _version(workspace, recipe) != todo.version else ""
            else:
                continue
        except TaskError:
            raise
        except DselectError:
            if why is not None:
                steps.append(Step("trial", recipe, why))  # its run says what is wrong
            continue
        if why or cause:
            exact = moving is None and not model_changes
            steps.append(
                Step(
                    "trial",
                    recipe,
                    why or cause,
                    todo.tune,
                    todo.reused,
                    exact,
                    todo.tokens,
                    pass_name="trial",
                    evaluations=todo.measure,
                )
            )
    return steps


def _version(workspace: Workspace, recipe: str) -> str | None:
    try:
        report = read_report(workspace, recipe)
    except DselectError:
        return None
    return None if report is None else report.version


def _to_come(workspace: Workspace, coreset: CoresetTodo, candidates: Mapping[str, tuple[str, int]]) -> TrialPool:
    rows = coreset.rows
    if rows is None:  # a budget in tokens
        manifest = readable_manifest(workspace, coreset.recipe)
        mean = sum(tokens for _, tokens in candidates.values()) / max(1, len(candidates))
        budget = workspace.settings.coresets[coreset.recipe].budget
        rows = int(budget.value / max(1.0, mean)) if manifest is None else int(manifest["counts"]["rows"])
    return pool_to_come(candidates, max(1, rows))


def _candidates(pool: FuturePool, lengths: pl.DataFrame) -> dict[str, tuple[str, int]]:
    """{id: (first source, tokens)} of what can be drawn there will be. lengths: sample_id, tokens."""
    tokens = {name: round(count) for name, count in lengths.select("sample_id", "tokens").iter_rows()}
    free = set(pool.candidate_ids["sample_id"])
    found: dict[str, tuple[str, int]] = {}
    for source, rows in sorted(pool.pooled.items()):
        for name in rows.samples["sample_id"]:
            if name in free:
                found.setdefault(name, (source, tokens.get(name, 0)))
    return found
