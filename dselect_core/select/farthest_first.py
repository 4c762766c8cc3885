"""Weighted farthest-first order, exact and lazy: each pick is `argmax_i w_i · min over chosen j of ‖e_i - e_j‖`.

Gains only fall as rows are chosen, so the distance to the first few chosen bounds a gain from above (lazy greedy,
Minoux 1978). Every row has such a bound, and the number of picks it has seen. A round brings the rows of largest bound
up to date with matrix products, each row only for as long as it stays above the best row left outside; those that do
are the pool, and picks come out of the pool while its best beats all that is outside [ours]. Against one matrix-vector
product per pick it works in the cache instead of memory, and computes under a tenth of the distances on clustered
data. The price: of rows far from being picked only an upper bound of the gain is known.

Vectors are on the integer grid (rounding.py) and gains are compared as w²·m² in int64, so the order does not depend on
the BLAS, its threads, or the sizes below. With all weights one it is the k-center greedy (Gonzalez 1985).
"""

from dataclasses import dataclass

import numpy as np

from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.saved_order import SavedOrder

MOST_STEPS = 2**18
"""Largest weight, in steps of the score grid (so 4.0): its square times a squared grid distance still fits int64."""

_Place = tuple[int, int]
"""(bound, -row): the larger comes first, so equal bounds go to the lowest row."""

_NONE: _Place = (-1, 0)  # behind every row


@dataclass(frozen=True)
class Sizes:
    """How much is worked on at a time. Sets the speed, the memory and what `state` holds; never the order.

    pool: rows brought up to date in a round. picks: chosen rows in one matrix product, which has `pool` x `picks`
    results. front: rows that rounds look for the largest bounds in, until all n have to be looked through again; n / 64
    where that is more.
    """

    pool: int = 2048
    picks: int = 128
    front: int = 32_768


def farthest_first(
    vectors: np.ndarray, weight_steps: np.ndarray, saved: SavedOrder | None = None, sizes: Sizes | None = None
) -> "FarthestFirst":
    """First `argmax w`, then `argmax w_i · min over chosen j of ‖e_i - e_j‖`; ties to the lowest row.

    vectors: [n, d], usable rows (`rounding.usable_vectors`); weight_steps: int64 [n] in [0, MOST_STEPS], w /
    SCORE_STEP. Gives every row once. Gain: weight times distance on the unit sphere; null for the first pick, which has
    no chosen sample to be far from. A row that repeats a chosen one has gain 0 and comes at the end, by row.

    State, int32 [n]: `seen`, the number of picks a row has been compared with, and `nearest`, its squared grid distance
    to the nearest of those. Standing is made from `nearest`: the gain where every pick was seen, else an upper bound of
    it, itself at most the gain of the last pick. Both follow from the picks so far, wherever the order was stopped.
    """
    return FarthestFirst(vectors, weight_steps, saved, sizes or Sizes())


