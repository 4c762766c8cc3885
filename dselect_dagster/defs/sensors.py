"""The sensors of a deployment: one lands what changed and restores what is lost, one evaluates the conditions of what
follows, one collects batches of grades.

All start stopped, because opening the UI should not start an hour of scoring: switch them on in the UI, say
`automation: running` in the component, or run `dselect refresh` from a schedule of your own. Instead of the landing
sensor, the schedules in schedules.py can be switched on: the sensor looks every minute, they look when their cron line
says.
"""

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from dselect_core.fingerprint import fingerprint
from dselect_core.graders.open_batches import open_batches
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.changed_inputs import (
    LANDED_ASSETS,
    find_changed_inputs,
    find_lost_publications,
    landing_runs,
    partition_requests,
    restoring_runs,
)
from dselect_dagster.defs.coreset_checks import check_runs, due_checks
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.run_errors import with_clean_errors
from dselect_dagster.defs.run_tags import CAUSE, SOURCE


def sources_and_recipes(
    corpus: Corpus, own: dg.AssetSelection, moved: Callable[[Settings], str | None]
) -> dg.SensorDefinition:
    """The sensor that lands.

    own: all assets of the corpus. moved: what the UI is told where these settings make other definitions than those
    that are loaded.
    """

    @dg.sensor(
        name=corpus.namespace.prefixed("sources_and_recipes"),
        asset_selection=own,
        minimum_interval_seconds=60,
        default_status=_status(corpus),
        description=(
            "Lands sources and recipes that are new, changed or gone: by file size and etag or time. Makes again what "
            "was made and is not in the storage any more."
        ),
    )
    @with_clean_errors
    def sources_and_recipes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Request a run for each change, with a partition where it is new, and for what is lost.

        Checks that a change of the settings alone decides anew, as an edited `require` does, are evaluated. What waits
        for a reload of the definitions is told, as the reason of a tick that asks for nothing, else in its log.
        """
        place, namespace = corpus.open(), corpus.namespace
        changed_inputs = find_changed_inputs(place, context.instance, namespace)
        # Every minute is too often to ask the hub.
        published = find_lost_publications(place, context.instance, namespace, of_hub=False)
        runs = [
            *landing_runs(changed_inputs, LANDED_ASSETS),
            *restoring_runs(changed_inputs, context.instance, published),
            *check_runs(due_checks(place, context.instance, namespace)),
        ]
        if (waits := moved(place.settings)) is not None:
            context.log.warning(waits)
        return dg.SensorResult(
            run_requests=runs,
            skip_reason=None if runs else waits,
            dynamic_partitions_requests=partition_requests(changed_inputs),
        )

    return sources_and_recipes


def automation(corpus: Corpus, own: dg.AssetSelection) -> dg.AutomationConditionSensorDefinition:
    """The sensor that makes what follows. own: all assets of the corpus, so that a team's own keep their sensor."""
    return dg.AutomationConditionSensorDefinition(
        corpus.namespace.prefixed("automation"),
        target=own,
        minimum_interval_seconds=30,
        default_status=_status(corpus),
        # Plain runs: a backfill is one more thing that can be left half done.
        emit_backfills=False,
    )


def grading_batches(corpus: Corpus) -> dg.SensorDefinition:
    """The sensor that has the grades of ended batches collected."""
    grades = corpus.namespace.key("dependability_grades")

    @dg.sensor(
        name=corpus.namespace.prefixed("grading_batches"),
        asset_selection=dg.AssetSelection.assets(grades),
        minimum_interval_seconds=120,
        default_status=_status(corpus),
        description=(
            "With `grader: {mode: batch}`: asks the endpoint how far the open batches are, and collects the grades of "
            "those that have ended. Without an open batch it asks nobody."
        ),
    )
    @with_clean_errors
    def grading_batches(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Request a run of each source of which a batch has ended, and again each hour until that is collected."""
        place = corpus.open()
        partitions = set(context.instance.get_dynamic_partitions(str(corpus.namespace.source.name)))
        open_now = open_batches(place)
        ended: dict[str, list[str]] = defaultdict(list)
        for each in open_now:
            if each.has_ended and each.batch.source in partitions:
                ended[each.batch.source].append(each.batch.key)
        if not ended:
            return dg.SkipReason("; ".join(f"{each.batch.name}: {each.state}" for each in open_now) or "no open batch")
        hour = f"{datetime.now(UTC):%Y-%m-%dT%H}"
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=f"batches:{source}:{fingerprint(keys)}:{hour}",
                    asset_selection=[grades],
                    partition_key=source,
                    tags={CAUSE: "batch ended", SOURCE: source},
                )
                for source, keys in ended.items()
            ]
        )

    return grading_batches


def _status(corpus: Corpus) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if corpus.automation else dg.DefaultSensorStatus.STOPPED
