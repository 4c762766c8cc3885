"""Asset checks. Blocking ones on partitioned assets carry the partitions, or a bad source would slip through."""

import dagster as dg

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.lineage import quality_checks as checks
from dselect_core.pool.corpus_index import grades_candidates_only
from dselect_core.redact import redact_all
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.run_errors import clean, with_clean_errors


def _result(verdict: checks.Verdict, severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=clean(verdict.description),
        metadata=redact_all(verdict.facts),
    )


def asset_checks(corpus: Corpus, needed: frozenset[str]) -> list[dg.AssetChecksDefinition]:
    """The checks of the graph. needed: kinds of score that some recipe reads."""
    namespace = corpus.namespace
    raw_dataset, corpus_index, coreset = namespace.keys("raw_dataset", "corpus_index", "coreset")

    @dg.asset_check(
        asset=raw_dataset,
        blocking=True,
        partitions_def=namespace.source,
        description="rows in = samples + duplicates + quarantined",
    )
    @with_clean_errors
    def every_row_accounted_for(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _result(checks.rows_accounted_for(corpus.open(), context.partition_key), dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(
        asset=raw_dataset,
        partitions_def=namespace.source,
        description="at most 5% of the rows in quarantine, or what `checks.quarantine` says",
    )
    @with_clean_errors
    def quarantine_is_small(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _result(checks.quarantine_is_small(corpus.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=corpus_index,
        blocking=True,
        description="one provenance a kind; no score column mostly null, constant, or out of its range",
    )
    @with_clean_errors
    def scores_are_sound() -> dg.AssetCheckResult:
        return _result(checks.scores_are_sound(corpus.open(), needed), dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset=corpus_index, description="no score is distributed otherwise than over the last pool")
    @with_clean_errors
    def scores_have_not_drifted() -> dg.AssetCheckResult:
        return _result(checks.scores_have_not_drifted(corpus.open(), needed), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(asset=corpus_index, description="no source is left out of the pool")
    @with_clean_errors
    def every_source_complete() -> dg.AssetCheckResult:
        return _result(checks.every_source_complete(corpus.open()), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=corpus_index,
        description="at most 5% of the pool is held out for what eval sources hold",
    )
    @with_clean_errors
    def little_is_held_out() -> dg.AssetCheckResult:
        return _result(checks.little_is_held_out(corpus.open()), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=coreset,
        partitions_def=namespace.recipe,
        description="every source of the last coreset is in the pool, or was taken out of the settings",
    )
    @with_clean_errors
    def every_source_kept(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _result(checks.sources_kept(corpus.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=coreset,
        partitions_def=namespace.recipe,
        description="not nearly all of one source, nor with responses a tenth, or ten times, as long as the pool's",
    )
    @with_clean_errors
    def not_collapsed(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _result(checks.not_collapsed(corpus.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=coreset,
        partitions_def=namespace.recipe,
        description="few of the chosen rows are alike to another chosen one, by the cosine of their embeddings",
    )
    @with_clean_errors
    def few_chosen_are_alike(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _result(checks.few_chosen_are_alike(corpus.open(), context.partition_key), dg.AssetCheckSeverity.WARN)

    return [
        every_row_accounted_for,
        quarantine_is_small,
        scores_are_sound,
        scores_have_not_drifted,
        every_source_complete,
        little_is_held_out,
        every_source_kept,
        not_collapsed,
        few_chosen_are_alike,
    ]


def near_duplicate_checks(corpus: Corpus) -> list[dg.AssetChecksDefinition]:
    """The check of `near_duplicates`; none where the settings do not ask for that asset."""
    if corpus.settings.near_duplicates is None:
        return []
    near_duplicates = corpus.namespace.key("near_duplicates")

    @dg.asset_check(
        asset=near_duplicates,
        description="at most half of the pool is alike to samples that are kept",
    )
    @with_clean_errors
    def few_are_near_duplicates() -> dg.AssetCheckResult:
        return _result(checks.few_near_duplicates(corpus.open()), dg.AssetCheckSeverity.WARN)

    return [few_are_near_duplicates]


def candidate_grade_checks(corpus: Corpus) -> list[dg.AssetChecksDefinition]:
    """The check of `candidate_grades`; none where that asset is not in the graph."""
    if not grades_candidates_only(corpus.settings):
        return []

    @dg.asset_check(
        asset=corpus.namespace.key(CANDIDATE_GRADES),
        blocking=True,
        description="the grades that were asked for are not mostly null, constant, or out of their range",
    )
    @with_clean_errors
    def candidate_grades_are_sound() -> dg.AssetCheckResult:
        return _result(checks.candidate_grades_are_sound(corpus.open()), dg.AssetCheckSeverity.ERROR)

    return [candidate_grades_are_sound]
