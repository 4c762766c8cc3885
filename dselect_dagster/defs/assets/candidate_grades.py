"""Grades of the rows that can still be chosen: `candidate_grades`, in the graph only with `grader: {candidates: only}`.

It stands between the pool with its other scores and all recipes: which rows can still be chosen follows from both.
"""

from typing import Any

import dagster as dg

from dselect_core.coreset.candidate_grades import ASSET, CandidateGrades, other_kinds, reading_grades
from dselect_core.kinds import assets_making, kind_of
from dselect_core.pool.corpus_index import grades_candidates_only
from dselect_core.select.judges_spec import GRADES
from dselect_dagster.defs.asset_metadata import columns_of_kinds, tables_metadata
from dselect_dagster.defs.assets.scores import tool_of
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import run_policy
from dselect_dagster.defs.run_tags import REFRESH


def candidate_grades(corpus: Corpus, code_versions: dict[str, str]) -> list[dg.AssetsDefinition]:
    """The asset that grades what can still be chosen; none where every row is graded, or no recipe reads grades."""
    settings = corpus.settings
    if not grades_candidates_only(settings):
        return []
    kind = kind_of(GRADES)
    read_with_grades = other_kinds(reading_grades(settings.coresets).values())
    over_pool = assets_making(read_with_grades, by_source=False)
    near_duplicates = [] if settings.near_duplicates is None else ["near_duplicates"]

    @dg.asset(
        key=corpus.namespace.key(ASSET),
        deps=corpus.namespace.keys("corpus_index", "coreset_spec", *over_pool, *near_duplicates),
        group_name=corpus.namespace.prefixed("selection"),
        kinds={tool_of(settings, [kind]), "parquet"},
        owners=settings.owners,
        code_version="-".join([code_versions[kind.asset], *near_duplicates]),
        automation_condition=on_input_change(corpus.namespace, allow_missing_recipes=True),
        description=(
            f"{kind.described(settings)} Only of rows that can still be chosen by some recipe: a grade is at most 1, "
            "so the others could not be chosen whatever it was, and the coresets are those of all grades."
        ),
        metadata={"dagster/column_schema": columns_of_kinds([kind])},
        **run_policy(corpus, tool_of(settings, [kind])),
    )
    @with_clean_errors
    def candidate_grades(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.coreset.candidate_grades import update_candidate_grades
        from dselect_core.graders.spend import Purpose

        progress = RunProgress(context, "grades of candidates")
        purpose = Purpose(context.run.tags.get(REFRESH, context.run_id))
        place = corpus.open()
        made = update_candidate_grades(place, progress, purpose)
        for recipe, why in made.refused.items():
            context.log.warning(clean(f"{recipe}: {why}"))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.table.version),
            metadata={
                **tables_metadata(context, {GRADES: made.table}, progress.seconds),
                **_shown(made),
                "dagster/uri": clean(str(place.pool_table(GRADES))),
            },
        )

    return [candidate_grades]


def _shown(made: CandidateGrades) -> dict[str, Any]:
    """How many rows were asked for, and how many were not."""
    rows = made.table.frame.height
    return {
        "rows reused": made.table.reused,
        "nulls": made.failed,
        "rows graded": made.asked - made.failed,
        "rows not graded": made.not_bought,
        "share not graded": made.not_bought / max(1, rows),
        "rounds": made.rounds,
    }
