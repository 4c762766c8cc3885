"""The model of a round: the target model as it is, or tuned on what was chosen before.

It is tuned from the target model each time and never from the last round's, so what it is follows from the samples
alone: not from the order in which they came, nor from the history of the storage. Its provenance is that of the target
model with `tuned` beside it, and scores under that provenance lie in the stores where all scores lie.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import fingerprint
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.target_model import open_target_model
from dselect_core.lm.tuned_weights import load_tuned, save_tuned
from dselect_core.progress import Progress
from dselect_core.runs.run_store import Run, RunStore, TrainingSet
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.runs.tune_run import checkpoint_folder, tune_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundModel:
    """base: the target model; run: how it is tuned; None: it is used as it is."""

    base: TunableModel
    run: Run | None

    @classmethod
    def tuned_on(cls, base: TunableModel, training_set: TrainingSet, seed: int) -> "RoundModel":
        """The target model tuned on these samples as `feedback` of the settings says."""
        return cls(base, Run(training_set, replace(base.tune_spec, seed=seed), base.run_model))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """All of the model that can move a score; JSON values."""
        if self.run is None:
            return self.base.provenance
        made_from = {key: value for key, value in self.run.made_from.items() if key != "model"}
        return {**self.base.provenance, "tuned": {**made_from, "window": self.base.tuning.max_length}}

    @cached_property
    def fingerprint(self) -> str:
        """Names the model: hash of its provenance."""
        return fingerprint(self.provenance)

    @property
    def is_tuned(self) -> bool:
        """Whether nothing is left to tune."""
        return self.run is None or self._store.has_weights(self.run)

    @property
    def facts(self) -> dict[str, Any]:
        """What tuning it said (runs/tune_run.py); empty where it is not tuned, or not yet."""
        return {} if self.run is None else self._store.facts(self.run) or {}

    def open(self, samples: Callable[[], pl.DataFrame], progress: Progress | None = None) -> LanguageModel:
        """The model, tuned first where its weights are not kept. samples: gives SAMPLES of those it is tuned on.

        A run that was killed goes on from its checkpoint. progress: told the tokens of tuning. Raises DselectError as
        `tuning.tune` does.
        """
        if self.run is None:
            return open_target_model(self.base.workspace)
        if self._store.has_weights(self.run):
            lm = self.base.open()
            try:
                weights = self._store.with_weights(self.run, lambda folder: load_tuned(lm.forward.model, folder))
                return lm.with_model(weights)
            except (DamagedFileError, FileNotFoundError) as error:
                _log.warning("a round's model is tuned again: %s", error)
        folder = self.base.workspace.rounds / "checkpoints"
        checkpoints = checkpoint_folder(folder, self.run)
        done = tune_run(self.base, self.run, samples(), checkpoints, progress)
        with TemporaryDirectory(prefix="dselect-run-") as scratch:
            save_tuned(done.tuned, Path(scratch))
            self._store.write(self.run, done.facts, Path(scratch))
        if checkpoints is not None:
            shutil.rmtree(checkpoints, ignore_errors=True)
        return done.model

    @property
    def _store(self) -> RunStore:
        return RunStore(self.base.workspace.rounds / "runs")
