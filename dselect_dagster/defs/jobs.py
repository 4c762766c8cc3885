"""The jobs: what a person starts by hand in the UI, as selections of assets.

A job holds assets of one set of partitions, and the launchpad asks for a partition of it. What follows from a job is
the automation sensor's, or the next refresh's. The runs of `dselect refresh` bear the name of the job `refresh`, by
which the Runs page finds them; they make whatever is stale, of any partition.
"""

from typing import Any

import dagster as dg

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.kinds import kind_of, kinds_by_asset
from dselect_core.pool.corpus_index import grades_candidates_only, kinds_of_sources
from dselect_core.select.judges_spec import GRADES
from dselect_dagster.defs.corpus import Corpus

REFRESH = "refresh"


def jobs(corpus: Corpus) -> list[Any]:
    """`refresh`, `rescore`, `regrade` and `select`."""
    settings, namespace, of_sources = corpus.settings, corpus.namespace, kinds_of_sources(corpus.settings)
    grades = CANDIDATE_GRADES if grades_candidates_only(settings) else kind_of(GRADES).asset
    by_source = [
        asset
        for asset, kinds in kinds_by_asset(settings, by_source=True).items()
        if asset != kind_of(GRADES).asset and any(kind.name in of_sources for kind in kinds)
    ]
    graded = [grades] if grades != CANDIDATE_GRADES and GRADES in of_sources else []
    selections = {
        REFRESH: (
            ["raw_dataset", *by_source, *graded],
            "Lands a source and scores its new rows. The sensor `automation` makes what follows.",
        ),
        "rescore": (
            by_source or ["raw_dataset"],
            "The scores of a source but its grades, of rows that have none under the settings of now.",
        ),
        "regrade": (
            [grades],
            "The grades, of rows that have none under the settings of now, and of those that failed. Nothing is bought "
            "twice.",
        ),
        "select": (["coreset_spec", "candidates", "coreset"], "Chooses a recipe's coreset from the pool as it is."),
    }
    return [
        dg.define_asset_job(
            namespace.prefixed(name),
            dg.AssetSelection.assets(*namespace.keys(*assets)),
            description=description,
        )
        for name, (assets, description) in selections.items()
    ]
