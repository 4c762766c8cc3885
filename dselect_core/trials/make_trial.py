"""Make a recipe's trial: tune what was not tuned yet, measure what was not measured yet, and compare.

Each run and each mark is kept as soon as it is there, so a trial that was killed, or that reached `max_seconds`, goes
on.
"""

import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.tuned_weights import load_tuned, save_tuned
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.pool_tables import pool_samples
from dselect_core.progress import Progress
from dselect_core.runs.run_store import Run
from dselect_core.runs.tune_run import checkpoint_folder, tune_run
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped
from dselect_core.trials import draws
from dselect_core.trials.compare_sets import MarkedSet, against_random, compute_multiplier, marks_of, table, task_table
from dselect_core.trials.measurements import Measurement, TaskMeasurement
from dselect_core.trials.report import TrialReport, write_report
from dselect_core.trials.task_results import TaskResult, task_results
from dselect_core.trials.trial import Trial

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
        [*work.notes, *trial.notes],
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


def training_samples(workspace: Workspace, runs: Iterable[Run]) -> pl.DataFrame:
    """SAMPLES of all samples that some run is tuned on."""
    wanted = {sample_id for run in runs for sample_id in run.training_set.ids}
    if not wanted:
        return pl.DataFrame(schema={"sample_id": pl.String})
    return pool_samples(workspace, read_index(workspace), pl.Series(sorted(wanted)))


def _check_time(workspace: Workspace, recipe: str, seconds: float, done: int, total: int) -> None:
    """Raises DselectError where no run may be started any more."""
    limit = workspace.settings.trials.max_seconds
    if limit is not None and seconds >= limit:
        raise DselectError(
            f"trial of {recipe}: {done} of {total} runs are tuned and kept, and `trials: max_seconds` ({limit:g}) is "
            "over. The next refresh goes on from here; raise it to do more at once"
        )


class TrialWork:
    """Does what is missing of a trial, and counts. total_tokens: of all there is to do, for the progress."""

    def __init__(self, trial: Trial, progress: Progress | None = None, total_tokens: int = 0):
        self._trial = trial
        self._progress = progress
        self.measured = 0
        self.tokens = 0
        self.notes: list[str] = []
        self._total = max(1, total_tokens)
        self._done = 0.0

    def measure_untuned(self) -> None:
        """What is missing of the model as it is before tuning."""
        if missing := self._trial.missing_marks(self._trial.untuned):
            self._measure(self._trial.model.open(), self._trial.untuned, missing)

    def measure_stored(self, run: Run) -> None:
        """What is missing of a run whose weights are kept."""
        lm = self._trial.model.open()
        tuned = self._trial.store.with_weights(run, lambda folder: load_tuned(lm.forward.model, folder))
        self._measure(lm.with_model(tuned), run.fingerprint, self._trial.missing_marks(run.fingerprint))

    def tune(self, run: Run, samples: pl.DataFrame) -> None:
        """Tune, measure and keep a run."""
        trial = self._trial
        expected, before = trial.tuning_tokens(run), self._done

        def tell(done: int, total: int, reused: int = 0) -> None:
            self._tell(before + expected * done / max(1, total))

        checkpoints = checkpoint_folder(trial.workspace.trials / "checkpoints", run)
        with TemporaryDirectory(prefix="dselect-run-") as scratch:
            done = tune_run(trial.model, run, samples, checkpoints, tell)
            weights = None
            if trial.workspace.settings.trials.keep_models:
                weights = Path(scratch)
                save_tuned(done.tuned, weights)
            self._tell(before + expected)
            self._measure(done.model, run.fingerprint, trial.missing_marks(run.fingerprint))
            trial.store.write(run, done.facts, weights)
        if checkpoints is not None:
            shutil.rmtree(checkpoints, ignore_errors=True)
        self.tokens += done.tuned.tokens
        if done.left_out:
            left_out = ", ".join(f"{count} rows: {reason}" for reason, count in sorted(done.left_out.items()))
            self.notes.append(f"{run.training_set.name} {run.training_set.number}: not tuned on {left_out}")

    def _measure(self, lm: LanguageModel, run: str, missing: list[Measurement]) -> None:
        for wanted in missing:
            marks, tokens = wanted.measure(lm)
            self._trial.store.write_marks(run, wanted.name, marks)
            if isinstance(wanted, TaskMeasurement):
                self._trial.store.write_tokens(wanted.name, tokens)
            self.measured += 1
            self.tokens += tokens
            self._tell(self._done + wanted.tokens)
            raise_if_stopped()

    def _tell(self, done: float) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(min(int(done), self._total), self._total)
