"""Sensors: one sees sources and recipes change, one evaluates the automation condition. Both start stopped.

Stopped, because opening the UI should not start an hour of scoring; switch them on in the UI, or run
`dselect refresh` from a schedule of your own.
"""

import dagster as dg

from dselect_dagster.partitions import RECIPE, SOURCE
from dselect_dagster.resources import WorkspaceResource
from dselect_dagster.scan import scan


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("raw_dataset", "coreset_spec"),
    minimum_interval_seconds=60,
    description="Lands sources and recipes that are new, changed or gone: by file size and etag or time.",
)
def sources_and_recipes(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
    found = scan(workspace.open(), context.instance)
    requests = [
        dg.RunRequest(
            run_key=f"{change.asset}:{change.partition}:{change.key}",
            asset_selection=[dg.AssetKey(change.asset)],
            partition_key=change.partition,
            tags={"dselect/cause": change.state},
        )
        for change in found.changes
    ]
    names = {
        asset: [c.partition for c in found.changes if c.asset == asset] for asset in ("raw_dataset", "coreset_spec")
    }
    partitions: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = [
        SOURCE.build_add_request(names["raw_dataset"]),
        RECIPE.build_add_request(names["coreset_spec"]),
    ]
    if found.gone_recipes:
        partitions.append(RECIPE.build_delete_request(found.gone_recipes))
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=partitions)


automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    # Plain runs: a backfill is one more thing that can be left half done.
    emit_backfills=False,
)
