"""What dselect uses of Dagster beyond its public API. No file but the dagster_private*.py may name `dagster._...`.

The price of staying in step with the UI and the daemon: staleness and conditions are Dagster's own answers, but a new
version of Dagster may move what they are made of. tests/dagster/test_dagster_private.py names what is used, and says
what moved. Everything here takes and returns public types or text.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.automation_tick_evaluation_context import AutomationTickEvaluationContext
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.instance.ref import InstanceRef
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType
from dagster._core.storage.runs import SqlRunStorage
from sqlalchemy.exc import DBAPIError

from dselect_core.errors import DselectError, UnreachableError
from dselect_dagster.dagster_private_sqlite import with_kept_connections

NO_CONSOLE_LOG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run config of what runs in this process: its lines go to the event log alone."""
_EXPECTED_ERRORS = [f"{error.__module__}.{error.__name__}: " for error in (DselectError, UnreachableError, dg.Failure)]
_NO_COMPUTE_LOGS = {
    "module": "dagster._core.storage.noop_compute_log_manager",
    "class": "NoOpComputeLogManager",
    "config": {},
}


def evaluate_conditions(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    assets: Iterable[dg.AssetKey] | None = None,
) -> tuple[set[tuple[dg.AssetKey, str | None]], str]:
    """Evaluate the automation conditions as the daemon does: the asset partitions they request, and the new cursor.

    assets: those whose conditions are evaluated; None: all.
    """
    runs, new_cursor = runs_of_conditions(defs, instance, cursor, assets)
    return {(asset, run.partition_key) for run in runs for asset in run.asset_selection or []}, new_cursor


def runs_of_conditions(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    assets: Iterable[dg.AssetKey] | None = None,
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
        asset_selection=dg.AssetSelection.all() if assets is None else dg.AssetSelection.assets(*assets),
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
    # Imported where there is a sensor: with it comes the whole daemon, a tenth of a second.
    from dagster._daemon.asset_daemon import asset_daemon_cursor_to_instigator_serialized_cursor

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
    from dagster._daemon.asset_daemon import asset_daemon_cursor_from_instigator_serialized_cursor

    data = state.sensor_instigator_data
    return asset_daemon_cursor_from_instigator_serialized_cursor(None if data is None else data.cursor, None)


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
    instance = dg.DagsterInstance.from_ref(with_kept_connections(ref))
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
    of_job = _job_of(defs, job, frozenset(assets))
    return of_job.execute_in_process(instance=instance, partition_key=partition, asset_selection=assets, **options)


def _job_of(defs: dg.Definitions, name: str | None, assets: frozenset[dg.AssetKey]) -> dg.JobDefinition:
    """The job of these assets alone, made once: Dagster makes three a run, each with a snapshot of all it holds."""
    of_all = defs.resolve_implicit_global_asset_job_def()
    # With the job, so that both go together.
    kept: dict[tuple[str | None, frozenset[dg.AssetKey]], dg.JobDefinition]
    kept = vars(of_all).setdefault("_dselect_subsets", {})
    if (name, assets) not in kept:
        # A job that is defined has one set of partitions, and its runs no other.
        job = of_all if name is None else of_all._copy(name=name)
        kept[name, assets] = _WholeJob(job.as_ephemeral_job({}, {}, asset_selection=list(assets)))
    return kept[name, assets]


class _WholeJob(dg.JobDefinition):
    """A job that is run as a whole: the part of it that a run asks for is the job itself."""

    def __init__(self, job: dg.JobDefinition):
        vars(self).update(vars(job))

    def as_ephemeral_job(self, *_: Any, **__: Any) -> dg.JobDefinition:
        return self

    def get_subset(self, **_: Any) -> dg.JobDefinition:
        return self


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
