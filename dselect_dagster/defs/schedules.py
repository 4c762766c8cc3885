"""The two schedules of a deployment: they land what changed at a fixed time, instead of whenever a file appears.

There are two because a schedule targets one job, and sources and recipes are partitioned differently. Both start
stopped, as the sensors do; the sensor `automation` makes what follows.
"""

import dagster as dg

from dselect_dagster.defs.changed_inputs import find_changed_inputs, landing_runs, register_partitions
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.run_errors import with_clean_errors


def landing_schedules(corpus: Corpus) -> list[dg.ScheduleDefinition]:
    """`refresh_sources` and `refresh_recipes`; `schedule` of the settings says when both look for changes."""
    return [
        _landing_schedule(corpus, "refresh_sources", "raw_dataset"),
        _landing_schedule(corpus, "refresh_recipes", "coreset_spec"),
    ]


def _landing_schedule(corpus: Corpus, name: str, asset: str) -> dg.ScheduleDefinition:
    namespace = corpus.namespace

    @dg.schedule(
        name=namespace.prefixed(name),
        cron_schedule=corpus.settings.schedule,
        target=dg.AssetSelection.assets(namespace.key(asset)),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Lands what changed, at the time `schedule` in dselect.yaml says; `automation` makes what follows.",
    )
    @with_clean_errors
    def land_changes(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        changed_inputs = find_changed_inputs(corpus.open(), context.instance, namespace)
        register_partitions(changed_inputs, context.instance)
        return landing_runs(changed_inputs, (asset,)) or dg.SkipReason("nothing changed")

    return land_changes
