"""Facility location: the chosen rows that stand for all rows best, `max Σ_i max over chosen j of (1 + cos(i, j)) / 2`.

Greedy, so within 1 - 1/e of the best set (Nemhauser, Wolsey and Fisher, 1978). Similarities are those of unit vectors
on the grid (rounding.py): integers, and gains exact sums of integers, so one set of vectors has one order on any
machine, for any blocking and number of threads; ties go to the lowest row [ours].

Two forms. All similarities at once cost 4·n² bytes and O(n²·d); this is the method itself. Only the nearest
neighbours of each row cost 16·n·neighbors bytes and make 200,000 rows possible; the exact search for them, O(n²·d), is
then nearly all of the time. What anyone further away does for a row is not counted but estimated, by a floor on which
each row starts. At picks that the neighbours can reach, n / neighbors and more, the value stayed within hundredths of a
percent of the exact form's; with fewer picks it can lose a percent or two.

Every gain is saved up to date: a pick changes those of the rows near what it serves better. That asks for no heap and
knows at any pick how every other row stands. The state is each row's best similarity; continuing computes the
similarities again.
"""

import logging
from typing import Protocol

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import round_unit_vectors
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Option, Strategy

EXACT_ROWS = 16_384
"""Largest pool for which all similarities are held where the recipe says nothing: 1 GiB."""
NEIGHBORS = 64
"""Nearest rows counted, the row itself among them, in larger pools."""

_log = logging.getLogger(__name__)

_BLOCK = 4_096  # rows searched, or of neighbours summed, at a time: bounds the memory, changes no value
_AT_A_TIME = 512  # the same, for rows as long as the pool
_AT_ONCE = 32  # similarities, at most 2^25 each, summed in int32


def facility_location_order(
    pool: Pool, seed: int, saved: SavedOrder | None = None, neighbors: int | None = None
) -> Order:
    """`facility_location` over the pool's embeddings; `seed` is not used."""
    assert pool.embeddings is not None
    return facility_location(pool.embeddings, neighbors, saved)


def facility_location(vectors: np.ndarray, neighbors: int | None = None, saved: SavedOrder | None = None) -> Order:
    """Each pick raises `Σ_i max over chosen j of s_ij` the most, by its gain; ties to the lowest row.

    vectors: [n, d], usable rows (`rounding.usable_vectors`). s = (1 + cos) / 2 on the grid, in steps of 1 / (2·scale²);
    before the first pick every row stands at 0. neighbors: s_ij counts only where j is among that many rows nearest to
    i, i itself one of them (equal similarity: the lower row), and i stands at a quarter of the way from its furthest
    neighbour's similarity down to its mean over all rows [ours]; as many neighbours as there are rows is the exact
    form. None: the exact form up to EXACT_ROWS rows, NEIGHBORS above. Gives every row once; rows that add nothing come
    last, by row.
    """
    grid, scale = round_unit_vectors(vectors)
    if neighbors is None:
        neighbors = len(grid) if len(grid) <= EXACT_ROWS else NEIGHBORS
    near: _Similarities = _All(grid, scale) if neighbors >= len(grid) else _Nearest(grid, scale, neighbors)
    return _FacilityLocation(near, len(grid), scale, saved)


class _Similarities(Protocol):
    """Integers s_ij in [0, 2^25], those that count. floor: int64 [n], what each row has before the first pick."""

    floor: np.ndarray

    def gains(self, best: np.ndarray) -> np.ndarray:
        """int64 [n]: for each j, Σ_i max(0, s_ij - best_i)."""

    def serve(self, row: int, best: np.ndarray, gains: np.ndarray) -> None:
        """Raise `best` (int64 [n]) to what `row` serves, and lower `gains` to what they are then."""


class _FacilityLocation(Order):
    def __init__(self, near: _Similarities, n: int, scale: int, saved: SavedOrder | None) -> None:
        self._near, self._unit = near, 2.0 * scale * scale
        self._best = near.floor.copy()
        self._taken = np.zeros(n, dtype=bool)
        if saved is not None and saved.picks:
            self._best[:] = saved.state["similarity"]
            self._taken[[pick.row for pick in saved.picks]] = True
        self._gains = near.gains(self._best)
        self._gains[self._taken] = -1

    def __next__(self) -> Pick:
        row = int(self._gains.argmax()) if len(self._gains) else 0
        if not len(self._gains) or self._gains[row] < 0:
            raise StopIteration
        gain = int(self._gains[row])
        if gain:
            self._near.serve(row, self._best, self._gains)
        self._gains[row] = -1  # it was left at 0, and what gains nothing is never lowered again
        self._taken[row] = True
        return Pick(row, gain / self._unit, None)

    def state(self) -> dict[str, np.ndarray]:
        return {"similarity": self._best.copy()}

    def standing(self) -> np.ndarray:
        return np.where(self._taken, np.nan, self._gains / self._unit)


