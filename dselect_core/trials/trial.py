"""Make a recipe's trial: tune what was not tuned yet, measure what was not measured yet, and compare.

Each run and each mark is kept as soon as it is there, so a trial that was killed, or that reached `max_seconds`, goes
on. `trial_todo` says what there is to do, and what it costs, from the same answers.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples
from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.tuned_weights import load_tuned, save_tuned
from dselect_core.lm.tuning import Example, tune
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.held_out import EvalSet, eval_sets
from dselect_core.pool.pool_tables import pool_samples
from dselect_core.progress import Progress
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped
from dselect_core.storage.files import is_local
from dselect_core.trials import draws
from dselect_core.trials.compare_sets import MarkedSet, against_random, compute_multiplier, marks_of, table
from dselect_core.trials.measurements import Measurement, measurements
from dselect_core.trials.report import TrialReport, write_report
from dselect_core.trials.run_store import Run, RunStore
from dselect_core.trials.training_sets import TrialPool, runs_of, training_sets
from dselect_core.trials.trial_model import TrialModel, require_eval_sets

_log = logging.getLogger(__name__)


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
class Trial:
    """A recipe's trial as the settings ask for it now: its runs, and what is to be measured of each."""

    workspace: Workspace
    recipe: str
    pool: TrialPool
    model: TrialModel
    runs: list[Run]
    eval_sets: list[EvalSet]
    measurements: list[Measurement]
    store: RunStore

    @classmethod
    def of(cls, workspace: Workspace, recipe: str) -> "Trial":
        """Raises DselectError where there is no coreset, no target model, or no eval source with rows."""
        held_out = [each for each in eval_sets(workspace) if each.samples.height]
        require_eval_sets(held_out)
        model, pool = TrialModel.of(workspace), TrialPool.of(workspace, recipe)
        trials = workspace.settings.trials
        runs = runs_of(training_sets(pool, trials), model)
        wanted = measurements(held_out, trials, model.provenance)
        return cls(workspace, recipe, pool, model, runs, held_out, wanted, RunStore(workspace))

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

    def to_tune(self) -> list[Run]:
        """Runs without all their marks that have no weights either; each once."""
        by_name = {run.fingerprint: run for run in self.runs if self.missing_marks(run.fingerprint)}
        return [run for run in by_name.values() if not self.store.has_weights(run)]

    def to_measure(self) -> list[Run]:
        """Runs that were tuned before and lack a mark; each once."""
        by_name = {run.fingerprint: run for run in self.runs if self.missing_marks(run.fingerprint)}
        return [run for run in by_name.values() if self.store.has_weights(run)]


def trial_todo(workspace: Workspace, recipe: str) -> TrialTodo:
    """What `make_trial` would have to do now. Reads only. Raises as `make_trial`, but for what tuning raises."""
    return todo_of(Trial.of(workspace, recipe))


def todo_of(trial: Trial) -> TrialTodo:
    """What there is to do of a trial, of today or as it will be. Reads only."""
    to_tune, to_measure = trial.to_tune(), trial.to_measure()
    marks = sum(len(trial.missing_marks(run.fingerprint)) for run in [*to_tune, *to_measure])
    untuned = trial.missing_marks(trial.untuned)
    tokens = sum(_tuning_tokens(trial, run) for run in to_tune)
    tokens += sum(sum(each.tokens for each in trial.missing_marks(run.fingerprint)) for run in [*to_tune, *to_measure])
    tokens += sum(each.tokens for each in untuned)
    reused = len({run.fingerprint for run in trial.runs}) - len(to_tune)
    return TrialTodo(len(to_tune), reused, marks + len(untuned), tokens, trial.version)


def _tuning_tokens(trial: Trial, run: Run) -> int:
    """Tokens that a run sees, cut at the tuning length. Counted where the pool's samples are, else estimated."""
    return int(trial.pool.tokens(run.training_set.ids, trial.workspace.settings.trials.max_length) * run.spec.epochs)


def make_trial(workspace: Workspace, recipe: str, progress: Progress | None = None) -> TrialReport:
    """Tune, measure, compare, and keep the report. progress: in tokens, of those that were not seen before.

    Raises DselectError where there is no coreset, no eval source with rows, or where `max_seconds` is reached before
    everything is tuned; what is tuned then is kept.
    """
    started = time.monotonic()
    trial = Trial.of(workspace, recipe)
    to_tune, to_measure = trial.to_tune(), trial.to_measure()
    reused = len({run.fingerprint for run in trial.runs}) - len(to_tune)
    work = _Work(trial, progress, to_tune, to_measure)
    work.measure_untuned()
    for run in to_measure:
        try:
            work.measure_stored(run)
        except (DamagedFileError, FileNotFoundError) as error:
            _log.warning("trial of %s: a run is tuned again: %s", recipe, error)
            to_tune.append(run)
            reused -= 1
    samples = _training_samples(workspace, to_tune)
    for done, run in enumerate(to_tune):
        _check_time(workspace, recipe, time.monotonic() - started, done, len(to_tune))
        work.tune(run, samples)
    sets = _marked_sets(trial)
    spec = workspace.settings.coresets[recipe]
    report = TrialReport(
        recipe,
        spec.strategy,
        str(spec.budget),
        trial.version,
        trial.coreset,
        table(sets, list(sets[draws.CORESET].marks)),
        against_random(sets, by_tokens=spec.budget.unit == "tokens"),
        compute_multiplier(sets, workspace.settings.trials.multiples),
        len(to_tune),
        reused,
        work.measured,
        work.tokens,
        time.monotonic() - started,
        trial.model.identity,
        [*work.notes, *trial.notes],
    )
    write_report(report, workspace)
    return report


