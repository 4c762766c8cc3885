"""All that dselect uses of Dagster beyond its public API. No other file may name `dagster._...` or these methods.

The price of staying in step with the UI and the daemon: staleness and conditions are Dagster's own answers, but a new
version of Dagster may move what they are made of. tests/dagster/test_dagster_private.py names what is used, and says
what moved. Everything here takes and returns public types, text, or the classes that are named in `__all__`.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions import data_version
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.automation_tick_evaluation_context import AutomationTickEvaluationContext
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    DataProvenance,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
)
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.instance.ref import InstanceRef
from dagster._core.loader import LoadingContext
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.storage.runs import SqlRunStorage
from dagster._daemon.asset_daemon import (
    asset_daemon_cursor_from_instigator_serialized_cursor,
    asset_daemon_cursor_to_instigator_serialized_cursor,
)
from dagster._utils.caching_instance_queryer import CachingInstanceQueryer
from sqlalchemy.exc import DBAPIError

from dselect_core.errors import DselectError, UnreachableError

__all__ = ["StaleCause", "StaleCauseCategory", "StaleStatus", "StalenessResolver"]

# Records of one query: below the number of parameters that any SQLite takes.
RECORDS_PER_QUERY = 500
NO_CONSOLE_LOG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run config of what runs in this process: its lines go to the event log alone."""
_EXPECTED_ERRORS = [f"{error.__module__}.{error.__name__}: " for error in (DselectError, UnreachableError, dg.Failure)]
_NO_COMPUTE_LOGS = {
    "module": "dagster._core.storage.noop_compute_log_manager",
    "class": "NoOpComputeLogManager",
    "config": {},
}


class StalenessResolver(CachingStaleStatusResolver):
    """Dagster's staleness at one moment, with the latest record of every partition read in a few queries an asset.

    Dagster's own resolver makes several queries a partition, which takes seconds with a hundred sources. Its rules
    are unchanged: `get_status` and `get_stale_causes` give the same answers.
    """

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance):
        graph = defs.resolve_asset_graph()
        loading_context = _LoadingContext(instance)
        AssetRecord.prepare(loading_context, graph.get_all_asset_keys())
        # The queryer reads the partition names once. The instance would read them for every partition that is compared.
        self.partition_names = CachingInstanceQueryer(instance, graph, loading_context)
        super().__init__(instance, graph, loading_context, self.partition_names)
        self._latest_by_partition = cache(self._read_latest_by_partition)
        self._is_updated: dict[tuple[AssetKeyPartitionKey, int | None], bool] = {}

    def _get_latest_data_version_record(self, key: AssetKeyPartitionKey) -> dg.EventLogRecord | None:
        if key.partition_key is None:
            return super()._get_latest_data_version_record(key=key)
        return self._latest_by_partition(key.asset_key).get(key.partition_key)

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        if dep_key.partition_key is not None:
            latest_record = self._latest_by_partition(dep_key.asset_key).get(dep_key.partition_key)
            used_record_id = provenance.input_storage_ids[dep_key.asset_key]
            # Without a record newer than the one that was used there is nothing to compare.
            if latest_record is None or (used_record_id is not None and latest_record.storage_id <= used_record_id):
                return False
            # A source that landed again as it was is compared for each asset that reads it, and all used one record.
            compared = dep_key, used_record_id
            if compared not in self._is_updated:
                self._is_updated[compared] = super()._is_dep_updated(provenance, dep_key)
            return self._is_updated[compared]
        return super()._is_dep_updated(provenance, dep_key)

    def _read_latest_by_partition(self, asset: dg.AssetKey) -> Mapping[str, dg.EventLogRecord]:
        return latest_materializations(self._instance, asset)


def latest_materializations(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, dg.EventLogRecord]:
    """{partition: the record of its last materialization}, in a few queries for all partitions of an asset."""
    id_by_partition = instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
    partition_by_id = {record_id: partition for partition, record_id in id_by_partition.items()}
    ids = sorted(partition_by_id)
    latest = {}
    for start in range(0, len(ids), RECORDS_PER_QUERY):
        batch = dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids[start : start + RECORDS_PER_QUERY])
        for record in instance.fetch_materializations(batch, limit=RECORDS_PER_QUERY).records:
            latest[partition_by_id[record.storage_id]] = record
    return latest


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


def staleness_partition_limit() -> int:
    """The number of upstream partitions from which Dagster does not compare their data versions any more."""
    return data_version.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD


