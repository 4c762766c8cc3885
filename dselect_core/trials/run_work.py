"""The runs of a trial as work for workers of a Ray cluster: each tunes one, measures it, and keeps run and marks.

A worker finds the trial anew in the storage, and takes from it the runs that it is given the names of. Trade-off: it
opens the model for each run, as the process of the trial does.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import polars as pl

from dselect_core.compute.shards import Outcome, Shard
from dselect_core.errors import DselectError
from dselect_core.lm import resident
from dselect_core.progress import Progress
from dselect_core.runs.run_store import Run
from dselect_core.scores.score_work import with_recorded_model
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.trial import Trial
from dselect_core.trials.tune_and_measure import TrialWork, training_samples

_RUN = "run"


@dataclass(frozen=True)
class RunsWork:
    """Runs of a recipe's trial. The rows of a shard: `run`, the fingerprint.

    until: no run starts later, as time.time().
    """

    workspace: Workspace
    recipe: str
    until: float | None

    def there(self) -> "RunsWork":
        """As of any work that runs the target model."""
        return replace(self, workspace=with_recorded_model(self.workspace))

    def __call__(self, shard: Shard, progress: Progress | None) -> Outcome:
        """Tune and measure; raises DselectError where a run would come out otherwise on this machine."""
        resident.release()
        trial = Trial.of(self.workspace, self.recipe)
        runs = {run.fingerprint: run for run in trial.runs}
        work = TrialWork(trial, None if progress is None else lambda *_: progress(0, shard.rows.height))
        for name in shard.rows[_RUN]:
            if self.until is not None and time.time() >= self.until:
                break
            if name not in runs:
                raise DselectError(
                    f"trial of {self.recipe}: this worker would tune otherwise than the run's machine. Say "
                    "`trials.precision` and the model's `dtype`, which are settled by the machine where they are `auto`"
                )
            work.tune(runs[name], training_samples(self.workspace, [runs[name]]))
        return Outcome(work.tokens)


def tune_on_ray(trial: Trial, runs: Iterable[Run], until: float | None, progress: Progress | None) -> int:
    """Tune and measure runs, a shard each; returns the tokens. progress: in runs. Raises as `compute_on_ray`."""
    from dselect_core.compute.ray_engine import compute_on_ray  # loaded where it is asked for

    rows = pl.DataFrame({_RUN: [run.fingerprint for run in runs]})
    whole = Shard(rows, pl.DataFrame(schema={"sample_id": pl.String}))
    work = RunsWork(trial.workspace, trial.recipe, until)
    return compute_on_ray(trial.workspace.settings.compute, work, whole, 1, progress).tokens
