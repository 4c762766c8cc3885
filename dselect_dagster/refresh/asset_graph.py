"""The assets of a graph and what depends on what, read from their public specs."""

from collections.abc import Iterable, Iterator
from functools import cache

import dagster as dg

from dselect_dagster.dagster_private import upstream_first

# An asset and one of its partitions; None where the asset has no partitions.
AssetPartition = tuple[dg.AssetKey, str | None]


class AssetGraph:
    """The specs of the assets, upstream first. Asks no database."""

    def __init__(self, defs: dg.Definitions):
        specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
        self.specs = {key: specs[key] for key in upstream_first(defs)}
        self._position = {key: position for position, key in enumerate(self.specs)}
        self.ancestors = cache(self._find_ancestors)

    def __iter__(self) -> Iterator[dg.AssetKey]:
        return iter(self.specs)

    def partitions(self, asset: dg.AssetKey) -> dg.PartitionsDefinition | None:
        """What partitions an asset has; None where it has none."""
        return self.specs[asset].partitions_def

    def is_automated(self, asset: dg.AssetKey) -> bool:
        """Whether an automation condition requests the asset."""
        return self.specs[asset].automation_condition is not None

    def parents(self, asset: dg.AssetKey) -> set[dg.AssetKey]:
        """The assets that an asset reads."""
        return {dep.asset_key for dep in self.specs[asset].deps}

    def sorted(self, partitions: Iterable[AssetPartition]) -> list[AssetPartition]:
        """Upstream first, so that running them in order makes each once."""
        return sorted(partitions, key=lambda key: (self._position[key[0]], key[1] or ""))

    def _find_ancestors(self, asset: dg.AssetKey) -> frozenset[dg.AssetKey]:
        """All assets upstream of one, at any distance."""
        parents = self.parents(asset)
        return frozenset(parents).union(*(self.ancestors(parent) for parent in parents))