class FarthestFirst(Order):
    """See `farthest_first`. compared: distances computed; rounds: pools made; both by this object, for benchmarks.

    A pool is not part of the state: its rows, and no others, have seen the last pick.
    """

    def __init__(self, vectors: np.ndarray, weight_steps: np.ndarray, saved: SavedOrder | None, sizes: Sizes) -> None:
        n = len(vectors)
        self.compared = self.rounds = 0
        self._sizes = sizes
        self._grid, self._scale = round_unit_vectors(vectors)
        self._squared_lengths = np.einsum("ij,ij->i", self._grid, self._grid).astype(np.int32)
        self._weight_steps = weight_steps
        self._squared_weights = weight_steps * weight_steps
        self._nearest = np.full(n, np.iinfo(np.int32).max, dtype=np.int32)  # at most 2^26 after the first pick
        self._seen = np.zeros(n, dtype=np.int32)
        self._taken = np.zeros(n, dtype=bool)
        self._picks = np.empty(n, dtype=np.int32)
        self._made = 0
        self._uncounted = False  # whether the last pick is still to be counted among the chosen
        self._pool = _Pool(self, np.empty(0, dtype=np.int64), 0)
        self._outside = _NONE  # the best row that is not in the pool
        self._front = np.empty(0, dtype=np.int64)  # ascending
        self._behind: _Place | None = None  # the best row that is not in the front; None: the front is to be made
        if saved is not None and saved.picks:
            self._made = len(saved.picks)
            self._picks[: self._made] = [pick.row for pick in saved.picks]
            self._taken[self._picks[: self._made]] = True
            self._nearest[:], self._seen[:] = saved.state["nearest"], saved.state["seen"]
            self._find_pool()

    def __next__(self) -> Pick:
        if self._made == len(self._taken):
            raise StopIteration
        if self._made == 0:
            row, gain = int(np.argmax(self._weight_steps)), None
        else:
            self._count()
            row, nearest = self._best()
            gain = float(self._gain(self._weight_steps[row], nearest))
        self._picks[self._made] = row
        self._taken[row] = True
        self._made += 1
        self._uncounted = True
        return Pick(row, gain, None)

    def state(self) -> dict[str, np.ndarray]:
        """As `Order.state`: `seen` and `nearest`."""
        self._count()
        self._pool.store()
        return {"nearest": self._nearest.copy(), "seen": self._seen.copy()}

    def standing(self) -> np.ndarray:
        """As `Order.standing`; a bound where `seen` is less than the picks."""
        if self._made == 0:
            return np.full(len(self._taken), np.nan)
        self._count()
        self._pool.store()
        standing = self._gain(self._weight_steps, self._nearest)
        standing[self._taken] = np.nan
        return standing

    def _count(self) -> None:
        """Count the last pick among the chosen, as far as the pool goes."""
        if not self._uncounted:
            return
        self._uncounted = False
        row = int(self._picks[self._made - 1])
        if self._made == 1:
            # All rows see the first pick: one pass over the data, for bounds that are of use from the start.
            products = (self._grid @ self._grid[row]).astype(np.int32)
            np.subtract(self._squared_lengths + self._squared_lengths[row], 2 * products, out=self._nearest)
            self._seen[:] = 1
            self.compared += len(products)
            self._find_pool()
        elif len(self._pool.rows):
            ahead = self._pool.ahead(self._outside)
            if 2 * len(ahead) < len(self._pool.rows):  # what fell behind would only be in the way
                self._pool.store()
                self._pool = _Pool(self, ahead, self._pool.seen)
            self._pool.count(row)

    def _find_pool(self) -> None:
        """The pool that the state goes with."""
        bounds = self._bounds(slice(None))
        fresh = np.flatnonzero(self._seen == self._made)
        # After the first pick all are fresh, hence the limit; later only what is in the pool.
        if len(fresh) > self._sizes.pool:
            fresh = fresh[_largest(bounds[fresh], self._sizes.pool)[0]]
        self._pool = _Pool(self, fresh, self._made)
        bounds[fresh] = -1
        self._outside = _place(bounds, None, int(np.argmax(bounds)))

    def _best(self) -> tuple[int, np.int32]:
        """The next pick and its `nearest`."""
        while self._pool.best() <= self._outside:
            self._pool.store()
            rows, self._outside = self._candidates()
            if not (self._squared_weights[rows] * self._nearest[rows]).any():
                # Nothing is left to gain, nor can it fall: the rest come by row, and need see nothing.
                self._pool = _Pool(self, rows[:0], self._made)
                return int(rows[0]), self._nearest[rows[0]]
            self._pool = _Pool(self, self._caught_up(rows), self._made)
            self.rounds += 1
        at = int(np.argmax(self._pool.bounds))
        return int(self._pool.rows[at]), self._pool.nearest[at]

    def _candidates(self) -> tuple[np.ndarray, _Place]:
        """Of the rows not taken those of largest bound, as many as a pool takes, ascending; and the best of the rest.

        The front answers for all rows as long as enough of it is ahead of all that is behind it.
        """
        while True:
            if self._behind is not None:
                bounds = self._bounds(self._front)
                at, after = _largest(bounds, self._sizes.pool)
                rows = self._front[at]
                outside = _place(bounds, self._front, after)
                if self._behind == _NONE or outside > self._behind:
                    return rows, max(outside, self._behind)
            size = max(self._sizes.front, len(self._taken) // 64, self._sizes.pool + 1)
            bounds = self._bounds(slice(None))
            self._front, after = _largest(bounds, size)
            self._behind = _place(bounds, None, after)

    def _caught_up(self, rows: np.ndarray) -> np.ndarray:
        """Show `rows` the picks they have not seen, each while it is ahead of the outside; those that are at the end.

        In the order of the picks, so that what a row has seen is told by one number.
        """
        nearest, seen = self._nearest[rows], self._seen[rows]
        vectors, lengths, weights = self._grid[rows], self._squared_lengths[rows], self._squared_weights[rows]
        ahead = np.arange(len(rows))
        while len(ahead) and (first := int(seen[ahead].min())) < self._made:
            last = min(first + self._sizes.picks, self._made)
            part = ahead[seen[ahead] < last]
            picks = self._picks[first:last]
            # float32 holds the dot products exactly, but not the distances.
            distances = (self._grid[picks] @ vectors[part].T).astype(np.int32)
            distances *= -2
            distances += self._squared_lengths[picks][:, None]
            nearest[part] = np.minimum(nearest[part], distances.min(axis=0) + lengths[part])
            seen[part] = last
            self.compared += distances.size
            ahead = ahead[_ahead(weights[ahead] * nearest[ahead], rows[ahead], self._outside)]
        self._nearest[rows], self._seen[rows] = nearest, seen
        return rows[ahead]

    def _bounds(self, rows: np.ndarray | slice) -> np.ndarray:
        """w²·m² with the m that is known, int64; -1 where taken."""
        bounds = np.asarray(self._squared_weights[rows] * self._nearest[rows])
        bounds[self._taken[rows]] = -1
        return bounds

    def _gain(self, weight_steps: np.ndarray, nearest: np.ndarray | np.int32) -> np.ndarray:
        """One formula for a pick and for all rows: the same bits either way."""
        return np.asarray(weight_steps * SCORE_STEP * np.sqrt(nearest) / self._scale)


class _Pool:
    """Rows of an order, ascending, which have all seen the first `seen` picks, and what the next picks ask of them."""

    def __init__(self, order: FarthestFirst, rows: np.ndarray, seen: int) -> None:
        self._order = order
        self.rows = rows
        self.seen = seen
        self._vectors = order._grid[rows]
        self._lengths = order._squared_lengths[rows]
        self._weights = order._squared_weights[rows]
        self.nearest = order._nearest[rows]
        self.bounds = order._bounds(rows)

    def best(self) -> _Place:
        return _place(self.bounds, self.rows, int(np.argmax(self.bounds))) if len(self.rows) else _NONE

    def ahead(self, outside: _Place) -> np.ndarray:
        return np.asarray(self.rows[_ahead(self.bounds, self.rows, outside)])

    def count(self, pick: int) -> None:
        order = self._order
        self.seen += 1
        distances = (self._vectors @ order._grid[pick]).astype(np.int32)
        distances *= -2
        distances += self._lengths + order._squared_lengths[pick]
        order.compared += len(distances)
        np.minimum(self.nearest, distances, out=self.nearest)
        np.multiply(self._weights, self.nearest, out=self.bounds)
        self.bounds[order._taken[self.rows]] = -1

    def store(self) -> None:
        self._order._nearest[self.rows] = self.nearest
        self._order._seen[self.rows] = self.seen


def _place(bounds: np.ndarray, rows: np.ndarray | None, at: int | None) -> _Place:
    """Of the row at `at`; rows None: all rows. Nothing there, or a row that is taken: behind every row."""
    if at is None or bounds[at] < 0:
        return _NONE
    return int(bounds[at]), -(at if rows is None else int(rows[at]))


def _ahead(bounds: np.ndarray, rows: np.ndarray, of: _Place) -> np.ndarray:
    return np.asarray((bounds > of[0]) | ((bounds == of[0]) & (rows < -of[1])))


def _largest(bounds: np.ndarray, count: int) -> tuple[np.ndarray, int | None]:
    """Where the `count` largest are, ascending and less those that are taken; and where the one after them is.

    Of equal bounds the first comes first.
    """
    if len(bounds) <= count:
        return np.flatnonzero(bounds >= 0), None
    last = np.partition(bounds, len(bounds) - count)[len(bounds) - count]
    above, level = np.flatnonzero(bounds > last), np.flatnonzero(bounds == last)
    short = count - len(above)
    at = np.union1d(above, level[:short])
    after = int(level[short]) if len(level) > short else int(np.argmax(np.where(bounds < last, bounds, -2)))
    return at[bounds[at] >= 0], after
