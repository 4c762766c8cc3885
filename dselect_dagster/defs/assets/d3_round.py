"""D3's rounds with feedback: `d3_round_1`, `d3_round_2`, …, as many as the recipe with most rounds has.

An asset a round, partitioned by the recipes that have that round: each waits for the one before it, and shows what its
model was tuned on, what its scores are, who came in and why. Without such a recipe there is none.
"""

from typing import Any

import dagster as dg
import polars as pl

from dselect_core.coreset.coreset import rounds_of
from dselect_core.rounds.round_record import WARM_UP, asset_of_round
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.asset_metadata import curve, markdown_table, path
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.histogram import histogram
from dselect_dagster.defs.known_partitions import known_recipe
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import with_clean_errors
from dselect_dagster.defs.run_policy import run_policy


def round_assets(settings: Settings) -> list[str]:
    """Names of the rounds that some recipe has."""
    counts = [spec.round_count for spec in settings.coresets.values() if spec.has_rounds]
    return [asset_of_round(number + 1) for number in range(max(counts, default=0))]


def d3_rounds(corpus: Corpus, code_version: str) -> list[dg.AssetsDefinition]:
    """The assets of the rounds."""
    return [_d3_round(corpus, number + 1, code_version) for number in range(len(round_assets(corpus.settings)))]


def _d3_round(corpus: Corpus, number: int, code_version: str) -> dg.AssetsDefinition:
    earlier = [asset_of_round(n) for n in range(1, number)]
    of_recipe = corpus.namespace.keys("candidates", "coreset_spec", *earlier)

    @dg.asset(
        key=corpus.namespace.key(asset_of_round(number)),
        deps=[
            *(dg.AssetDep(key, partition_mapping=dg.IdentityPartitionMapping()) for key in of_recipe),
            corpus.namespace.key("warmup_model"),
        ],
        partitions_def=corpus.namespace.rounds[number - 1],
        group_name=corpus.namespace.prefixed("selection"),
        kinds={"torch", "parquet"},
        owners=corpus.settings.owners,
        code_version=code_version,
        **run_policy(corpus, "torch"),
        automation_condition=on_input_change(corpus.namespace, waits_for=["candidates", *earlier]),
        description=(
            f"Round {number} of the recipes with so many rounds of d3. The model is tuned on "
            f"{'the warm-up rows, where there are some,' if number == 1 else 'all rows that were chosen before'} and "
            "scores the pool; a share of the budget is chosen, far from what stands. What was tuned or scored once is "
            "not tuned or scored again."
        ),
    )
    @with_clean_errors
    def d3_round(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from dselect_core.rounds.make_round import make_round

        place = corpus.open()
        recipe = known_recipe(corpus, place, context, corpus.namespace.rounds[number - 1])
        progress = RunProgress(context, f"round {number} of {recipe}")
        made = make_round(rounds_of(place, recipe), number, progress)
        record, facts = made.record, made.record.facts
        shown: dict[str, Any] = {
            "dagster/partition_row_count": record.came_in.height,
            "chosen so far": record.chosen.height,
            "rows computed": made.rows_computed,
            "rows reused": made.rows_reused,
            "models tuned": int(made.tuned),
            "tokens": made.tuned_tokens + made.scored_tokens,
            "tokens tuned": made.tuned_tokens,
            "seconds": round(progress.seconds, 2),
            "model": facts["model"],
            "tuned on": "nothing: the target model" if facts["tuned_on"] is None else facts["tuned_on"],
            "rows tuned on": facts["tuned_on_rows"],
            "share of the budget": facts["share"],
            "tuning": dg.MetadataValue.json(facts["tuning"]),
            "scores": dg.MetadataValue.json(facts["scores"]),
            "path": path(place.round_record(recipe, number)),
            "who came in": markdown_table(_shown(record.came_in).head(20)),
            "nearest to come in": markdown_table(_nearest(record.table)),
        }
        came_in = record.came_in.filter(pl.col("round") != WARM_UP)
        if came_in["gain"].drop_nulls().len():
            shown["gain by rank"] = curve(came_in["gain"], "gain by rank", "rank")
        for column in ("upd", "grade"):
            if came_in[column].drop_nulls().len() and record.table[column].drop_nulls().len():
                shown[f"{column}, chosen and pool"] = histogram(record.table[column], column, came_in[column])
        return dg.MaterializeResult(data_version=dg.DataVersion(record.version), metadata=shown)

    return d3_round


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("rank", "sample_id", "round", "gain", "upd", "grade", "sources")


def _nearest(table: pl.DataFrame) -> pl.DataFrame:
    """The rows that came nearest to being chosen."""
    left = table.filter(pl.col("round").is_null()).drop_nulls("standing")
    left = left.sort("standing", "sample_id", descending=[True, False]).head(10)
    return left.select("sample_id", "standing", "is_bound", "upd", "grade", "sources")
