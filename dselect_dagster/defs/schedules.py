"""The two schedules of a deployment: they land what changed at a fixed time, instead of whenever a file appears.

There are two because a schedule targets one job, and sources and recipes are partitioned differently. Both start
stopped, as the sensors do; the sensor `automation` makes what follows.
"""

import dagster as dg

from dselect_dagster.defs.changed_inputs import find_changed_inputs, landing_runs, register_partitions
from dselect_dagster.defs.resources import WorkspaceResource
from dselect_dagster.defs.run_errors import with_clean_errors


def landing_schedules(cron: str) -> list[dg.ScheduleDefinition]:
    """`refresh_sources` and `refresh_recipes`. cron: when both look for changes."""
    return [
        _landing_schedule("refresh_sources", "raw_dataset", cron),
        _landing_schedule("refresh_recipes", "coreset_spec", cron),
    ]


def _landing_schedule(name: str, asset: str, cron: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        cron_schedule=cron,
        target=dg.AssetSelection.assets(asset),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Lands what changed, at the time `schedule` in dselect.yaml says; `automation` makes what follows.",
    )
    @with_clean_errors
    def land_changes(
        context: dg.ScheduleEvaluationContext, workspace: WorkspaceResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        changed_inputs = find_changed_inputs(workspace.open(), context.instance)
        register_partitions(changed_inputs, context.instance)
        return landing_runs(changed_inputs, (asset,)) or dg.SkipReason("nothing changed")

    return land_changes
