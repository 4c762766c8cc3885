"""Assemble the definitions from settings. Importing and calling this loads no model library."""

from dataclasses import replace

import dagster as dg

from dselect_core.pool.corpus_index import kinds_of_sources, needed_kinds
from dselect_core.settings.settings import Settings
from dselect_dagster.defs.asset_checks import asset_checks, candidate_grade_checks, near_duplicate_checks
from dselect_dagster.defs.assets import (
    candidate_grades,
    coreset,
    d3_round,
    near_duplicates,
    pool,
    publication,
    raw_dataset,
    scores,
    trial,
    warmup_model,
)
from dselect_dagster.defs.code_versions import code_versions
from dselect_dagster.defs.coreset_checks import coreset_checks
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.jobs import jobs
from dselect_dagster.defs.loaded_settings import shape, wait_for_reload
from dselect_dagster.defs.schedules import landing_schedules
from dselect_dagster.defs.sensors import automation, grading_batches, sources_and_recipes


def build_definitions(settings: Settings, config: str = "", *, pools: bool = False) -> dg.Definitions:
    """The code location of one corpus, under plain names. config: path the runs read the settings from.

    "" for the file in force. pools: as of `Corpus`.
    """
    # One process a run: the steps share one loaded model, and torch is imported once.
    return dg.Definitions.merge(
        corpus_definitions(Corpus.of_file(settings, config, pools=pools)),
        dg.Definitions(executor=dg.in_process_executor),
    )


def corpus_definitions(corpus: Corpus) -> dg.Definitions:
    """The graph of one corpus, to stand beside others: no resource, no executor, nothing under a name that is not ours.

    An asset that no recipe reads is in the graph, to be materialised by hand, but nothing requests it. So is `trial`
    where no recipe is tried. Of d3's rounds there are as many as some recipe has.
    """
    assets, checks = _assets(corpus), _checks(corpus)
    own = dg.AssetSelection.assets(*(key for asset in assets for key in asset.keys))
    loaded = shape(assets, checks)

    def moved(now: Settings) -> str | None:
        # Also where the settings are equal: a rubric or a model's folder may have changed.
        edited = replace(corpus, settings=now)
        return wait_for_reload(loaded, shape(_assets(edited), _checks(edited)))

    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        sensors=[sources_and_recipes(corpus, own, moved), automation(corpus, own), grading_batches(corpus)],
        schedules=landing_schedules(corpus),
        jobs=jobs(corpus),
    )


def _assets(corpus: Corpus) -> list[dg.AssetsDefinition]:
    settings = corpus.settings
    needed, of_sources = needed_kinds(settings), kinds_of_sources(settings)
    versions = code_versions(settings)
    return [
        raw_dataset.raw_dataset(corpus),
        warmup_model.warmup_model(corpus, versions["warmup_model"]),
        *scores.score_assets(corpus, of_sources, versions),
        pool.corpus_index(corpus, of_sources),
        pool.neighbors(corpus, versions["neighbors"]),
        *near_duplicates.near_duplicates(corpus, versions),
        *pool.pair_score_assets(corpus, needed, versions),
        *candidate_grades.candidate_grades(corpus, versions),
        coreset.coreset_spec(corpus),
        coreset.candidates(corpus, needed),
        *d3_round.d3_rounds(corpus, versions["d3_round"]),
        coreset.coreset(corpus),
        trial.held_out(corpus, versions["held_out"]),
        trial.trial(corpus, versions["trial"]),
        *publication.publication(corpus),
    ]


def _checks(corpus: Corpus) -> list[dg.AssetChecksDefinition]:
    return [
        *asset_checks(corpus, kinds_of_sources(corpus.settings)),
        *near_duplicate_checks(corpus),
        *candidate_grade_checks(corpus),
        *coreset_checks(corpus),
    ]
