"""What is stale and why, by Dagster's own staleness: the same answer as the UI's badge, in words.

Its limit: no staleness across an edge of 100 or more partitions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions import data_version
from dagster._core.definitions.data_version import StaleCause, StaleCauseCategory, StaleStatus

from dselect_dagster.refresh.staleness_query import Resolver

Key = tuple[dg.AssetKey, str | None]

# Made once and kept: new rows do not make another model (see its condition in automation.py).
PINNED = frozenset({dg.AssetKey("warmup_model")})


@dataclass(frozen=True)
class Stale:
    """A partition (None: the asset has none) that is missing or behind its inputs, and why."""

    asset: dg.AssetKey
    partition: str | None
    missing: bool
    why: str


class Staleness:
    """A view of the instance at one moment: make a new one after runs."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance):
        self.graph = defs.resolve_asset_graph()
        self.instance = instance
        self._resolver = Resolver(self.graph, instance)

    def of(self, asset: dg.AssetKey, partition: str | None) -> Stale | None:
        """None when it is up to date. A pinned asset is stale only when missing or when its own settings changed."""
        status = self._resolver.get_status(asset, partition)
        if status == StaleStatus.FRESH:
            return None
        if status == StaleStatus.MISSING:
            return Stale(asset, partition, True, "never made")
        causes = self._resolver.get_stale_causes(asset, partition)
        if asset in PINNED:
            causes = [cause for cause in causes if cause.category == StaleCauseCategory.CODE]
            if not causes:
                return None
        return Stale(asset, partition, False, "; ".join(sorted({_words(cause) for cause in causes})))

    def automated(self) -> Iterator[tuple[dg.AssetKey, str | None]]:
        """Every asset partition that some condition drives, upstream first."""
        for key in self.graph.toposorted_asset_keys:
            node = self.graph.get(key)
            if node.automation_condition is None:
                continue
            if node.partitions_def is None:
                yield key, None
            else:
                for partition in node.partitions_def.get_partition_keys(dynamic_partitions_store=self.instance):
                    yield key, partition

    def all(self) -> list[Stale]:
        return [found for key, partition in self.automated() if (found := self.of(key, partition)) is not None]

    def idle(self) -> list[dg.AssetKey]:
        """Score assets that no recipe reads, so that nothing requests them."""
        landed = {dg.AssetKey("raw_dataset"), dg.AssetKey("coreset_spec")}
        keys = self.graph.toposorted_asset_keys
        return [k for k in keys if k not in landed and self.graph.get(k).automation_condition is None]

    def waits(self, key: Key, able: list[Key]) -> bool:
        """Whether something upstream of `key`, at any distance, is about to run, so that `key` would be made twice."""
        asset, partition = key
        upstream = self.graph.get_ancestor_asset_keys(asset)
        own = self.graph.get(asset).partitions_def
        return any(
            other in upstream and (self.graph.get(other).partitions_def != own or at == partition) for other, at in able
        )

    def is_blind_to(self, asset: dg.AssetKey) -> bool:
        """Whether the asset hangs on so many partitions that Dagster does not look at them."""
        node = self.graph.get(asset)
        return node.partitions_def is None and any(
            len(parent.get_partition_keys(dynamic_partitions_store=self.instance))
            >= data_version.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD
            for key in node.parent_keys
            if (parent := self.graph.get(key).partitions_def) is not None
        )


def _words(cause: StaleCause) -> str:
    if cause.dependency is None or cause.category == StaleCauseCategory.CODE:
        return "its settings or code changed"
    asset, partition = cause.dependency.asset_key.to_user_string(), cause.dependency.partition_key
    changes = {"has a new data version": "changed", "has a new dependency data version": "changed"}
    return f"{asset}{f'[{partition}]' if partition else ''} {changes.get(cause.reason, cause.reason)}"
