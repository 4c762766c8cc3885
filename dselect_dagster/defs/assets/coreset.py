"""Recipes and what they choose: `coreset_spec`, `candidates` and `coreset`, one partition a recipe.

A budget in run config would be invisible to lineage; as an asset of its own, editing one budget moves one
partition. `candidates` stands between the whole pool and a coreset for the same reason: its data version moves only
with the scores that this recipe reads, so another rubric makes no coreset again that reads no grades.
"""

from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl
import polars.selectors as cs

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.coreset.coreset import Coreset, make_coreset
from dselect_core.coreset.coreset import candidates as recipe_candidates
from dselect_core.coreset.diff import by_cause, by_change
from dselect_core.coreset.manifest import REVISION
from dselect_core.coreset.published import read_version
from dselect_core.coreset.spec import write_spec
from dselect_core.corpus.sample import message_text
from dselect_core.kinds import all_kinds, assets_making
from dselect_core.pool.corpus_index import grades_candidates_only
from dselect_core.reports.write_reports import write_coreset_report
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.standing import standing
from dselect_dagster.defs.asset_metadata import KEYS, column_schema, link, markdown_table, path
from dselect_dagster.defs.assets.d3_round import round_assets
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.known_partitions import known_recipe
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import run_policy


def coreset_spec(corpus: Corpus) -> dg.AssetsDefinition:
    """The asset that records a recipe."""

    @dg.asset(
        key=corpus.namespace.key("coreset_spec"),
        partitions_def=corpus.namespace.recipe,
        group_name=corpus.namespace.prefixed("selection"),
        kinds={"yaml"},
        owners=corpus.settings.owners,
        code_version="1",
        **run_policy(corpus),
        description="A recipe of dselect.yaml: strategy, budget, seed. Requested by `dselect refresh` or the sensor.",
    )
    @with_clean_errors
    def coreset_spec(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        place = corpus.open()
        spec, version = write_spec(place, known_recipe(corpus, place, context))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version),
            metadata={"strategy": spec.strategy, "budget": str(spec.budget), "seed": spec.seed},
        )

    return coreset_spec


def candidates(corpus: Corpus, needed: frozenset[str]) -> dg.AssetsDefinition:
    """The asset that says what a recipe chooses from. needed: kinds of score that some recipe reads."""

    # What is made over the pool is not seen through the corpus index.
    over_pool = assets_making(needed, by_source=False)
    # That samples are alike is no score of a recipe: with the setting it is an input of every one, without it of none.
    near_duplicates = [] if corpus.settings.near_duplicates is None else ["near_duplicates"]
    candidate_grades = [CANDIDATE_GRADES] if grades_candidates_only(corpus.settings) else []

    @dg.asset(
        key=corpus.namespace.key("candidates"),
        deps=corpus.namespace.keys("corpus_index", "coreset_spec", *over_pool, *near_duplicates, *candidate_grades),
        partitions_def=corpus.namespace.recipe,
        group_name=corpus.namespace.prefixed("selection"),
        kinds={"json"},
        owners=corpus.settings.owners,
        code_version="-".join([str(REVISION), *near_duplicates, *candidate_grades]),
        **run_policy(corpus),
        automation_condition=on_input_change(corpus.namespace, waits_for=candidate_grades),
        description="What a recipe chooses from: the pool's samples, and the versions of exactly the scores it reads.",
    )
    @with_clean_errors
    def candidates(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        place = corpus.open()
        of_recipe = recipe_candidates(place, known_recipe(corpus, place, context))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(of_recipe.version),
            metadata={"dagster/partition_row_count": of_recipe.rows, "reads": dg.MetadataValue.json(of_recipe.scores)},
        )

    return candidates


def coreset(corpus: Corpus) -> dg.AssetsDefinition:
    """The asset that chooses, or that takes what the recipe's rounds chose."""
    rounds = round_assets(corpus.settings)
    # A recipe without rounds has no partition among them, and reads none.
    of_rounds = [
        dg.AssetDep(key, partition_mapping=dg.IdentityPartitionMapping()) for key in corpus.namespace.keys(*rounds)
    ]

    @dg.asset(
        key=corpus.namespace.key("coreset"),
        deps=[*corpus.namespace.keys("candidates", "coreset_spec"), *of_rounds],
        partitions_def=corpus.namespace.recipe,
        group_name=corpus.namespace.prefixed("selection"),
        kinds={"parquet", "json", "huggingface"},
        owners=corpus.settings.owners,
        code_version=str(REVISION),
        **run_policy(corpus),
        automation_condition=on_input_change(corpus.namespace, waits_for=["candidates", *rounds]),
        freshness_policy=_freshness(corpus),
        description=_description(corpus.settings.reports_url),
    )
    @with_clean_errors
    def coreset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        place = corpus.open()
        recipe = known_recipe(corpus, place, context)
        progress = RunProgress(context, f"coreset {recipe}")
        new_coreset = make_coreset(place, recipe, progress)
        page = write_coreset_report(place, recipe, new_coreset)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(new_coreset.version),
            metadata={
                "chosen": _sentence(new_coreset),
                "against random": _against_random(place, recipe),
                "report": link(page),
                "dagster/partition_row_count": new_coreset.selection.rows,
                **new_coreset.counts,
                "seconds": round(progress.seconds, 2),
                "path": path(place.coreset(recipe)),
                "dagster/uri": clean(str(read_version(place.coreset(recipe), lambda made: made.files_folder))),
                "dagster/column_schema": column_schema(new_coreset.selection.order.schema, column_descriptions()),
                **_difference(new_coreset),
                "rows computed": new_coreset.selection.rows - new_coreset.selection.reused,
                "rows reused": new_coreset.selection.reused,
                **{f"search: {name}": value for name, value in new_coreset.selection.facts.items()},
                **_composition(new_coreset),
                "first ten": markdown_table(_first(new_coreset)),
            },
        )

    return coreset


