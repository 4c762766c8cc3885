"""Asset checks. Blocking ones on partitioned assets carry the partitions, or a bad source would slip through."""

import dagster as dg

from dselect_core.lineage import quality_checks as checks
from dselect_core.redact import redact_all
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.partitions import RECIPE, SOURCE
from dselect_dagster.defs.resources import WorkspaceResource
from dselect_dagster.defs.run_errors import clean, with_clean_errors


def _result(verdict: checks.Verdict, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=clean(verdict.description),
        metadata=redact_all(verdict.facts),
    )


def asset_checks(needed: frozenset[str]) -> list[dg.AssetChecksDefinition]:
    """The checks of the graph. needed: kinds of score that some recipe reads."""

    @dg.asset_check(
        asset="raw_dataset",
        blocking=True,
        partitions_def=SOURCE,
        description="rows in = samples + duplicates + quarantined",
    )
    @with_clean_errors
    def every_row_accounted_for(
        context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource
    ) -> dg.AssetCheckResult:
        return _result(checks.rows_accounted_for(workspace.open(), context.partition_key), dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset="raw_dataset", partitions_def=SOURCE, description="at most 5% of the rows in quarantine")
    @with_clean_errors
    def quarantine_is_small(
        context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource
    ) -> dg.AssetCheckResult:
        return _result(checks.quarantine_is_small(workspace.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset="corpus_index",
        blocking=True,
        description="one provenance a kind; no score column mostly null, constant, or out of its range",
    )
    @with_clean_errors
    def scores_are_sound(workspace: WorkspaceResource) -> dg.AssetCheckResult:
        return _result(checks.scores_are_sound(workspace.open(), needed), dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset="corpus_index", description="no source is left out of the pool")
    @with_clean_errors
    def every_source_complete(workspace: WorkspaceResource) -> dg.AssetCheckResult:
        return _result(checks.every_source_complete(workspace.open()), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(asset="corpus_index", description="at most 5% of the pool is held out for what eval sources hold")
    @with_clean_errors
    def little_is_held_out(workspace: WorkspaceResource) -> dg.AssetCheckResult:
        return _result(checks.little_is_held_out(workspace.open()), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset="coreset",
        partitions_def=RECIPE,
        description="every source of the last coreset is in the pool, or was taken out of the settings",
    )
    @with_clean_errors
    def every_source_kept(context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource) -> dg.AssetCheckResult:
        return _result(checks.sources_kept(workspace.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset="coreset",
        partitions_def=RECIPE,
        description="not nearly all of one source, nor with responses a tenth, or ten times, as long as the pool's",
    )
    @with_clean_errors
    def not_collapsed(context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource) -> dg.AssetCheckResult:
        return _result(checks.not_collapsed(workspace.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    return [
        every_row_accounted_for,
        quarantine_is_small,
        scores_are_sound,
        every_source_complete,
        little_is_held_out,
        every_source_kept,
        not_collapsed,
    ]


def near_duplicate_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """The check of `near_duplicates`; none where the settings do not ask for that asset."""
    if settings.near_duplicates is None:
        return []

    @dg.asset_check(asset="near_duplicates", description="at most half of the pool is alike to samples that are kept")
    @with_clean_errors
    def few_are_near_duplicates(workspace: WorkspaceResource) -> dg.AssetCheckResult:
        return _result(checks.few_near_duplicates(workspace.open()), dg.AssetCheckSeverity.WARN)

    return [few_are_near_duplicates]
