"""Dagster's staleness of all partitions, in a few queries: the second of the files that use its private parts.

See dagster_private.py for the price. What was read of an instance is kept as long as the instance is open: a record
never changes, so that a second look reads only those that came since. The price of it is memory, 2 kB a record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    DataProvenance,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    extract_data_version_from_entry,
)
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.loader import LoadingContext
from dagster._core.storage.event_log.base import AssetRecord
from dagster._utils.caching_instance_queryer import CachingInstanceQueryer

__all__ = ["StaleCause", "StaleCauseCategory", "StaleStatus", "StalenessResolver"]

# Records of one query: below the number of parameters that any SQLite takes.
RECORDS_PER_QUERY = 500
_MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION
_DATA_VERSION = "dagster/data_version"


@dataclass
class _Read:
    """What was read of an instance: the last records of an asset, and data versions as they were at some event."""

    latest: dict[dg.AssetKey, dict[str, dg.EventLogRecord]] = field(default_factory=dict)
    last_ids: dict[dg.AssetKey, int] = field(default_factory=dict)
    versions: dict[tuple[dg.AssetKey, int], dict[str, str | None]] = field(default_factory=dict)


_read: WeakKeyDictionary[dg.DagsterInstance, _Read] = WeakKeyDictionary()


class StalenessResolver(CachingStaleStatusResolver):
    """Dagster's staleness at one moment, with the latest record of every partition read in a few queries an asset.

    Dagster's own resolver makes several queries a partition, which takes seconds with a hundred sources, so it does not
    compare what reads 100 partitions or more. Its rules hold here for any number; `get_status` and `get_stale_causes`
    give the same answers below it, but for one: what had no partition at all when it was read is updated once it has.
    """

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance):
        graph = defs.resolve_asset_graph()
        loading_context = _LoadingContext(instance)
        AssetRecord.prepare(loading_context, graph.get_all_asset_keys())
        # The queryer reads the partition names once. The instance would read them for every partition that is compared.
        self.partition_names = CachingInstanceQueryer(instance, graph, loading_context)
        super().__init__(instance, graph, loading_context, self.partition_names)
        self._latest_by_partition = cache(self._read_latest_by_partition)
        self._parent_keys = cache(self._find_parent_keys)

    def _get_latest_data_version_record(self, key: AssetKeyPartitionKey) -> dg.EventLogRecord | None:
        if key.partition_key is None:
            return super()._get_latest_data_version_record(key=key)
        return self._latest_by_partition(key.asset_key).get(key.partition_key)

    def _get_partition_dependencies(self, *, key: AssetKeyPartitionKey) -> Sequence[AssetKeyPartitionKey]:
        asset = self.asset_graph.get(key.asset_key)
        return [dep for parent in asset.parent_keys for dep in self._parent_keys(key.partition_key, parent, asset.key)]

    def _find_parent_keys(
        self, partition: str | None, parent: dg.AssetKey, child: dg.AssetKey
    ) -> list[AssetKeyPartitionKey]:
        if not self.asset_graph.get(parent).is_partitioned:
            return [AssetKeyPartitionKey(parent, None)]
        of_child = self.asset_graph.get_parent_partition_keys_for_child(partition, parent, child)
        return [AssetKeyPartitionKey(parent, name) for name in of_child.partitions_subset.get_partition_keys()]

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        if dep_key.partition_key is None:
            return super()._is_dep_updated(provenance, dep_key)
        latest = self._latest_by_partition(dep_key.asset_key).get(dep_key.partition_key)
        used_record_id = provenance.input_storage_ids[dep_key.asset_key]
        if latest is None or used_record_id is None:
            return latest is not None
        # Without a record newer than the one that was used there is nothing to compare.
        if latest.storage_id <= used_record_id:
            return False
        version = extract_data_version_from_entry(latest.event_log_entry)
        return self._version_at(dep_key, used_record_id) != (None if version is None else version.value)

    def _version_at(self, key: AssetKeyPartitionKey, record_id: int) -> str | None:
        """The data version of a partition when an event was the asset's last; None where it was not made yet."""
        partition = str(key.partition_key)
        known = _read[self._instance].versions.setdefault((key.asset_key, record_id), {})
        if partition not in known:
            # One partition asks for one of these, its own source. Who asks for a second one reads all.
            asked = None if known else [partition]
            known.update(dict.fromkeys(self._latest_by_partition(key.asset_key) if asked is None else asked))
            tags = self._instance.event_log_storage.get_latest_tags_by_partition(
                key.asset_key, _MATERIALIZATION, [_DATA_VERSION], asked, before_cursor=record_id + 1
            )
            known.update({name: of_partition[_DATA_VERSION] for name, of_partition in tags.items()})
        return known[partition]

    def _read_latest_by_partition(self, asset: dg.AssetKey) -> Mapping[str, dg.EventLogRecord]:
        record = self.partition_names.get_asset_record(asset)
        last = None if record is None else record.asset_entry.last_materialization_record
        return latest_materializations(self._instance, asset, None if last is None else last.storage_id)


def latest_materializations(
    instance: dg.DagsterInstance, asset: dg.AssetKey, last_id: int | None = None
) -> dict[str, dg.EventLogRecord]:
    """{partition: the record of its last materialization}, in a few queries for all partitions of an asset.

    last_id: the number of the asset's last materialization, where the caller knows it: if it is that of the last look,
    nothing is read.
    """
    read = _read.setdefault(instance, _Read())
    known = read.latest.get(asset, {})
    if last_id is not None and read.last_ids.get(asset) == last_id:
        return known
    id_by_partition = instance.get_latest_storage_id_by_partition(asset, _MATERIALIZATION)
    latest = {name: known[name] for name, number in id_by_partition.items() if _is_record(known.get(name), number)}
    partition_by_id = {number: name for name, number in id_by_partition.items() if name not in latest}
    ids = sorted(partition_by_id)
    for start in range(0, len(ids), RECORDS_PER_QUERY):
        batch = dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids[start : start + RECORDS_PER_QUERY])
        for record in instance.fetch_materializations(batch, limit=RECORDS_PER_QUERY).records:
            latest[partition_by_id[record.storage_id]] = record
    read.latest[asset] = latest
    if last_id is not None:
        read.last_ids[asset] = last_id
    return latest


def _is_record(record: dg.EventLogRecord | None, number: int) -> bool:
    return record is not None and record.storage_id == number


class _LoadingContext(LoadingContext):
    def __init__(self, instance: dg.DagsterInstance):
        self._instance = instance
        self._loaders: dict[type, Any] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[type, Any]:
        return self._loaders
