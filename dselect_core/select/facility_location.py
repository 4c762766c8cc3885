"""Facility location: the chosen rows that represent all rows best, `max Σ_i max_{j chosen} (1 + cos(i, j)) / 2`.

The greedy order is within 1 - 1/e of the best set (Nemhauser, Wolsey and Fisher, 1978). Similarities are those of unit
vectors on the grid (rounding.py): integers, and gains are exact sums of integers. So one set of vectors has one order
on any machine, for any blocking and number of threads; ties go to the lowest row [ours].

There are two forms. The exact one holds all similarities: 4·n² bytes and O(n²·d). The sparse one holds only the nearest
neighbours of each row: 16·n·neighbors bytes, which makes 200,000 rows possible; nearly all of its time is the exact
search for them, O(n²·d). What a row further away is worth is not counted but estimated, by a floor on which each row
starts. With n / neighbors picks and more, which the neighbours can reach, the value stayed within hundredths of a
percent of the exact form's; with fewer picks it can lose a percent or two.

Every gain is kept up to date: a pick lowers the gains of the rows near those that it represents better. That needs no
heap, and the standing of every row is known at any pick. The state is each row's best similarity; continuing computes
the similarities again.
"""

import logging
from typing import Protocol

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.gain_per_token import PER_TOKEN, response_tokens
from dselect_core.select.order import Order, Pick, open_rows
from dselect_core.select.rounding import round_unit_vectors
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Option, Strategy
from dselect_core.select.whitening import WHITEN

EXACT_ROWS = 16_384
"""Largest pool for which all similarities are held where the recipe does not say: 1 GiB."""
NEIGHBORS = 64
"""Nearest rows counted, the row itself among them, in larger pools."""

_log = logging.getLogger(__name__)

_BLOCK = 4_096  # rows searched, or summed over neighbours, at a time: bounds the memory, changes no value
_WIDE_BLOCK = 512  # the same, for rows as long as the pool
_SUM_BLOCK = 32  # similarities, at most 2^25 each, summed in int32


def facility_location_order(
    pool: Pool, seed: int, saved: SavedOrder | None = None, neighbors: int | None = None, per: str | None = None
) -> Order:
    """`facility_location` over the pool's embeddings, by gain or `per` "token"; `seed` is not used."""
    assert pool.embeddings is not None
    costs = response_tokens(pool) if per == "token" else None
    return facility_location(pool.embeddings, neighbors, saved, pool.groups, costs)


def facility_location(
    vectors: np.ndarray,
    neighbors: int | None = None,
    saved: SavedOrder | None = None,
    groups: np.ndarray | None = None,
    costs: np.ndarray | None = None,
) -> Order:
    """Each pick is `argmax_j Σ_i max(0, s_ij - b_i)`, b_i the best s_ij of the picks so far; ties to the lowest row.

    vectors: [n, d], usable rows (`rounding.usable_vectors`). s = (1 + cos) / 2 on the grid, in steps of 1 / (2·scale²);
    before the first pick every b_i is 0. Gain: the sum. neighbors: s_ij counts only where j is among that many rows
    nearest to i, i itself one of them (equal similarity: the lower row), and b_i starts a quarter of the way from the
    similarity of its furthest neighbour down to its mean similarity [ours]; as many neighbours as there are rows is the
    exact form. None: the exact form up to EXACT_ROWS rows, NEIGHBORS above. Gives every row once; rows that add nothing
    come last, by row. costs: int64 [n], at least 1; gains are divided by them, in float64. State `similarity`: int64
    [n], b in those steps.
    """
    grid, scale = round_unit_vectors(vectors)
    if neighbors is None:
        neighbors = len(grid) if len(grid) <= EXACT_ROWS else NEIGHBORS
    similarities: _Similarities = (
        _AllSimilarities(grid, scale) if neighbors >= len(grid) else _NearestSimilarities(grid, scale, neighbors)
    )
    return _FacilityLocation(similarities, len(grid), scale, saved, groups, costs)


