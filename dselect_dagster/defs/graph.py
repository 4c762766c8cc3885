"""Assemble the definitions from settings. Importing and calling this loads no model library."""

import dagster as dg

from dselect_core.pool.corpus_index import needed_kinds
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.asset_checks import asset_checks, near_duplicate_checks
from dselect_dagster.defs.assets import (
    coreset,
    d3_round,
    near_duplicates,
    pool,
    raw_dataset,
    scores,
    trial,
    warmup_model,
)
from dselect_dagster.defs.code_versions import code_versions
from dselect_dagster.defs.coreset_checks import coreset_checks
from dselect_dagster.defs.resources import WorkspaceResource
from dselect_dagster.defs.schedules import landing_schedules
from dselect_dagster.defs.sensors import automation, sources_and_recipes


def build_definitions(settings: Settings, config: str = "") -> dg.Definitions:
    """The graph for these settings. `config`: path the runs read the settings from ("" for the one in force).

    An asset that no recipe reads is in the graph, to be materialised by hand, but nothing requests it. So is `trial`
    where no recipe is tried. Of d3's rounds there are as many as some recipe has.
    """
    needed = needed_kinds(settings)
    versions = code_versions(settings)
    assets = [
        raw_dataset.raw_dataset(settings.owners),
        warmup_model.warmup_model(settings, versions["warmup_model"]),
        *scores.score_assets(settings, needed, versions),
        pool.corpus_index(settings, needed),
        pool.neighbors(settings, versions["neighbors"]),
        *near_duplicates.near_duplicates(settings, versions),
        *pool.pair_score_assets(settings, needed, versions),
        coreset.coreset_spec(settings),
        coreset.candidates(settings, needed),
        *d3_round.d3_rounds(settings, versions["d3_round"]),
        coreset.coreset(settings),
        trial.held_out(settings, versions["held_out"]),
        trial.trial(settings, versions["trial"]),
    ]
    return dg.Definitions(
        assets=assets,
        asset_checks=[*asset_checks(needed), *near_duplicate_checks(settings), *coreset_checks(settings)],
        sensors=[sources_and_recipes, automation],
        schedules=landing_schedules(settings.schedule),
        resources={"workspace": WorkspaceResource(config=config)},
        # One process a run: the steps share one loaded model, and torch is imported once.
        executor=dg.in_process_executor,
    )