def _freshness(corpus: Corpus) -> dg.FreshnessPolicy | None:
    spec = corpus.settings.freshness
    return None if spec is None else dg.FreshnessPolicy.time_window(spec.fail_window, spec.warn_window)


def column_descriptions() -> dict[str, str]:
    """What the columns of an order hold: its own, and those of every kind of score."""
    of_kinds = [column for kind in all_kinds().values() for column in kind.table_columns]
    # A grader's `prompt_tokens` is in no order; the sample's own length is, and has the same name.
    of_kinds.sort(key=lambda column: column.of_text)
    return {column.name: column.described() for column in of_kinds} | {
        **KEYS,
        "rank": "place in the coreset, from 1",
        "gain": "what the pick added, as the strategy counts it",
        "pass": "coverage pass in which it was picked",
        "round": "round in which it was chosen; 0: a warm-up row",
        "target": "the target example that took it; null in a share that stays general",
        "sources": "sources that hold the sample",
    }


def _description(reports_url: str | None) -> str:
    pages = "`dselect report --open`"
    if reports_url is not None and reports_url.startswith(("http://", "https://")):
        pages = f"[The pages of all coresets]({quote(clean(reports_url), safe=':/?#[]@&=%')})"
    return f"""\
The chosen samples of each recipe in order, with gains and scores, as files a trainer loads: JSONL of messages, Parquet,
Alpaca JSON, a `datasets` folder, and a manifest of all that made them.

- **What was chosen, and does it beat random?** {pages}, or *Partitions*: `chosen`, `against random`, `report`.
- **After an edit of a recipe** in dselect.yaml: *Lineage*, *Upstream*, *Materialize all*, that recipe. Then `trial`.
- **After anything else**: `dselect refresh`, or switch the sensors on under *Automation*. Only what changed is made.
"""


def _against_random(place: Workspace, recipe: str) -> str:
    """What is known as the coreset is made; its trial, which comes after it, says it anew."""
    tried, is_tried = standing(place, recipe), place.settings.coresets[recipe].trial
    if tried.report is not None and tried.holds:
        return tried.report.against_random.in_short
    return "its trial, which follows, will say" if is_tried else "not tried: `trial: true` in its recipe does"


def _sentence(new_coreset: Coreset) -> str:
    spec, selection = new_coreset.spec, new_coreset.selection
    return f"{selection.rows:,} of {selection.pool_size:,} rows by {spec.strategy}, budget {spec.budget}"


def _difference(new_coreset: Coreset) -> dict[str, Any]:
    """Who came in, left and stayed since it was made last; and why, of the last time that its version moved."""
    shown: dict[str, Any] = {} if new_coreset.changes is None else by_change(new_coreset.changes)
    if new_coreset.last_moved is None:
        return shown
    moved = new_coreset.last_moved.filter(pl.col("cause").is_not_null())
    if moved.height:
        when = "" if new_coreset.last_moved is new_coreset.changes else ", when it changed last"
        shown |= {f"why{when}": markdown_table(by_cause(moved)), f"who{when}": markdown_table(moved.head(20))}
    return shown


def _composition(new_coreset: Coreset) -> dict[str, Any]:
    """Chosen against pool, by source and by length; and a warning where the strategy collapsed."""
    found = new_coreset.selection.composition
    shown: dict[str, Any] = {}
    if found.collapsed:
        shown["collapsed"] = clean("; ".join(found.collapsed))
    if found.by_source is not None:
        shown["chosen by source"] = markdown_table(found.by_source.with_columns(cs.float().round(4)))
    if new_coreset.selection.mixture is not None:
        shown["rows of each group"] = markdown_table(new_coreset.selection.mixture)
    if found.lengths is not None:
        shown["response tokens"] = markdown_table(found.lengths)
        shown["median response tokens"] = found.lengths["median"][1] or 0.0
    return shown


def _response(messages: pl.Series) -> str:
    return message_text(messages.to_list()[-1])


def _first(new_coreset: Coreset) -> pl.DataFrame:
    turns = pl.col("messages").list
    return (
        new_coreset.selection.order.head(10)
        .join(new_coreset.samples, on="sample_id", how="left", maintain_order="left")
        .select(
            "rank",
            "gain",
            *(["target"] if "target" in new_coreset.selection.order.columns else []),
            prompt=turns.get(-2).struct.field("content").str.slice(0, 160),
            response=pl.col("messages").map_elements(_response, return_dtype=pl.String).str.slice(0, 160),
        )
    )
