"""A recipe's trial as the settings ask for it: its runs, what is measured of each, and what of that is not there yet.

A plan and the making (make_trial.py) ask the same `due`.
"""

from dataclasses import dataclass

from dselect_core.fingerprint import digest, fingerprint
from dselect_core.pool.held_out import EvalSet, eval_sets
from dselect_core.runs.run_store import Run
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.settings.workspace import Workspace
from dselect_core.trials import draws
from dselect_core.trials.mark_store import MarkStore
from dselect_core.trials.measurements import Measurement, measurements
from dselect_core.trials.training_sets import TrialPool, runs_of, training_sets
from dselect_core.trials.trial_model import require_eval_sets, trial_model


@dataclass(frozen=True)
class TrialTodo:
    """What a trial has to do. tune, reused: runs; measure: marks; tokens: through the model, in tuning and measuring.

    version: of the report there will be.
    """

    tune: int
    reused: int
    measure: int
    tokens: int
    version: str


@dataclass(frozen=True)
class Due:
    """What of a trial is not there yet. tune: runs to tune; measure: tuned runs that lack a mark; each once.

    reused: runs that are not tuned again; marks: to measure, those of the untuned model included; tokens: through the
    model, for all of it.
    """

    tune: list[Run]
    measure: list[Run]
    reused: int
    marks: int
    tokens: int


@dataclass(frozen=True)
class Trial:
    """A recipe's trial as the settings ask for it now: its runs, and what is to be measured of each."""

    workspace: Workspace
    recipe: str
    pool: TrialPool
    model: TunableModel
    runs: list[Run]
    eval_sets: list[EvalSet]
    measurements: list[Measurement]
    store: MarkStore

    @classmethod
    def of(cls, workspace: Workspace, recipe: str) -> "Trial":
        """Raises DselectError where there is no coreset, no target model, or no eval source with rows."""
        held_out = [each for each in eval_sets(workspace) if each.samples.height]
        require_eval_sets(held_out)
        model, pool = trial_model(workspace), TrialPool.of(workspace, recipe)
        trials = workspace.settings.trials
        runs = runs_of(training_sets(pool, trials), model)
        store = MarkStore(workspace)
        wanted = measurements(held_out, trials, model.provenance, store.tokens_of)
        return cls(workspace, recipe, pool, model, runs, held_out, wanted, store)

    @property
    def untuned(self) -> str:
        """Names the marks of the model as it is before tuning."""
        return f"untuned-{fingerprint(self.model.provenance)[:16]}"

    @property
    def version(self) -> str:
        """Hash of all that the report is made from."""
        names = [f"{run.training_set.name} {run.fingerprint}" for run in self.runs]
        return digest([*names, *(wanted.name for wanted in self.measurements), self.coreset])

    @property
    def coreset(self) -> str:
        """Version of the coreset: hash of the chosen ids in order."""
        return digest(self.pool.chosen)

    @property
    def notes(self) -> list[str]:
        """What a reader of the report has to know: baselines that were left out, and why."""
        names, trials = {run.training_set.name for run in self.runs}, self.workspace.settings.trials
        rows, candidates = len(self.pool.chosen), len(self.pool.candidates)
        notes = [
            f"no draws of {factor} times the budget: {factor * rows} rows are more than the {candidates} of the pool"
            for factor in trials.multiples
            if draws.multiple(factor) not in names
        ]
        if "tokens" in trials.baselines and draws.TOKENS not in names:
            notes.append("no draws of as many response tokens: no recipe has them counted (the kind `difficulty`)")
        if "balanced" in trials.baselines and draws.BALANCED not in names:
            notes.append("no draws balanced by source: the pool has one source")
        return notes

    def missing_marks(self, run: str) -> list[Measurement]:
        """What was not measured yet of a run, or of the untuned model."""
        return [wanted for wanted in self.measurements if self.store.marks(run, wanted.name) is None]

    def due(self) -> Due:
        """What there is to do, as the store stands now. Reads every mark once."""
        own = {run.fingerprint: run for run in self.runs}
        missing = {name: marks for name in [self.untuned, *own] if (marks := self.missing_marks(name))}
        incomplete = [run for name, run in own.items() if name in missing]
        measure = [run for run in incomplete if self.store.has_weights(run)]
        tune = [run for run in incomplete if run not in measure]
        tokens = sum(self.tuning_tokens(run) for run in tune)
        tokens += sum(each.tokens for marks in missing.values() for each in marks)
        return Due(tune, measure, len(own) - len(tune), sum(map(len, missing.values())), tokens)

    def tuning_tokens(self, run: Run) -> int:
        """Tokens that a run sees, cut at the tuning length. Counted where the pool's samples are, else estimated."""
        max_length = self.workspace.settings.trials.max_length
        return int(self.pool.tokens(run.training_set.ids, max_length) * run.spec.epochs)


def trial_todo(workspace: Workspace, recipe: str) -> TrialTodo:
    """What `make_trial` would have to do now. Reads only. Raises as `make_trial`, but for what tuning raises."""
    return todo_of(Trial.of(workspace, recipe))


def todo_of(trial: Trial) -> TrialTodo:
    """What there is to do of a trial, of today or as it will be. Reads only."""
    due = trial.due()
    return TrialTodo(len(due.tune), due.reused, due.marks, due.tokens, trial.version)
