"""How a coreset lies among its pool: how near every sample has a chosen one, and a map in two dimensions. [ours]

Both look at the vectors of a part of the pool and of the chosen rows, so that a page costs the same whatever the pool's
size. A sample's id is a hash of its text: the lowest ids are a random draw, and the same one each time. Trade-off: what
lies beyond the limits below is not drawn, and the page says how much was.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from dselect_core.pool.corpus_index import Index
from dselect_core.pool.pool_tables import unit_embeddings
from dselect_core.settings.workspace import Workspace

POOL_ROWS = 2_000
"""Samples of the pool that are looked at."""

CHOSEN_ROWS = 5_000
"""Chosen rows that are looked at, in the order of choice."""

_POINTS = 60


@dataclass(frozen=True, eq=False)
class Spread:
    """The part that is looked at, unit vectors by row.

    pool: float32 [p, d]; chosen: float32 [k, d], in the order of choice; drawn: float32 [k', d], a random draw of as
    many rows, in a random order, as far as the pool has them.
    """

    pool: np.ndarray
    chosen: np.ndarray
    drawn: np.ndarray

    def coverage(self) -> tuple[list[int], list[float], list[float]]:
        """(rows, mean cosine distance of the pool to the nearest of so many chosen rows, and of so many drawn ones)."""
        most = min(len(self.chosen), len(self.drawn))
        at = sorted({round(number) for number in np.geomspace(1, most, _POINTS)})
        return at, _distances(self.pool, self.chosen, at), _distances(self.pool, self.drawn, at)

    def map(self) -> tuple[np.ndarray, np.ndarray]:
        """(pool [p, 2], chosen [k, 2]): the two main directions of the pool's vectors (PCA), signs made certain."""
        center = self.pool.mean(axis=0)
        _, _, axes = np.linalg.svd(self.pool - center, full_matrices=False)
        axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
        return (self.pool - center) @ axes.T, (self.chosen - center) @ axes.T


def _distances(pool: np.ndarray, taken: np.ndarray, at: list[int]) -> list[float]:
    nearest = np.full(len(pool), 2.0, np.float32)
    found, start = [], 0
    for stop in at:
        nearest = np.minimum(nearest, (1.0 - pool @ taken[start:stop].T).min(axis=1))
        found.append(float(nearest.mean()))
        start = stop
    return found


def read_spread(workspace: Workspace, index: Index, chosen: pl.Series) -> Spread | None:
    """Read the vectors. chosen: ids in the order of choice. None where the pool has no embeddings of one provenance."""
    if chosen.is_empty():
        return None
    ids = index.frame["sample_id"]
    taken = chosen.head(CHOSEN_ROWS)
    looked_at = ids.head(POOL_ROWS)
    drawn = ids.sample(min(len(taken), len(ids)), shuffle=True, seed=0)
    known = unit_embeddings(workspace, index, pl.concat([looked_at, taken, drawn]))
    if known is None:
        return None
    keys, units = known
    rows = keys.to_frame("sample_id").with_row_index("at")

    def of(some: pl.Series) -> np.ndarray:
        found = some.to_frame("sample_id").join(rows, on="sample_id", how="inner", maintain_order="left")
        return np.asarray(units[found["at"].to_numpy()])

    spread = Spread(of(looked_at), of(taken), of(drawn))
    return spread if min(len(spread.pool), len(spread.chosen), len(spread.drawn)) > 1 else None
