"""How the missing rows of scores are computed and kept, as work that can be cut into shards (compute/shards.py).

A work holds names and fingerprints and no store or model: where it is done it opens both, the model once a process.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import polars as pl

from dselect_core.compute.shards import Outcome, Shard
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import Emit, FromPairs, FromSamples, FromScores, Kind, kind_of
from dselect_core.lm import target_model
from dselect_core.progress import Progress
from dselect_core.scores.attempts import attempts, count_attempts
from dselect_core.scores.forward_scores import forward_scores
from dselect_core.scores.provenance import provenance_of
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.appender import Appender
from dselect_core.storage.score_store import Store


@dataclass(frozen=True)
class PassWork:
    """Kinds that one forward pass gives. stores: {kind: fingerprint of its store}.

    The rows of a shard: sample_id, and a column by the name of each kind that is true where the sample lacks it.
    """

    workspace: Workspace
    stores: Mapping[str, str]

    def there(self) -> "PassWork":
        """As of any work that runs the target model."""
        return replace(self, workspace=with_recorded_model(self.workspace))

    def __call__(self, shard: Shard, progress: Progress | None) -> Outcome:
        """One pass over the samples. A kind that cannot be computed is among the failures of the outcome."""
        failures: dict[str, DselectError] = {}
        lm = target_model.open_target_model(self.workspace)
        tokens_before = lm.forward.tokens
        lacking = {name: shard.rows.filter(name) for name in self.stores}
        with ExitStack() as stack:
            appenders = {
                name: stack.enter_context(appender(self.workspace, kind_of(name), self.workspace.open_store(name, of)))
                for name, of in self.stores.items()
            }
            batches = forward_scores(
                lm, shard.samples, frozenset(self.stores), self.workspace.settings, progress, failures
            )
            for batch in batches:
                for name, frame in batch.items():
                    appenders[name].add(frame.join(lacking[name], on="sample_id", how="semi", maintain_order="left"))
        return Outcome(lm.forward.tokens - tokens_before, failures)


@dataclass(frozen=True)
class ModelWork:
    """One kind that the target model computes from other scores, of samples or of pairs.

    The rows of a shard: the kind's keys, with the scores beside them that it starts from.
    """

    workspace: Workspace
    name: str
    fingerprint: str

    def there(self) -> "ModelWork":
        """As of any work that runs the target model."""
        return replace(self, workspace=with_recorded_model(self.workspace))

    def __call__(self, shard: Shard, progress: Progress | None) -> Outcome:
        """Compute the rows; raises what the kind raises."""
        kind = kind_of(self.name)
        computation = kind.computed_by(self.workspace.settings)
        assert isinstance(computation, FromPairs | FromScores)
        lm = target_model.open_target_model(self.workspace)
        tokens_before = lm.forward.tokens
        with appender(self.workspace, kind, self.workspace.open_store(self.name, self.fingerprint)) as finished:
            for frame in computation.compute(lm, shard.samples, shard.rows, progress):
                finished.add(frame)
        return Outcome(lm.forward.tokens - tokens_before)


@dataclass(frozen=True)
class TextWork:
    """One kind that comes from the samples' text alone: by checks, an encoder, a judge. The rows: sample_id."""

    workspace: Workspace
    name: str
    fingerprint: str

    def there(self) -> "TextWork":
        """Raises DselectError where what computes the kind is another one on this machine: an encoder's folder, say."""
        if fingerprint(provenance_of(self.workspace, kind_of(self.name))) != self.fingerprint:
            raise DselectError(
                f"{self.name}: what computes it on this worker is not what the run names. Give the worker the same "
                "files at the same path."
            )
        return self

    def __call__(self, shard: Shard, progress: Progress | None) -> Outcome:
        """Compute the rows; raises what the kind raises."""
        store = self.workspace.open_store(self.name, self.fingerprint)
        self.into(store, shard.samples, progress)
        return Outcome()

    def into(self, store: Store, samples: pl.DataFrame, progress: Progress | None) -> None:
        """The same into a store that is open."""
        kind, settings = kind_of(self.name), self.workspace.settings
        computation = kind.computed_by(settings)
        assert isinstance(computation, FromSamples)
        with appender(self.workspace, kind, store, costly=computation.paid) as finished:
            emit = _counting_attempts(self.workspace, kind, store, samples, finished.add)
            computation.compute(samples, settings, emit, progress)


def appender(workspace: Workspace, kind: Kind, store: Store, *, costly: bool = False) -> Appender:
    """Writes finished rows as parts, as often as the settings say. costly: a killed process may lose none of them."""
    parts = workspace.settings.parts
    return Appender(store, parts.rows, parts.seconds, kind.conforming, costly=costly)


def _counting_attempts(workspace: Workspace, kind: Kind, store: Store, samples: pl.DataFrame, emit: Emit) -> Emit:
    """`emit`, which also says of each row that failed how often it has."""
    if store.retry_column is None:
        return emit
    earlier = store.read(samples, [kind.value, kind.reason_column])
    if earlier.is_empty():
        return emit
    earlier = earlier.select("sample_id", attempts=attempts(kind, workspace.settings))
    return lambda frame: emit(count_attempts(frame, kind, earlier, workspace.settings))


def with_recorded_model(workspace: Workspace) -> Workspace:
    """With the very model that the run named: the commit of a hub model, whatever its branch is by now."""
    commit = target_model.check_recorded(workspace)
    if commit is None:
        return workspace
    model = workspace.settings.model.model_copy(update={"revision": commit})
    return Workspace(workspace.settings.model_copy(update={"model": model}))