def _marked_sets(trial: Trial) -> dict[str, MarkedSet]:
    """{name of a training set: its runs with their marks}, and the untuned model, in the order of the runs."""

    def marks(run: str) -> dict[str, pl.DataFrame]:
        found = {wanted.name: trial.store.marks(run, wanted.name) for wanted in trial.measurements}
        return {name: frame for name, frame in found.items() if frame is not None}

    by_set: dict[str, list[Run]] = {}
    for run in trial.runs:
        by_set.setdefault(run.training_set.name, []).append(run)
    sets = {
        name: MarkedSet(
            name,
            [len(run.training_set.ids) for run in runs],
            [trial.pool.response_tokens(run.training_set.ids) for run in runs],
            marks_of([marks(run.fingerprint) for run in runs], trial.measurements),
        )
        for name, runs in by_set.items()
    }
    untuned = marks_of([marks(trial.untuned)], trial.measurements)
    return {**sets, draws.UNTUNED: MarkedSet(draws.UNTUNED, [0], [0], untuned)}


def _training_samples(workspace: Workspace, runs: Iterable[Run]) -> pl.DataFrame:
    """SAMPLES of all samples that some run is tuned on."""
    wanted = {sample_id for run in runs for sample_id in run.training_set.ids}
    if not wanted:
        return pl.DataFrame(schema={"sample_id": pl.String})
    samples = pool_samples(workspace, read_index(workspace))
    return samples.filter(pl.col("sample_id").is_in(list(wanted)))


def _check_time(workspace: Workspace, recipe: str, seconds: float, done: int, total: int) -> None:
    """Raises DselectError where no run may be started any more."""
    limit = workspace.settings.trials.max_seconds
    if limit is not None and seconds >= limit:
        raise DselectError(
            f"trial of {recipe}: {done} of {total} runs are tuned and kept, and `trials: max_seconds` ({limit:g}) is "
            "over. The next refresh goes on from here; raise it to do more at once"
        )


class _Work:
    """Does what is missing, and counts."""

    def __init__(self, trial: Trial, progress: Progress | None, to_tune: list[Run], to_measure: list[Run]):
        self._trial = trial
        self._progress = progress
        self.measured = 0
        self.tokens = 0
        self.notes: list[str] = []
        marks = sum(
            sum(each.tokens for each in trial.missing_marks(run.fingerprint)) for run in [*to_tune, *to_measure]
        )
        marks += sum(each.tokens for each in trial.missing_marks(trial.untuned))
        self._total = max(1, marks + sum(_tuning_tokens(trial, run) for run in to_tune))
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
        lm = trial.model.open()
        examples, unrendered = self._examples(lm, run, samples)
        expected, before = _tuning_tokens(trial, run), self._done

        def tell(done: int, total: int, reused: int = 0) -> None:
            self._tell(before + expected * done / max(1, total))

        checkpoints = _checkpoints(trial, run)
        with TemporaryDirectory(prefix="dselect-run-") as scratch:
            result = tune(lm.forward.model, examples, run.spec, checkpoints, tell)
            tuned = lm.with_model(result.model)
            weights = None
            if trial.workspace.settings.trials.keep_models:
                weights = Path(scratch)
                save_tuned(result, weights)
            self._tell(before + expected)
            self._measure(tuned, run.fingerprint, trial.missing_marks(run.fingerprint))
            facts = {
                "set": run.training_set.name,
                "response_tokens": sum(int(example.scored.sum()) for example in examples),
                "rows_left_out": dict(unrendered),
                "steps": result.steps,
                "tokens": result.tokens,
                "seconds": round(result.seconds, 3),
                "losses": [round(loss, 6) for loss in result.losses],
            }
            trial.store.write(run, facts, weights)
        if checkpoints is not None:
            shutil.rmtree(checkpoints, ignore_errors=True)
        self.tokens += result.tokens
        if unrendered:
            left_out = ", ".join(f"{count} rows: {reason}" for reason, count in sorted(unrendered.items()))
            self.notes.append(f"{run.training_set.name} {run.training_set.number}: not tuned on {left_out}")

    def _examples(self, lm: LanguageModel, run: Run, samples: pl.DataFrame) -> tuple[list[Example], Counter[str]]:
        renderer = self._trial.model.tuning_renderer(lm)
        rows = conform_samples(samples).filter(pl.col("sample_id").is_in(list(run.training_set.ids))).sort("sample_id")
        examples, unrendered = [], Counter[str]()
        for messages, tools in rows.select("messages", "tools").iter_rows():
            try:
                rendered = renderer.render(chat_messages(messages), chat_tools(tools))
            except UnrenderableError as error:
                unrendered[str(error)] += 1
                continue
            if rendered.response_tokens:
                examples.append(Example.of(rendered))
            else:
                unrendered["no token of the response within `max_length`"] += 1
        return examples, unrendered

    def _measure(self, lm: LanguageModel, run: str, missing: list[Measurement]) -> None:
        for wanted in missing:
            self._trial.store.write_marks(run, wanted.name, wanted.measure(lm))
            self.measured += 1
            self.tokens += wanted.tokens
            self._tell(self._done + wanted.tokens)
            raise_if_stopped()

    def _tell(self, done: float) -> None:
        self._done = done
        if self._progress is not None:
            self._progress(min(int(done), self._total), self._total)


def _checkpoints(trial: Trial, run: Run) -> Path | None:
    """Where a run in progress keeps its state; none where the storage is not a local folder."""
    folder = trial.workspace.trials / "checkpoints" / run.fingerprint
    return Path(folder.path) if is_local(folder) else None
