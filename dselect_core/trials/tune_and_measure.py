"""Tune and measure the runs of a trial, each kept as soon as it is there: here one after the other, in order.

On a cluster each worker does this with the runs that it is given (run_work.py).
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from dselect_core.lm.load import LanguageModel
from dselect_core.lm.tuned_weights import load_tuned, save_tuned
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.pool_tables import pool_samples
from dselect_core.progress import Progress
from dselect_core.runs.run_store import Run
from dselect_core.runs.tune_run import checkpoint_folder, tune_run
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped
from dselect_core.trials.measurements import Measurement, TaskMeasurement
from dselect_core.trials.trial import Trial


def training_samples(workspace: Workspace, runs: Iterable[Run]) -> pl.DataFrame:
    """SAMPLES of all samples that some run is tuned on."""
    wanted = {sample_id for run in runs for sample_id in run.training_set.ids}
    if not wanted:
        return pl.DataFrame(schema={"sample_id": pl.String})
    return pool_samples(workspace, read_index(workspace), pl.Series(sorted(wanted)))


class TrialWork:
    """Does what is missing of a trial, and counts. total_tokens: of all there is to do, for the progress."""

    def __init__(self, trial: Trial, progress: Progress | None = None, total_tokens: int = 0):
        self._trial = trial
        self._progress = progress
        self.measured = 0
        self.tokens = 0
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

    def progress_of_runs(self) -> Progress:
        """In runs, that others tune: all that is left to do."""
        before = self._done
        return lambda done, total, reused=0: self._tell(before + (self._total - before) * done / max(1, total))

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
