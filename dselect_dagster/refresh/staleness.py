"""What is stale and why, by Dagster's own staleness: the same answer as the UI's badge, in words.

Across an edge of 100 partitions or more the UI compares no data versions and says nothing. Here its rule holds too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from dselect_core.rounds.round_record import asset_of_round
from dselect_core.select.recipe import MAX_ROUNDS
from dselect_dagster.dagster_private_staleness import StaleCause, StaleCauseCategory, StalenessResolver, StaleStatus
from dselect_dagster.defs.changed_inputs import LANDED_ASSETS
from dselect_dagster.defs.namespace import PLAIN, Namespace
from dselect_dagster.refresh.asset_graph import AssetGraph, AssetPartition

# Made once and kept: new rows do not make another model (see its condition in defs/automation_condition.py).
PINNED_ASSETS = frozenset({"warmup_model"})
_ROUNDS = frozenset(asset_of_round(number + 1) for number in range(MAX_ROUNDS))


@dataclass(frozen=True)
class StalePartition:
    """A partition (None: the asset has none) that is missing or behind its inputs, and why."""

    asset: dg.AssetKey
    partition: str | None
    missing: bool
    why: str


class Staleness:
    """The staleness of the graph at one moment: make a new one after runs."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, namespace: Namespace = PLAIN):
        self.graph = AssetGraph(defs)
        self._namespace = namespace
        self._resolver = StalenessResolver(defs, instance)

    def check(self, asset: dg.AssetKey, partition: str | None) -> StalePartition | None:
        """None when it is up to date. A pinned asset is stale only when missing or when its own settings changed."""
        status = self._resolver.get_status(asset, partition)
        if status == StaleStatus.FRESH:
            return None
        if status == StaleStatus.MISSING:
            return StalePartition(asset, partition, True, "never made")
        causes = [cause for cause in self._resolver.get_stale_causes(asset, partition) if not self._is_past(cause)]
        if self._namespace.asset(asset) in PINNED_ASSETS:
            causes = [cause for cause in causes if cause.category == StaleCauseCategory.CODE]
        if not causes:
            return None
        return StalePartition(asset, partition, False, "; ".join(sorted({_describe(cause) for cause in causes})))

    def _is_past(self, cause: StaleCause) -> bool:
        """Whether a coreset only lacks an input that it never read: the rounds that other recipes had."""
        dependency = cause.dependency
        return (
            cause.category == StaleCauseCategory.DEPENDENCIES
            and dependency is not None
            and self._namespace.asset(dependency.asset_key) in _ROUNDS
            and dependency.asset_key not in self.graph.specs
        )

    def automated_partitions(self) -> Iterator[AssetPartition]:
        """Every asset partition that some condition requests, upstream first."""
        for asset in self.graph:
            if self.graph.is_automated(asset):
                for partition in self._partition_names(asset):
                    yield asset, partition

    def stale_partitions(
        self, to_come: Mapping[str, Sequence[str]] | None = None, to_go: Mapping[str, Sequence[str]] | None = None
    ) -> list[StalePartition]:
        """The automated partitions that are missing or behind their inputs, upstream first.

        to_come: {set of partitions: keys that it does not have now and will have}; to_go: those that it will lose.
        """
        keys = []
        for asset in filter(self.graph.is_automated, self.graph):
            definition = self.graph.partitions(asset)
            name = str(definition.name) if isinstance(definition, dg.DynamicPartitionsDefinition) else ""
            going = (to_go or {}).get(name, ())
            keys += [(asset, key) for key in self._partition_names(asset) if key not in going]
            keys += [(asset, key) for key in (to_come or {}).get(name, ())]
        checked = (self.check(asset, partition) for asset, partition in keys)
        return [stale for stale in checked if stale is not None]

    def unused_assets(self) -> list[dg.AssetKey]:
        """Score assets that no recipe reads, so that nothing requests them."""
        others = set(self._namespace.keys(*LANDED_ASSETS, "held_out", "trial"))
        return [asset for asset in self.graph if asset not in others and not self.graph.is_automated(asset)]

    def waits_for_any(self, asset_partition: AssetPartition, upcoming: list[AssetPartition]) -> bool:
        """Whether one of the `upcoming` partitions is upstream, at any distance, so that it would be made twice."""
        asset, partition = asset_partition
        ancestors = self.graph.ancestors(asset)
        own_partitions = self.graph.partitions(asset)
        return any(
            other in ancestors
            and self._namespace.may_read(own_partitions, partition, self.graph.partitions(other), other_partition)
            for other, other_partition in upcoming
        )

    def _partition_names(self, asset: dg.AssetKey) -> list[str | None]:
        definition = self.graph.partitions(asset)
        if definition is None:
            return [None]
        return list(definition.get_partition_keys(dynamic_partitions_store=self._resolver.partition_names))


def stale_trials(defs: dg.Definitions, instance: dg.DagsterInstance, namespace: Namespace = PLAIN) -> dict[str, str]:
    """{recipe: why} of the trials that were made and are behind their inputs."""
    stale = Staleness(defs, instance, namespace).stale_partitions()
    trial = namespace.key("trial")
    return {str(each.partition): each.why for each in stale if each.asset == trial and not each.missing}


def _describe(cause: StaleCause) -> str:
    if cause.dependency is None or cause.category == StaleCauseCategory.CODE:
        return "its settings or code changed"
    asset, partition = cause.dependency.asset_key.to_user_string(), cause.dependency.partition_key
    changes = {"has a new data version": "changed", "has a new dependency data version": "changed"}
    return f"{asset}{f'[{partition}]' if partition else ''} {changes.get(cause.reason, cause.reason)}"
