"""What is stale and why, by Dagster's own staleness: the same answer as the UI's badge, in words.

Its limit: Dagster does not compare data versions across an edge of 100 or more partitions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from dselect_dagster.dagster_private import (
    StaleCause,
    StaleCauseCategory,
    StalenessResolver,
    StaleStatus,
    staleness_partition_limit,
)
from dselect_dagster.defs.changed_inputs import LANDED_ASSETS
from dselect_dagster.defs.partitions import RECIPE
from dselect_dagster.refresh.asset_graph import AssetGraph, AssetPartition

# Made once and kept: new rows do not make another model (see its condition in defs/automation_condition.py).
PINNED_ASSETS = frozenset({dg.AssetKey("warmup_model")})


@dataclass(frozen=True)
class StalePartition:
    """A partition (None: the asset has none) that is missing or behind its inputs, and why."""

    asset: dg.AssetKey
    partition: str | None
    missing: bool
    why: str


class Staleness:
    """The staleness of the graph at one moment: make a new one after runs."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance):
        self.graph = AssetGraph(defs)
        self._resolver = StalenessResolver(defs, instance)

    def check(self, asset: dg.AssetKey, partition: str | None) -> StalePartition | None:
        """None when it is up to date. A pinned asset is stale only when missing or when its own settings changed."""
        status = self._resolver.get_status(asset, partition)
        if status == StaleStatus.FRESH:
            return None
        if status == StaleStatus.MISSING:
            return StalePartition(asset, partition, True, "never made")
        causes = self._resolver.get_stale_causes(asset, partition)
        if asset in PINNED_ASSETS:
            causes = [cause for cause in causes if cause.category == StaleCauseCategory.CODE]
            if not causes:
                return None
        return StalePartition(asset, partition, False, "; ".join(sorted({_describe(cause) for cause in causes})))

    def automated_partitions(self) -> Iterator[AssetPartition]:
        """Every asset partition that some condition requests, upstream first."""
        for asset in self.graph:
            if self.graph.is_automated(asset):
                for partition in self._partition_names(asset):
                    yield asset, partition

    def stale_partitions(self, recipes_back: Sequence[str] = ()) -> list[StalePartition]:
        """The automated partitions that are missing or behind their inputs, upstream first.

        recipes_back: recipes that have no partition now and will have it again.
        """
        keys = list(self.automated_partitions())
        of_recipes = [asset for asset in self.graph if self.graph.partitions(asset) == RECIPE]
        keys += [(a, recipe) for a in of_recipes if self.graph.is_automated(a) for recipe in recipes_back]
        checked = (self.check(asset, partition) for asset, partition in keys)
        return [stale for stale in checked if stale is not None]

    def unused_assets(self) -> list[dg.AssetKey]:
        """Score assets that no recipe reads, so that nothing requests them."""
        landed = {dg.AssetKey(asset) for asset in LANDED_ASSETS}
        return [asset for asset in self.graph if asset not in landed and not self.graph.is_automated(asset)]

    def waits_for_any(self, asset_partition: AssetPartition, upcoming: list[AssetPartition]) -> bool:
        """Whether one of the `upcoming` partitions is upstream, at any distance, so that it would be made twice."""
        asset, partition = asset_partition
        ancestors = self.graph.ancestors(asset)
        own_partitions = self.graph.partitions(asset)
        return any(
            other in ancestors and (self.graph.partitions(other) != own_partitions or other_partition == partition)
            for other, other_partition in upcoming
        )

    def is_over_partition_limit(self, asset: dg.AssetKey) -> bool:
        """Whether the asset reads so many partitions that Dagster does not compare them."""
        return self.graph.partitions(asset) is None and any(
            len(self._partition_names(parent)) >= staleness_partition_limit()
            for parent in self.graph.parents(asset)
            if self.graph.partitions(parent) is not None
        )

    def _partition_names(self, asset: dg.AssetKey) -> list[str | None]:
        definition = self.graph.partitions(asset)
        if definition is None:
            return [None]
        return list(definition.get_partition_keys(dynamic_partitions_store=self._resolver.partition_names))


def _describe(cause: StaleCause) -> str:
    if cause.dependency is None or cause.category == StaleCauseCategory.CODE:
        return "its settings or code changed"
    asset, partition = cause.dependency.asset_key.to_user_string(), cause.dependency.partition_key
    changes = {"has a new data version": "changed", "has a new dependency data version": "changed"}
    return f"{asset}{f'[{partition}]' if partition else ''} {changes.get(cause.reason, cause.reason)}"