class _All:
    """Every similarity, int32 [n, n]."""

    def __init__(self, grid: np.ndarray, scale: int) -> None:
        n = len(grid)
        self.floor = np.zeros(n, dtype=np.int64)
        self._of = np.empty((n, n), dtype=np.int32)
        for start in range(0, n, _AT_A_TIME):
            rows = slice(start, start + _AT_A_TIME)
            self._of[rows] = _similarity(grid[rows] @ grid.T, scale)

    def gains(self, best: np.ndarray) -> np.ndarray:
        gains = np.zeros(len(best), dtype=np.int64)
        for start in range(0, len(best), _AT_ONCE):
            low = best[start : start + _AT_ONCE, None].astype(np.int32)
            rows = self._of[start : start + _AT_ONCE]
            gains += (np.maximum(rows, low) - low).sum(axis=0, dtype=np.int32)
        return gains

    def serve(self, row: int, best: np.ndarray, gains: np.ndarray) -> None:
        better = np.flatnonzero(self._of[row] > best)
        for start in range(0, len(better), _AT_ONCE):
            rows = better[start : start + _AT_ONCE]
            low, high = best[rows].astype(np.int32), self._of[row, rows]
            # max(0, s - low) - max(0, s - high) = clip(s, low, high) - low
            gains -= np.clip(self._of[rows], low[:, None], high[:, None]).sum(axis=0, dtype=np.int32)
            gains += low.sum(dtype=np.int64)
        best[better] = self._of[row, better]


class _Nearest:
    """Each row's nearest rows with their similarities, int32 [n, k] both, and the same by the row that serves."""

    def __init__(self, grid: np.ndarray, scale: int, k: int) -> None:
        from scipy.sparse import csr_array  # here, for settings that only name a strategy import this file too

        n = len(grid)
        self._rows, dots = nearest_rows(grid, k)
        self._of = _similarity(dots, scale)
        # Sums of products below 2^53: exact in float64.
        mean = (grid @ grid.sum(axis=0, dtype=np.float64)).astype(np.int64) // n + scale * scale
        furthest = self._of.min(axis=1).astype(np.int64)
        self.floor = np.minimum(furthest, np.maximum(mean + 3 * furthest, 0) // 4)
        # Starts no wider than they must be: scipy brings the row numbers to the same type.
        starts = np.arange(0, n * k + 1, k, dtype=np.int32 if n * k < 2**31 else np.int64)
        served = csr_array((self._of.ravel(), self._rows.ravel(), starts), shape=(n, n)).tocsc()
        self._served_rows, self._served_of, self._starts = served.indices, served.data, served.indptr

    def gains(self, best: np.ndarray) -> np.ndarray:
        gains = np.zeros(len(best), dtype=np.int64)
        for start in range(0, len(best), _BLOCK):
            rows = slice(start, start + _BLOCK)
            np.add.at(gains, self._rows[rows].ravel(), np.maximum(self._of[rows] - best[rows, None], 0).ravel())
        return gains

    def serve(self, row: int, best: np.ndarray, gains: np.ndarray) -> None:
        mine = slice(self._starts[row], self._starts[row + 1])
        rows, high = self._served_rows[mine], self._served_of[mine]
        better = high > best[rows]
        rows, high = rows[better], high[better].astype(np.int64)
        low = best[rows]
        lost = np.clip(self._of[rows], low[:, None], high[:, None]) - low[:, None]
        np.subtract.at(gains, self._rows[rows].ravel(), lost.ravel())
        best[rows] = high


def _similarity(dots: np.ndarray, scale: int) -> np.ndarray:
    """int32, 2·scale² times (1 + cos) / 2; a rounded vector may be longer than `scale`, hence the limit at 0."""
    return np.maximum(dots.astype(np.int32) + scale * scale, 0)


def nearest_rows(grid: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows int32 [n, k], dot products float32 [n, k]): for each row the k < n rows of largest dot product with it.

    grid: of `round_unit_vectors`; equal products go to the lower row. In no order inside a row. Exact: float32 holds
    these products, and faiss finds the k + 1 largest; where the last two tie, which of the tied it found is its own
    affair, and the row is searched again by hand.
    """
    import faiss

    n = len(grid)
    _log.info("facility-location: searching the %d nearest of each of %d rows", k, n)
    index = faiss.IndexFlatIP(grid.shape[1])
    index.add(grid)
    rows, dots = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        found, at = index.search(grid[start : start + _BLOCK], k + 1)
        rows[start : start + _BLOCK], dots[start : start + _BLOCK] = at[:, :k], found[:, :k]
        tied = start + np.flatnonzero(found[:, k - 1] == found[:, k])
        for part in range(0, len(tied), _AT_ONCE):
            own = tied[part : part + _AT_ONCE]
            for row, whole in zip(own, grid[own] @ grid.T, strict=True):
                least = dots[row].min()
                above = np.flatnonzero(whole > least)
                rows[row] = np.concatenate([above, np.flatnonzero(whole == least)[: k - len(above)]])
                dots[row] = whole[rows[row]]
    return rows, dots


FACILITY_LOCATION = Strategy(
    "facility-location",
    frozenset({"embeddings"}),
    (),
    facility_location_order,
    declared={
        "neighbors": Option(
            int,
            None,
            "facility-location: nearest rows that count, the row itself among them; by default all up to "
            "16384 rows, 64 above",
            {"ge": 1},
        )
    },
)
