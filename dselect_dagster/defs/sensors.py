"""What starts work in a deployment: a sensor, or two schedules, that land what changed, and the automation condition.

All start stopped, because opening the UI should not start an hour of scoring: switch them on in the UI, or run
`dselect refresh` from a schedule of your own. The sensor looks every minute, the schedules when their cron line says;
either is enough. There are two, for sources and recipes are partitioned differently, and a schedule targets one job.
Both see files by size and time or etag, and landing then looks at content: rows that were only
written again move nothing.
"""

import dagster as dg

from dselect_dagster.defs.changed_inputs import Scan, register, scan
from dselect_dagster.defs.partitions import RECIPE, SOURCE
from dselect_dagster.defs.resources import WorkspaceResource

LANDED = ("raw_dataset", "coreset_spec")


def run_requests(found: Scan, assets: tuple[str, ...]) -> list[dg.RunRequest]:
    """One run for each change of these assets, once for each sight of it."""
    return [
        dg.RunRequest(
            run_key=f"{change.asset}:{change.partition}:{change.key}",
            asset_selection=[dg.AssetKey(change.asset)],
            partition_key=change.partition,
            tags={"dselect/cause": change.state},
        )
        for change in found.changes
        if change.asset in assets
    ]


@dg.sensor(
    asset_selection=dg.AssetSelection.assets(*LANDED),
    minimum_interval_seconds=60,
    description="Lands sources and recipes that are new, changed or gone: by file size and etag or time.",
)
def sources_and_recipes(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
    found = scan(workspace.open(), context.instance)
    names = {asset: [c.partition for c in found.changes if c.asset == asset] for asset in LANDED}
    partitions: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = [
        SOURCE.build_add_request(names["raw_dataset"]),
        RECIPE.build_add_request(names["coreset_spec"]),
    ]
    if found.gone_recipes:
        partitions.append(RECIPE.build_delete_request(found.gone_recipes))
    return dg.SensorResult(run_requests=run_requests(found, LANDED), dynamic_partitions_requests=partitions)


def regular_refreshes(cron: str) -> list[dg.ScheduleDefinition]:
    """`refresh_sources` and `refresh_recipes`: for those who refresh at night, not whenever a file appears."""
    return [_schedule("refresh_sources", "raw_dataset", cron), _schedule("refresh_recipes", "coreset_spec", cron)]


def _schedule(name: str, asset: str, cron: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        cron_schedule=cron,
        target=dg.AssetSelection.assets(asset),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Lands what changed, at the time `schedule` in dselect.yaml says; `automation` makes what follows.",
    )
    def land_changes(
        context: dg.ScheduleEvaluationContext, workspace: WorkspaceResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        found = scan(workspace.open(), context.instance)
        register(found, context.instance)
        return run_requests(found, (asset,)) or dg.SkipReason("nothing changed")

    return land_changes


automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    # Plain runs: a backfill is one more thing that can be left half done.
    emit_backfills=False,
)
