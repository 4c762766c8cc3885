"""Dagster's own staleness, asked for all partitions at once.

CachingStaleStatusResolver makes several queries for each partition, which with a hundred sources is seconds a look;
here it gets the latest record of every partition from a few queries an asset, and its rules stay its own. It is no
public API of Dagster: this file and stale.py are the only ones that know it.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, DataProvenance
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.loader import LoadingContext
from dagster._core.storage.event_log.base import AssetRecord

# Of one query: below the number of parameters that any SQLite takes.
_AT_ONCE = 500


class Resolver(CachingStaleStatusResolver):
    """A view of the instance at one moment."""

    def __init__(self, graph: Any, instance: dg.DagsterInstance):
        loading = _Loading(instance)
        AssetRecord.prepare(loading, graph.get_all_asset_keys())
        super().__init__(instance, graph, loading)
        self._latest = cache(self._latest_by_partition)

    def _get_latest_data_version_record(self, key: AssetKeyPartitionKey) -> dg.EventLogRecord | None:
        if key.partition_key is None:
            return super()._get_latest_data_version_record(key=key)
        return self._latest(key.asset_key).get(key.partition_key)

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        if dep_key.partition_key is not None:
            latest, seen = self._latest(dep_key.asset_key), provenance.input_storage_ids[dep_key.asset_key]
            record = latest.get(dep_key.partition_key)
            # Nothing was recorded since what the asset was made from, so there is nothing to compare.
            if record is None or (seen is not None and record.storage_id <= seen):
                return False
        return super()._is_dep_updated(provenance, dep_key)

    def _latest_by_partition(self, asset: dg.AssetKey) -> Mapping[str, dg.EventLogRecord]:
        made = dg.DagsterEventType.ASSET_MATERIALIZATION
        partitions = {at: name for name, at in self._instance.get_latest_storage_id_by_partition(asset, made).items()}
        ids = sorted(partitions)
        found = {}
        for start in range(0, len(ids), _AT_ONCE):
            wanted = dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids[start : start + _AT_ONCE])
            for record in self._instance.fetch_materializations(wanted, limit=_AT_ONCE).records:
                found[partitions[record.storage_id]] = record
        return found


class _Loading(LoadingContext):
    def __init__(self, instance: dg.DagsterInstance):
        self._instance = instance
        self._loaders: dict[type, Any] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[type, Any]:
        return self._loaders
