"""The last step: `publication`, one partition a recipe whose coreset is published. Only there with `publish:`.

A coreset that its recipe holds back (`requirements_met`) is not even tried to publish. What `publish.require` names
beside that is looked at in the run, which fails with a sentence, and the version that stands outside stays.
"""

import dagster as dg

from dselect_core.fingerprint import fingerprint
from dselect_core.lineage.plan_publication import PUBLICATION
from dselect_core.publish.publish_coreset import publish_coreset
from dselect_core.publish.release import REVISION, terms_of
from dselect_core.settings.publish_spec import BEATS_RANDOM
from dselect_dagster.defs.asset_metadata import path
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.known_partitions import known_recipe
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import run_policy


def publication(corpus: Corpus) -> list[dg.AssetsDefinition]:
    """The asset that publishes; none where the settings do not ask for it."""
    publish = corpus.settings.publish
    if publish is None:
        return []
    # A verdict has to be there before it can be required, so the trial is an input then.
    trial = ["trial"] if BEATS_RANDOM in publish.require else []
    of_recipe = [
        dg.AssetDep(key, partition_mapping=dg.IdentityPartitionMapping())
        for key in corpus.namespace.keys("coreset", *trial)
    ]

    @dg.asset(
        key=corpus.namespace.key(PUBLICATION),
        deps=of_recipe,
        partitions_def=corpus.namespace.publication,
        group_name=corpus.namespace.prefixed("publish"),
        kinds={"huggingface"} if publish.hub_dataset else {"s3"} if publish.to.startswith("s3://") else {"file"},
        owners=corpus.settings.owners,
        code_version=fingerprint([REVISION, publish.to, terms_of(publish)])[:12],
        **run_policy(corpus, writes_to=publish.to),
        automation_condition=on_input_change(corpus.namespace, waits_for=["coreset", *trial]),
        description=(
            "The coreset, published where `publish.to` says: an immutable version with card and manifest, then the "
            "pointer `latest.json`. The same rows under the same terms are one version. Refused, with the reason, "
            "where a check that `publish.require` names failed or is missing."
        ),
    )
    @with_clean_errors
    def publication(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        place = corpus.open()
        recipe = known_recipe(corpus, place, context, corpus.namespace.publication)
        progress = RunProgress(context, f"publication {recipe}")
        published = publish_coreset(place, recipe)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(published.release.version),
            metadata={
                "dagster/partition_row_count": published.rows,
                "dagster/uri": clean(published.place),
                "path": path(published.place),
                "version": published.release.version,
                "new version": published.is_new,
                "versions removed": len(published.gone),
                "required": ", ".join(place.settings.publish.require) if place.settings.publish else "",
                "seconds": round(progress.seconds, 2),
            },
        )

    return [publication]
