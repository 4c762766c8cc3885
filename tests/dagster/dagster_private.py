"""What the tests use of Dagster beyond its public API; for dselect, see dselect_dagster/dagster_private.py."""

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.events import AssetMaterializationPlannedData
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import create_run_for_test

_JOB = "__ASSET_JOB"


def dagster_resolver(defs: dg.Definitions, instance: dg.DagsterInstance) -> CachingStaleStatusResolver:
    """Dagster's own answer on staleness, one partition at a time."""
    return CachingStaleStatusResolver(instance, defs.resolve_asset_graph(), LoadingContextForTest(instance))


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