class _Similarities(Protocol):
    """The integers s_ij in [0, 2^25) that count. floor: int64 [n], each row's `best` before the first pick."""

    floor: np.ndarray

    def gains(self, best: np.ndarray) -> np.ndarray:
        """int64 [n]: for each j, Σ_i max(0, s_ij - best_i)."""

    def add(self, row: int, best: np.ndarray, gains: np.ndarray) -> None:
        """Update `best` and `gains`, both int64 [n], after the pick of `row`; its own gain becomes 0."""


class _FacilityLocation(Order):
    def __init__(
        self,
        similarities: _Similarities,
        n: int,
        scale: int,
        saved: SavedOrder | None,
        groups: np.ndarray | None = None,
        costs: np.ndarray | None = None,
    ) -> None:
        self._groups, self._costs = groups, costs
        self._similarities, self._steps_of_one = similarities, 2.0 * scale * scale
        self._best = similarities.floor.copy()
        self._is_picked = np.zeros(n, dtype=bool)
        if saved is not None and saved.picks:
            self._best[:] = saved.state["similarity"]
            self._is_picked[[pick.row for pick in saved.picks]] = True
        self._gains = similarities.gains(self._best)
        self._gains[self._is_picked] = -1

    def __next__(self) -> Pick:
        is_open = open_rows(self._groups, self.open_groups)
        gains = self._gains if is_open is None else np.where(is_open, self._gains, -1)
        ranked = self._for_their_cost(gains)
        row = int(ranked.argmax()) if len(ranked) else 0
        if not len(gains) or gains[row] < 0:
            raise StopIteration
        gain = int(self._gains[row])
        told = ranked[row] / self._steps_of_one
        if gain:
            self._similarities.add(row, self._best, self._gains)
        self._gains[row] = -1  # it was 0, and a gain of 0 is never lowered again
        self._is_picked[row] = True
        return Pick(row, float(told), None)

    def _for_their_cost(self, gains: np.ndarray) -> np.ndarray:
        return gains if self._costs is None else gains / self._costs

    def state(self) -> dict[str, np.ndarray]:
        return {"similarity": self._best.copy()}

    def standing(self) -> np.ndarray:
        return np.where(self._is_picked, np.nan, self._for_their_cost(self._gains) / self._steps_of_one)


class _AllSimilarities:
    """The exact form: every similarity, int32 [n, n]."""

    def __init__(self, grid: np.ndarray, scale: int) -> None:
        n = len(grid)
        self.floor = np.zeros(n, dtype=np.int64)
        self._similarity = np.empty((n, n), dtype=np.int32)
        for start in range(0, n, _WIDE_BLOCK):
            rows = slice(start, start + _WIDE_BLOCK)
            self._similarity[rows] = _similarity(grid[rows] @ grid.T, scale)

    def gains(self, best: np.ndarray) -> np.ndarray:
        gains = np.zeros(len(best), dtype=np.int64)
        for start in range(0, len(best), _SUM_BLOCK):
            low = best[start : start + _SUM_BLOCK, None].astype(np.int32)
            rows = self._similarity[start : start + _SUM_BLOCK]
            gains += (np.maximum(rows, low) - low).sum(axis=0, dtype=np.int32)
        return gains

    def add(self, row: int, best: np.ndarray, gains: np.ndarray) -> None:
        improved_rows = np.flatnonzero(self._similarity[row] > best)
        for start in range(0, len(improved_rows), _SUM_BLOCK):
            rows = improved_rows[start : start + _SUM_BLOCK]
            low, high = best[rows].astype(np.int32), self._similarity[row, rows]
            # max(0, s - low) - max(0, s - high) = clip(s, low, high) - low
            gains -= np.clip(self._similarity[rows], low[:, None], high[:, None]).sum(axis=0, dtype=np.int32)
            gains += low.sum(dtype=np.int64)
        best[improved_rows] = self._similarity[row, improved_rows]


