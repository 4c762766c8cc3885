"""The part of a plan that is about trials: which will run, how many models they tune, and how many tokens that takes.

A trial whose coreset and pool stay is asked itself, so its figures are those of its run. One whose coreset or pool will
change is estimated: the draws of the pool there will be are known, the coreset's rows are not.
"""

from collections.abc import Callable, Mapping

import polars as pl

from dselect_core.coreset.manifest import readable_manifest
from dselect_core.coreset.todo import CoresetTodo
from dselect_core.errors import DselectError
from dselect_core.lineage.plan import Reasons, Step
from dselect_core.pool.future_pool import FuturePool
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.future_trial import future_todo
from dselect_core.trials.report import read_report
from dselect_core.trials.trial import TrialTodo, trial_todo

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
    held_out_why = stale.get(_HELD_OUT) or ("a source changed" if pool.sources_moved else None)
    steps = [] if held_out_why is None else [Step(*_HELD_OUT, held_out_why)]
    changing = {name for name, rows in pool.sources.items() if rows.moved}
    eval_moves = bool(changing & set(workspace.settings.sources_of("eval")))
    for recipe in tried:
        coreset = coresets.get(recipe)
        of_coreset = coreset is not None and coreset.moves
        why = stale.get(("trial", recipe)) or lost.get(("trial", recipe))
        if of_coreset or model_changes or eval_moves:
            what = "its coreset or pool" if of_coreset else "the model" if model_changes else "what it measures on"
            todo = _estimate(workspace, pool, recipe, coreset, lengths, model_changes)
            steps.append(_step(recipe, why or f"{what} changes", todo, exact=False))
            continue
        try:
            todo = trial_todo(workspace, recipe)
        except DselectError:
            if why is not None:
                steps.append(Step("trial", recipe, why))  # its run says what is wrong
            continue
        if why is None and held_out_why is not None and _version(workspace, recipe) != todo.version:
            why = "what it measures on changed"
        if why is not None:
            steps.append(_step(recipe, why, todo, exact=True))
    return steps


def _step(recipe: str, why: str, todo: TrialTodo, *, exact: bool) -> Step:
    return Step("trial", recipe, why, todo.tune, todo.reused, exact, todo.tokens, pass_name="trial")


def _version(workspace: Workspace, recipe: str) -> str | None:
    try:
        report = read_report(workspace, recipe)
    except DselectError:
        return None
    return None if report is None else report.version


def _estimate(
    workspace: Workspace,
    pool: FuturePool,
    recipe: str,
    coreset: CoresetTodo | None,
    lengths: Callable[[], pl.DataFrame],
    model_changes: bool,
) -> TrialTodo:
    free = _candidates(pool)
    tokens = {name: round(count) for name, count in lengths().select("sample_id", "tokens").iter_rows()}
    candidates = {name: (source, tokens.get(name, 0)) for name, source in free.items()}
    rows = None if coreset is None else coreset.rows
    budget = workspace.settings.coresets[recipe].budget
    if rows is None:
        rows = budget.rows(len(candidates))
    if rows is None:  # a budget in tokens
        manifest = readable_manifest(workspace, recipe)
        mean = sum(count for _, count in candidates.values()) / max(1, len(candidates))
        rows = int(budget.value / max(1.0, mean)) if manifest is None else int(manifest["counts"]["rows"])
    sets = [each for each in pool.eval_sets if each.role == "eval"]
    return future_todo(workspace, recipe, max(1, rows), candidates, sets, model_changes=model_changes)


def _candidates(pool: FuturePool) -> dict[str, str]:
    """{id: first source} of what can be drawn there will be."""
    free = set(pool.candidate_ids["sample_id"])
    source_of: dict[str, str] = {}
    for source, rows in sorted(pool.pooled.items()):
        for name in rows.samples["sample_id"]:
            if name in free:
                source_of.setdefault(name, source)
    return source_of
