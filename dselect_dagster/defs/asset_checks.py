"""Asset checks. Blocking ones on partitioned assets carry the partitions, or a bad source would slip through."""

from collections.abc import Callable
from functools import partial

import dagster as dg

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.lineage import quality_checks as checks
from dselect_core.pool.corpus_index import grades_candidates_only
from dselect_core.redact import redact_all
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import Tool, run_policy


def _check(
    corpus: Corpus,
    asset: str,
    name: str,
    look: Callable[..., checks.Verdict],
    description: str,
    partitions: dg.PartitionsDefinition | None = None,
    *,
    blocking: bool = False,
    tool: Tool = "polars",
) -> dg.AssetChecksDefinition:
    """A check of an asset, or of each of its partitions. look: at the workspace, and at the partition where it has one.

    One that blocks fails as an error, any other as a warning. tool: what it looks with.
    """
    severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN

    @dg.asset_check(
        asset=corpus.namespace.key(asset),
        name=name,
        blocking=blocking,
        partitions_def=partitions,
        description=description,
        **run_policy(corpus, tool),
    )
    @with_clean_errors
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        place = corpus.open()
        verdict = look(place) if partitions is None else look(place, context.partition_key)
        return dg.AssetCheckResult(
            passed=verdict.passed,
            severity=severity,
            description=clean(verdict.description),
            metadata=redact_all(verdict.facts),
        )

    return check


def asset_checks(corpus: Corpus, needed: frozenset[str]) -> list[dg.AssetChecksDefinition]:
    """The checks of the graph. needed: kinds of score that some recipe reads."""
    source, recipe = corpus.namespace.source, corpus.namespace.recipe
    return [
        _check(
            corpus,
            "raw_dataset",
            "every_row_accounted_for",
            checks.rows_accounted_for,
            "rows in = samples + duplicates + quarantined",
            source,
            blocking=True,
        ),
        _check(
            corpus,
            "raw_dataset",
            "quarantine_is_small",
            checks.quarantine_is_small,
            "at most 5% of the rows in quarantine, or what `checks.quarantine` says",
            source,
        ),
        _check(
            corpus,
            "warmup_model",
            "losses_do_not_depend_on_the_batch",
            checks.losses_do_not_depend_on_the_batch,
            "no sample of a probe has another loss alone than in a batch with others",
            tool="torch",
        ),
        _check(
            corpus,
            "corpus_index",
            "scores_are_sound",
            partial(checks.scores_are_sound, kinds=needed),
            "one provenance a kind; no score column mostly null, constant, or out of its range",
            blocking=True,
        ),
        _check(
            corpus,
            "corpus_index",
            "scores_have_not_drifted",
            partial(checks.scores_have_not_drifted, kinds=needed),
            "no score is distributed otherwise than over the last pool",
        ),
        _check(
            corpus,
            "corpus_index",
            "every_source_complete",
            checks.every_source_complete,
            "no source is left out of the pool",
        ),
        _check(
            corpus,
            "corpus_index",
            "little_is_held_out",
            checks.little_is_held_out,
            "at most 5% of the pool is held out for what eval sources hold",
        ),
        _check(
            corpus,
            "coreset",
            "every_source_kept",
            checks.sources_kept,
            "every source of the last coreset is in the pool, or was taken out of the settings",
            recipe,
        ),
        _check(
            corpus,
            "coreset",
            "not_collapsed",
            checks.not_collapsed,
            "not nearly all of one source, nor with responses a tenth, or ten times, as long as the pool's",
            recipe,
        ),
        _check(
            corpus,
            "coreset",
            "few_chosen_are_alike",
            checks.few_chosen_are_alike,
            "few of the chosen rows are alike to another chosen one, by the cosine of their embeddings",
            recipe,
        ),
    ]


def near_duplicate_checks(corpus: Corpus) -> list[dg.AssetChecksDefinition]:
    """The check of `near_duplicates`; none where the settings do not ask for that asset."""
    if corpus.settings.near_duplicates is None:
        return []
    return [
        _check(
            corpus,
            "near_duplicates",
            "few_are_near_duplicates",
            checks.few_near_duplicates,
            "at most half of the pool is alike to samples that are kept",
        )
    ]


def candidate_grade_checks(corpus: Corpus) -> list[dg.AssetChecksDefinition]:
    """The check of `candidate_grades`; none where that asset is not in the graph."""
    if not grades_candidates_only(corpus.settings):
        return []
    return [
        _check(
            corpus,
            CANDIDATE_GRADES,
            "candidate_grades_are_sound",
            checks.candidate_grades_are_sound,
            "the grades that were asked for are not mostly null, constant, or out of their range",
            blocking=True,
        )
    ]