class _NearestSimilarities:
    """The sparse form: each row's k nearest rows with their similarities, int32 [n, k] both; and the transpose."""

    def __init__(self, grid: np.ndarray, scale: int, k: int) -> None:
        from scipy.sparse import csr_array  # here, because the settings import this file to check a strategy's name

        n = len(grid)
        self._neighbors, dots = nearest_rows(grid, k)
        self._similarity = _similarity(dots, scale)
        # Sums of products below 2^53: exact in float64.
        mean = (grid @ grid.sum(axis=0, dtype=np.float64)).astype(np.int64) // n + scale * scale
        furthest = self._similarity.min(axis=1).astype(np.int64)
        self.floor = np.minimum(furthest, np.maximum(mean + 3 * furthest, 0) // 4)
        # The type of starts is as narrow as it may be: scipy converts the row numbers to the same type.
        starts = np.arange(0, n * k + 1, k, dtype=np.int32 if n * k < 2**31 else np.int64)
        transpose = csr_array((self._similarity.ravel(), self._neighbors.ravel(), starts), shape=(n, n)).tocsc()
        # The rows that have row j as a neighbour: entries starts[j] : starts[j + 1] of both.
        self._in_rows, self._in_similarity, self._starts = transpose.indices, transpose.data, transpose.indptr

    def gains(self, best: np.ndarray) -> np.ndarray:
        gains = np.zeros(len(best), dtype=np.int64)
        for start in range(0, len(best), _BLOCK):
            rows = slice(start, start + _BLOCK)
            added = np.maximum(self._similarity[rows] - best[rows, None], 0)
            np.add.at(gains, self._neighbors[rows].ravel(), added.ravel())
        return gains

    def add(self, row: int, best: np.ndarray, gains: np.ndarray) -> None:
        entries = slice(self._starts[row], self._starts[row + 1])
        rows, high = self._in_rows[entries], self._in_similarity[entries]
        is_improved = high > best[rows]
        rows, high = rows[is_improved], high[is_improved].astype(np.int64)
        low = best[rows]
        lost = np.clip(self._similarity[rows], low[:, None], high[:, None]) - low[:, None]
        np.subtract.at(gains, self._neighbors[rows].ravel(), lost.ravel())
        best[rows] = high


def _similarity(dots: np.ndarray, scale: int) -> np.ndarray:
    """int32, 2·scale² times (1 + cos) / 2; a rounded vector may be longer than `scale`, hence the limit at 0."""
    return np.maximum(dots.astype(np.int32) + scale * scale, 0)


def nearest_rows(grid: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows int32 [n, k], dot products float32 [n, k]): for each row the k < n rows of largest dot product with it.

    grid: of `round_unit_vectors`. Equal products go to the lower row; inside a row there is no order. The products are
    exact in float32. faiss finds the k + 1 largest; where the last two tie, it does not say which of the tied rows it
    returns, so such a row is searched again here.
    """
    import faiss

    n = len(grid)
    _log.info("facility-location: searching the %d nearest of each of %d rows", k, n)
    index = faiss.IndexFlatIP(grid.shape[1])
    index.add(grid)
    rows, dots = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        block_dots, block_rows = index.search(grid[start : start + _BLOCK], k + 1)
        rows[start : start + _BLOCK], dots[start : start + _BLOCK] = block_rows[:, :k], block_dots[:, :k]
        tied_rows = start + np.flatnonzero(block_dots[:, k - 1] == block_dots[:, k])
        for tied_start in range(0, len(tied_rows), _SUM_BLOCK):
            tied_block = tied_rows[tied_start : tied_start + _SUM_BLOCK]
            for row, row_dots in zip(tied_block, grid[tied_block] @ grid.T, strict=True):
                smallest = dots[row].min()
                above = np.flatnonzero(row_dots > smallest)
                rows[row] = np.concatenate([above, np.flatnonzero(row_dots == smallest)[: k - len(above)]])
                dots[row] = row_dots[rows[row]]
    return rows, dots


FACILITY_LOCATION = Strategy(
    name="facility-location",
    description="representative of the whole pool",
    needs=frozenset({"embeddings"}),
    columns=(),
    order=facility_location_order,
    options={
        "neighbors": Option(
            int,
            None,
            "facility-location: nearest rows that count, the row itself among them; by default all up to "
            "16384 rows, 64 above",
            {"ge": 1},
        ),
        "per": PER_TOKEN,
        "whiten": WHITEN,
    },
    by_group=True,
)