def evaluate_conditions(
    defs: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[set[tuple[dg.AssetKey, str | None]], str]:
    """Evaluate all automation conditions as the daemon does: the asset partitions they request, and the new cursor."""
    runs, new_cursor = runs_of_conditions(defs, instance, cursor)
    return {(asset, run.partition_key) for run in runs for asset in run.asset_selection or []}, new_cursor


def runs_of_conditions(
    defs: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[Sequence[dg.RunRequest], str]:
    """The same as the runs that the daemon would start.

    `dg.evaluate_automation_conditions` gives the same answer. It asks the database for the partitions about ten times
    a source, because it writes its new cursor outside of the cache that the evaluation uses; the daemon does not.
    """
    last_cursor = dg.deserialize_value(cursor, AssetDaemonCursor) if cursor else AssetDaemonCursor.empty()
    tick = AutomationTickEvaluationContext(
        evaluation_id=last_cursor.evaluation_id + 1,
        instance=instance,
        asset_graph=defs.resolve_asset_graph(),
        cursor=last_cursor,
        materialize_run_tags={},
        observe_run_tags={},
        auto_observe_asset_keys=set(),
        asset_selection=dg.AssetSelection.all(),
        logger=logging.getLogger(__name__),
        emit_backfills=False,
    )
    runs, new_cursor, _ = tick.evaluate()
    return runs, dg.serialize_value(new_cursor)


def last_event_of(cursor: str) -> int:
    """The number of the last event that an evaluation saw; 0 where it saw none."""
    of_assets = dg.deserialize_value(cursor, AssetDaemonCursor).previous_condition_cursors or []
    return max((of_asset.last_event_id or 0 for of_asset in of_assets), default=0)


def read_sensor_cursors(instance: dg.DagsterInstance, sensor: str, asset: dg.AssetKey) -> dict[str, str]:
    """{state: cursor} of the automation sensors of this name that evaluated an asset, on or off: one a code location.

    The cursors are as `evaluate_conditions` takes them.
    """
    cursors = {state: _cursor_of(state) for state in _sensor_states(instance, sensor)}
    return {
        state.selector_id: dg.serialize_value(cursor)
        for state, cursor in cursors.items()
        if any(of_asset.key == asset for of_asset in cursor.previous_condition_cursors or [])
    }


def write_sensor_cursors(instance: dg.DagsterInstance, sensor: str, read: Mapping[str, str], cursor: str) -> None:
    """Put the sensors of `read` to this cursor, but those that a daemon has moved since `read` was read."""
    new = dg.deserialize_value(cursor, AssetDaemonCursor)
    for state in _sensor_states(instance, sensor):
        old, data = _cursor_of(state), state.sensor_instigator_data
        if data is None or read.get(state.selector_id) != dg.serialize_value(old):
            continue
        # The numbers of evaluations are the daemon's, which looks by them for the tick that a crash cut short.
        text = asset_daemon_cursor_to_instigator_serialized_cursor(replace(new, evaluation_id=old.evaluation_id))
        instance.update_instigator_state(state.with_data(data._replace(cursor=text)))


def _sensor_states(instance: dg.DagsterInstance, sensor: str) -> list[InstigatorState]:
    if instance.schedule_storage is None:  # an instance in memory, which no daemon serves
        return []
    states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    return [state for state in states if state.name == sensor]


def _cursor_of(state: InstigatorState) -> AssetDaemonCursor:
    data = state.sensor_instigator_data
    return asset_daemon_cursor_from_instigator_serialized_cursor(None if data is None else data.cursor, None)


def read_cursors(instance: dg.DagsterInstance, names: set[str]) -> Mapping[str, str]:
    """The texts that `write_cursors` stored in the instance, without the names that it has none for."""
    return instance.daemon_cursor_storage.get_cursor_values(names)


def write_cursors(instance: dg.DagsterInstance, cursors: Mapping[str, str]) -> None:
    """Store texts under names in the instance, all or none."""
    instance.daemon_cursor_storage.set_cursor_values(cursors)


def evaluation_of(
    made: dg.EventLogRecord, check: dg.AssetCheckKey, partition: str, **result: Any
) -> dg.AssetCheckEvaluation:
    """The result of a check of one partition of a materialization: to Dagster it says nothing of a later one.

    result: passed, severity, description, metadata of `dg.AssetCheckEvaluation`. It fails no step that yields it.
    """
    target = AssetCheckEvaluationTargetMaterializationData(
        storage_id=made.storage_id, run_id=made.run_id, timestamp=made.timestamp
    )
    return dg.AssetCheckEvaluation(
        check.asset_key,
        check.name,
        target_materialization_data=target,
        blocking=False,
        partition=partition,
        **result,
    )


@dataclass(frozen=True)
class LastEvaluation:
    """The last result of a check of a materialization; None: it has none, or a later one has. number: grows with each.

    is_at_work: a run that will say more.
    """

    result: dg.AssetCheckEvaluation | None = None
    is_at_work: bool = False
    number: int = 0


def last_evaluation(
    instance: dg.DagsterInstance, made: dg.EventLogRecord, check: dg.AssetCheckKey, partition: str
) -> LastEvaluation:
    """What Dagster has on record of a check of one partition as it was made last."""
    of_partition = PartitionKeyFilter(key=partition)
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key([check], partition_filter=of_partition)
    record = found.get(check)
    if record is None:
        return LastEvaluation()
    evaluation: object = record.evaluation
    if not isinstance(evaluation, dg.AssetCheckEvaluation):  # it is planned
        run = instance.get_run_by_id(record.run_id)
        return LastEvaluation(None, run is not None and not run.is_finished, record.id)
    target = evaluation.target_materialization_data
    is_of_this = target is not None and target.storage_id == made.storage_id
    return LastEvaluation(evaluation if is_of_this else None, False, record.id)


def run_checks(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    checks: Iterable[dg.AssetCheckKey],
    partition: str,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Evaluate checks of one partition in this process, and make nothing.

    A result that is reported without a run would do, but for one thing: Dagster takes one such of a partition, and no
    second (a UNIQUE constraint on its table).
    """
    job = defs.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection=frozenset(), asset_check_selection=frozenset(checks))
    # Named by its tag: Dagster looks for the set of partitions among the assets of the run, and there are none.
    tags = {**(tags or {}), "dagster/partition": partition}
    return subset.execute_in_process(instance=instance, tags=tags, raise_on_error=False, run_config=NO_CONSOLE_LOG)


def open_instance_without_compute_logs(dagster_home: Path) -> dg.DagsterInstance:
    """The instance of a home, with its tables made. What steps print goes to the terminal and not to files."""
    ref = InstanceRef.from_dir(str(dagster_home), overrides={"compute_logs": _NO_COMPUTE_LOGS})
    instance = dg.DagsterInstance.from_ref(ref)
    # Each makes the tables of its storage.
    instance.get_run_records(limit=1)
    instance.all_asset_keys()
    instance.all_instigator_state()
    return instance


@contextlib.contextmanager
def hold_database_lock(instance: dg.DagsterInstance, number: int, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of that number in the instance's PostgreSQL, for processes of many machines; elsewhere nothing.

    on_wait: called before waiting. PostgreSQL frees the lock of a process that is gone. It belongs to a connection, so
    a pooler in between must pool sessions, not transactions.
    """
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        yield
        return
    with storage.connect() as connection:
        if connection.dialect.name != "postgresql":
            yield
            return
        take = f"SELECT pg_try_advisory_lock({number:d})"
        if not connection.exec_driver_sql(take).scalar():
            on_wait()
            while not connection.exec_driver_sql(take).scalar():
                time.sleep(1)  # not in the database, where Ctrl-C would not reach it
        try:
            yield
        finally:
            with contextlib.suppress(DBAPIError):  # the connection is gone, and the lock with it
                connection.exec_driver_sql(f"SELECT pg_advisory_unlock({number:d})")


def fail_run(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> None:
    """Record that a run has failed."""
    instance.report_run_failed(run, message)


def replace_specs(defs: dg.Definitions, replace: Callable[[dg.AssetSpec], dg.AssetSpec]) -> dg.Definitions:
    """The same definitions with other specs. `map_asset_specs` does this too, and warns each time that it is new."""
    return defs.permissive_map_resolved_asset_specs(func=replace, selection=None)


def select_assets(defs: dg.Definitions, selection: dg.AssetSelection) -> set[dg.AssetKey]:
    """The assets that a selection names. Raises DselectError for an asset that the graph does not have."""
    try:
        return set(selection.resolve(defs.resolve_asset_graph()))
    except dg.DagsterInvalidSubsetError as error:
        raise DselectError(f"--select: {error}") from None


def run_assets(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    assets: list[dg.AssetKey],
    partition: str | None,
    job: str | None = None,
    **options: Any,
) -> dg.ExecuteInProcessResult:
    """Run assets of one partition in this process.

    job: the name that the run bears; None: that of no job. options: those of `dg.JobDefinition.execute_in_process`.
    """
    of_job = defs.resolve_implicit_global_asset_job_def()
    if job is not None:
        # A job that is defined has one set of partitions, and its runs no other.
        of_job = of_job._copy(name=job)
    return of_job.execute_in_process(instance=instance, partition_key=partition, asset_selection=assets, **options)


def materializations_of(result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    """What a run materialized, in order."""
    return [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]


def step_errors_of(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """{step: message} of the steps that failed: the message of the root cause, or of the blocking check that failed."""
    failed_checks = {c.check_name: c.description or "" for c in result.get_asset_check_evaluations() if not c.passed}
    errors = {}
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        step = event.step_key or ""
        of_checks = [f"{name}: {description}" for name, description in failed_checks.items() if step.endswith(name)]
        message = "failed" if error is None else error.message.strip()
        for prefix in _EXPECTED_ERRORS:
            message = message.removeprefix(prefix)
        errors[step] = "; ".join(of_checks) or message
    return errors


def step_tracebacks_of(result: dg.ExecuteInProcessResult) -> list[str]:
    """The traceback of each step that failed, causes included."""
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return [error.to_string() for error in failures if error is not None]


def upstream_first(defs: dg.Definitions) -> Iterable[dg.AssetKey]:
    """All assets, each after those it depends on; by name where no dependency says more."""
    return defs.resolve_asset_graph().toposorted_asset_keys
