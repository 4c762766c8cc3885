"""What the tests use of Dagster beyond its public API; for dselect, see dselect_dagster/dagster_private.py."""

import dagster as dg
import pytest
from dagster._core.definitions import data_version
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.events import AssetMaterializationPlannedData
from dagster._core.execution.context import data_version_cache
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.asset_daemon import (
    asset_daemon_cursor_from_instigator_serialized_cursor,
    asset_daemon_cursor_to_instigator_serialized_cursor,
)

_JOB = "__ASSET_JOB"


def dagster_resolver(defs: dg.Definitions, instance: dg.DagsterInstance) -> CachingStaleStatusResolver:
    """Dagster's own answer on staleness, one partition at a time."""
    return CachingStaleStatusResolver(instance, defs.resolve_asset_graph(), LoadingContextForTest(instance))


def blind_from(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster compares and records data versions of fewer upstream partitions than that; on its own, fewer than 100."""
    for module in (data_version, data_version_cache):
        monkeypatch.setattr(module, "SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD", number)


def start_run(instance: dg.DagsterInstance, asset: str, partition: str) -> str:
    """Record a run as started and never do its work; the run's id."""
    run = create_run_for_test(
        instance,
        job_name=_JOB,
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset({dg.AssetKey(asset)}),
        tags={"dagster/partition": partition},
    )
    planned = AssetMaterializationPlannedData(dg.AssetKey(asset), partition=partition)
    event = dg.DagsterEvent.build_asset_materialization_planned_event(_JOB, asset, planned)
    instance.report_dagster_event(event, run.run_id)
    return run.run_id


def end_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Record a run as successful."""
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name=_JOB)
    instance.report_dagster_event(event, run_id)


class SensorState:
    """What the daemon keeps of an automation sensor, and where: the cursor, as `evaluate_conditions` takes it."""

    def __init__(self, sensor: str = "automation") -> None:
        location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("dselect"), "__repository__")
        self._origin = RemoteInstigatorOrigin(location, sensor)

    def read(self, instance: dg.DagsterInstance) -> str | None:
        """None where it was never evaluated."""
        state = instance.get_instigator_state(*self._ids())
        if state is None or state.sensor_instigator_data is None:
            return None
        cursor = state.sensor_instigator_data.cursor
        return dg.serialize_value(asset_daemon_cursor_from_instigator_serialized_cursor(cursor, None))

    def write(self, instance: dg.DagsterInstance, cursor: str) -> None:
        """As a daemon does at the end of an evaluation."""
        text = asset_daemon_cursor_to_instigator_serialized_cursor(dg.deserialize_value(cursor, AssetDaemonCursor))
        data = SensorInstigatorData(cursor=text)
        state = InstigatorState(self._origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
        if instance.get_instigator_state(*self._ids()) is None:
            instance.add_instigator_state(state)
        else:
            instance.update_instigator_state(state)

    def _ids(self) -> tuple[str, str]:
        state = InstigatorState(self._origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
        return state.instigator_origin_id, state.selector_id
