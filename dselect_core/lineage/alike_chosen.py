"""Which chosen rows are alike to another chosen one: by the cosine of their embeddings. [ours]

A coreset that holds the same row twice in other words spends its budget twice. Trade-off: only the first rows are
looked at, in the order of choice, so that the check costs the same whatever the budget.
"""

import numpy as np
import polars as pl

from dselect_core.pool.corpus_index import Index
from dselect_core.pool.pool_tables import unit_embeddings
from dselect_core.settings.workspace import Workspace

MOST_ROWS = 5_000
"""Chosen rows that are looked at."""

_BLOCK = 1_000


def alike_chosen(workspace: Workspace, index: Index, chosen: pl.Series, threshold: float) -> pl.DataFrame | None:
    """Rows with the nearest other one at `threshold` or above: sample_id, like, cosine; the most alike first.

    chosen: ids in the order of choice. None where the pool has no embeddings of one provenance.
    """
    known = unit_embeddings(workspace, index, chosen.head(MOST_ROWS))
    if known is None:
        return None
    keys, units = known
    nearest, cosine = np.zeros(len(units), np.int64), np.full(len(units), -1.0)
    for start in range(0, len(units), _BLOCK):
        block = units[start : start + _BLOCK] @ units.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -1.0
        nearest[start : start + _BLOCK], cosine[start : start + _BLOCK] = block.argmax(axis=1), block.max(axis=1)
    found = pl.DataFrame(
        {"sample_id": keys, "like": keys.gather(nearest), "cosine": pl.Series(cosine, dtype=pl.Float64)}
    )
    return found.filter(pl.col("cosine") >= threshold).sort("cosine", "sample_id", descending=[True, False])
