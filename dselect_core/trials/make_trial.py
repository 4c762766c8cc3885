"""Make a recipe's trial: tune what was not tuned yet, measure what was not measured yet, and compare.

Each run and each mark is kept as soon as it is there, so a trial that was killed, or that reached `max_seconds`, goes
on.
"""

import logging
import time

import polars as pl

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.progress import Progress
from dselect_core.runs.run_store import Run
from dselect_core.settings.workspace import Workspace
from dselect_core.trials import draws
from dselect_core.trials.compare_sets import MarkedSet, against_random, compute_multiplier, marks_of, table, task_table
from dselect_core.trials.measurements import TaskMeasurement
from dselect_core.trials.report import TrialReport, write_report
from dselect_core.trials.run_work import tune_on_ray
from dselect_core.trials.task_results import TaskResult, task_results
from dselect_core.trials.trial import Trial
from dselect_core.trials.tune_and_measure import TrialWork, training_samples

_log = logging.getLogger(__name__)


def make_trial(workspace: Workspace, recipe: str, progress: Progress | None = None) -> TrialReport:
    """Tune, measure, compare, and keep the report. progress: in tokens, of those that were not seen before.

    Raises DselectError where there is no coreset, no eval source with rows, or where `max_seconds` is reached before
    everything is tuned; what is tuned then is kept.
    """
    started = time.monotonic()
    trial = Trial.of(workspace, recipe)
    due = trial.due()
    to_tune, reused = [*due.tune], due.reused
    work = TrialWork(trial, progress, due.tokens)
    work.measure_untuned()
    for run in due.measure:
        try:
            work.measure_stored(run)
        except (DamagedFileError, FileNotFoundError) as error:
            _log.warning("trial of %s: a run is tuned again: %s", recipe, error)
            to_tune.append(run)
            reused -= 1
    if workspace.settings.compute.engine == "ray" and to_tune:
        _tune_on_ray(trial, to_tune, work, started)
    else:
        samples = training_samples(workspace, to_tune)
        for done, run in enumerate(to_tune):
            _check_time(workspace, recipe, time.monotonic() - started, done, len(to_tune))
            work.tune(run, samples)
    sets = marked_sets(trial)
    spec = workspace.settings.coresets[recipe]
    report = TrialReport(
        recipe,
        spec.strategy,
        str(spec.budget),
        trial.version,
        trial.coreset,
        [*table(sets, list(sets[draws.CORESET].marks)), *task_table(sets, results_on_tasks(trial))],
        against_random(sets, by_tokens=spec.budget.unit == "tokens"),
        compute_multiplier(sets, workspace.settings.trials.multiples),
        len(to_tune),
        reused,
        work.measured,
        work.tokens,
        time.monotonic() - started,
        trial.model.identity,
        [*_left_out(trial, to_tune), *trial.notes],
        [wanted.task for wanted in trial.measurements if isinstance(wanted, TaskMeasurement)],
    )
    write_report(report, workspace)
    return report


def marked_sets(trial: Trial) -> dict[str, MarkedSet]:
    """{name of a training set: its runs with their marks}, and the untuned model, in the order of the runs."""

    def marks(run: str) -> dict[str, pl.DataFrame]:
        found = {wanted.name: trial.store.marks(run, wanted.name) for wanted in trial.measurements}
        return {name: frame for name, frame in found.items() if frame is not None}

    sets = {
        name: MarkedSet(
            name,
            [len(run.training_set.ids) for run in runs],
            [trial.pool.response_tokens(run.training_set.ids) for run in runs],
            marks_of([marks(run.fingerprint) for run in runs], trial.measurements),
        )
        for name, runs in _runs_by_set(trial).items()
    }
    untuned = marks_of([marks(trial.untuned)], trial.measurements)
    return {**sets, draws.UNTUNED: MarkedSet(draws.UNTUNED, [0], [0], untuned)}


def results_on_tasks(trial: Trial) -> list[TaskResult]:
    """What the runs and the untuned model scored on the tasks of the settings, in their order."""
    names = {name: [run.fingerprint for run in runs] for name, runs in _runs_by_set(trial).items()}
    names[draws.UNTUNED] = [trial.untuned]

    def marks(run: str, wanted: TaskMeasurement) -> pl.DataFrame:
        found = trial.store.marks(run, wanted.name)
        assert found is not None, "every mark is made before a trial is compared"
        return found

    return [
        result
        for wanted in trial.measurements
        if isinstance(wanted, TaskMeasurement)
        for result in task_results(
            wanted.task, {name: [marks(run, wanted) for run in runs] for name, runs in names.items()}
        )
    ]


def _runs_by_set(trial: Trial) -> dict[str, list[Run]]:
    by_set: dict[str, list[Run]] = {}
    for run in trial.runs:
        by_set.setdefault(run.training_set.name, []).append(run)
    return by_set


def _tune_on_ray(trial: Trial, runs: list[Run], work: TrialWork, started: float) -> None:
    """Tune and measure runs by workers of the cluster, all at once as far as they reach."""
    workspace, limit = trial.workspace, trial.workspace.settings.trials.max_seconds
    _check_time(workspace, trial.recipe, time.monotonic() - started, 0, len(runs))
    until = None if limit is None else time.time() + limit - (time.monotonic() - started)
    marks = sum(len(trial.missing_marks(run.fingerprint)) for run in runs)
    work.tokens += tune_on_ray(trial, runs, until, work.progress_of_runs())
    missing = [left for run in runs if (left := trial.missing_marks(run.fingerprint))]
    work.measured += marks - sum(map(len, missing))
    if missing and limit is not None:  # by the clock of a worker
        raise _out_of_time(trial.recipe, limit, len(runs) - len(missing), len(runs))


def _left_out(trial: Trial, runs: list[Run]) -> list[str]:
    """A note for each run that was not tuned on all of its rows."""
    notes = []
    for run in runs:
        if reasons := (trial.store.facts(run) or {}).get("rows_left_out"):
            told = ", ".join(f"{count} rows: {reason}" for reason, count in sorted(reasons.items()))
            notes.append(f"{run.training_set.name} {run.training_set.number}: not tuned on {told}")
    return notes


def _check_time(workspace: Workspace, recipe: str, seconds: float, done: int, total: int) -> None:
    """Raises DselectError where no run may be started any more."""
    limit = workspace.settings.trials.max_seconds
    if limit is not None and seconds >= limit:
        raise _out_of_time(recipe, limit, done, total)


def _out_of_time(recipe: str, limit: float, done: int, total: int) -> DselectError:
    return DselectError(
        f"trial of {recipe}: {done} of {total} runs are tuned and kept, and `trials: max_seconds` ({limit:g}) is "
        "over. The next refresh goes on from here; raise it to do more at once"
    )
