"""What a trial will have to do once its coreset, its pool or its held-out rows have changed: for plans.

The draws depend on the pool's ids alone, so those that were tuned before are found. Which rows the coreset will hold is
not known before its run: it counts as one that was never tried.
"""

from collections.abc import Mapping, Sequence

from dselect_core.errors import DselectError
from dselect_core.pool.held_out import EvalSet
from dselect_core.settings.workspace import Workspace
from dselect_core.trials import draws
from dselect_core.trials.mark_store import MarkStore
from dselect_core.trials.measurements import measurements
from dselect_core.trials.training_sets import Sample, TrialPool, runs_of, training_sets
from dselect_core.trials.trial import Trial, TrialTodo, todo_of
from dselect_core.trials.trial_model import trial_model

_NOT_A_DRAW = -1  # the order that stands for the rows that a coreset will hold


def pool_to_come(candidates: Mapping[str, tuple[str, int]], rows: int) -> TrialPool:
    """The pool there will be, and a coreset of so many rows that no trial knows. candidates: {id: (source, tokens)}."""
    chosen = draws.draw_order(list(candidates), _NOT_A_DRAW)[:rows]
    return TrialPool(chosen, {name: Sample(source, 0, tokens) for name, (source, tokens) in candidates.items()})


def future_todo(
    workspace: Workspace, recipe: str, pool: TrialPool, eval_sets: Sequence[EvalSet], *, model_changes: bool
) -> TrialTodo:
    """What there will be to do. Reads only. model_changes: the model is made anew, or was never made."""
    trials = workspace.settings.trials
    sets = training_sets(pool, trials)
    held_out, store = [each for each in eval_sets if each.samples.height], MarkStore(workspace)
    if not model_changes:
        try:
            model = trial_model(workspace)
            wanted = measurements(held_out, trials, model.provenance, store.tokens_of)
            runs = runs_of(sets, model)
        except DselectError:
            pass  # it was never made
        else:
            return todo_of(Trial(workspace, recipe, pool, model, runs, held_out, wanted, store))
    own = {(each.content, each.number): each for each in sets}.values()
    wanted = measurements(held_out, trials, {}, store.tokens_of)
    tuned = sum(int(pool.tokens(each.ids, trials.max_length) * trials.epochs) for each in own)
    marks = (len(own) + 1) * len(wanted)
    return TrialTodo(len(own), 0, marks, tuned + (len(own) + 1) * sum(each.tokens for each in wanted), "")
