"""Near-duplicates of the pool: `near_duplicates`, in the graph only where the settings ask for it.

It stands between the pool and all recipes, for what is alike to a kept sample is chosen by none of them.
"""

from typing import Any

import dagster as dg
import polars as pl

from dselect_core.neighbors.update_near_duplicates import Report
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.near_duplicates import SCHEMA
from dselect_dagster.defs.asset_metadata import column_schema, markdown_table
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.histogram import histogram
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import with_clean_errors
from dselect_dagster.defs.run_policy import run_policy

_COLUMNS = {
    "sample_id": "a sample that is not chosen",
    "keeper_id": "the sample that is kept for it",
    "by": "what is alike: cosine of the prompts, or the text of whole samples",
    "similarity": "how alike they are, 1 for equal",
    "group_size": "samples of the group, the kept one among them",
    "reason": "what `dselect why` says",
}


def near_duplicates(corpus: Corpus, code_versions: dict[str, str]) -> list[dg.AssetsDefinition]:
    """The asset that finds near-duplicates; none where the settings do not ask for it."""
    if corpus.settings.near_duplicates is None:
        return []

    @dg.asset(
        key=corpus.namespace.key("near_duplicates"),
        # Grades and difficulties, by which the kept one is elected, are seen through the index.
        deps=corpus.namespace.keys("corpus_index", "neighbors"),
        group_name=corpus.namespace.prefixed("pool"),
        kinds={"numpy", "parquet"},
        owners=corpus.settings.owners,
        code_version=code_versions["near_duplicates"],
        **run_policy(corpus),
        automation_condition=on_input_change(corpus.namespace),
        metadata={"dagster/column_schema": column_schema(SCHEMA, _COLUMNS)},
        description=(
            "The samples that no recipe chooses, because a sample that is kept is alike to them, and which one it is. "
            "No two kept samples are alike. The data version moves with the samples and the reasons."
        ),
    )
    @with_clean_errors
    def near_duplicates(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.neighbors.update_near_duplicates import update_near_duplicates

        place = corpus.open()
        progress = RunProgress(context, "near-duplicates")
        report = update_near_duplicates(place, read_index(place), progress)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(report.found.version or "none"),
            metadata={**_shown(report), "seconds": round(progress.seconds, 2)},
        )

    return [near_duplicates]


def _shown(report: Report) -> dict[str, Any]:
    """Counts, groups by size, and examples with their prompts."""
    table = report.found.table
    shown: dict[str, Any] = {
        "dagster/row_count": table.height,
        "groups": report.found.groups,
        "share of the pool": table.height / max(1, report.rows),
    }
    if table.height:
        sizes = table.unique("keeper_id")["group_size"].value_counts().sort("group_size")
        shown |= {
            "groups by size": markdown_table(sizes.select(pl.col("group_size"), groups="count")),
            "examples": markdown_table(report.examples),
            "distribution of similarity": histogram(table["similarity"], "similarity to the kept sample"),
        }
    return shown
