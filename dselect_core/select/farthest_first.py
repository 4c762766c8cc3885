"""Weighted farthest-first order, exact and lazy: each pick is `argmax_i w_i · min_{j chosen} ‖e_i - e_j‖`.

Gains only fall as rows are chosen, so the distance to the first few chosen rows bounds a gain from above (lazy greedy,
Minoux 1978). Every row has such a bound, and the number of picks it has been compared with. A round compares the rows
of largest bound with the picks they have not seen, in matrix products, and drops a row as soon as its bound falls below
that of the best row left out. The rows that remain are the active rows, whose gains are exact; picks come from them as
long as the best of them beats every inactive row [ours]. Against one matrix-vector product per pick this works in the
cache instead of memory, and computes under a tenth of the distances on clustered data. The price: of rows far from
being picked only an upper bound of the gain is known.

Vectors are on the integer grid (rounding.py) and gains are compared as w²·m² in int64, so the order does not depend on
the BLAS, its threads, or the sizes below. With all weights one it is the greedy k-center (Gonzalez 1985).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dselect_core.select.order import Order, Pick, open_rows
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.saved_order import SavedOrder

MAX_WEIGHT_STEPS = 2**18
"""Largest weight, in steps of the score grid (so 4.0): its square times a squared grid distance still fits int64."""

_RankKey = tuple[int | float, int]
"""(bound, -row): the larger one is picked first, so equal bounds go to the lowest row."""

_NO_ROW: _RankKey = (-1, 0)  # below every row


@dataclass(frozen=True)
class Sizes:
    """How many rows are worked on at a time. They set the speed, the memory and what `state` holds, never the order.

    active: rows that a round brings up to date. picks: chosen rows in one matrix product, which has `active` x `picks`
    results. shortlist: rows of largest bound that rounds choose from, so that not all n are looked through each time;
    n / 64 where that is more.
    """

    active: int = 2048
    picks: int = 128
    shortlist: int = 32_768


def farthest_first(
    vectors: np.ndarray,
    weight_steps: np.ndarray,
    saved: SavedOrder | None = None,
    sizes: Sizes | None = None,
    given: Sequence[int] = (),
    groups: np.ndarray | None = None,
) -> "FarthestFirst":
    """First `argmax w`, then `argmax_i w_i · m_i`, `m_i = min_{j chosen} ‖e_i - e_j‖`; ties to the lowest row.

    vectors: [n, d], usable rows (`rounding.usable_vectors`); weight_steps: int64 [n] in [0, MAX_WEIGHT_STEPS], w /
    SCORE_STEP; or float64, such weights divided by a cost: then gains are compared as w² · m² in float64, where a
    product never rises as m falls, and has the same bits on any machine. Gives every row once. Gain: weight times
    distance on the unit sphere; None for the first pick, which has no chosen row to be far from. A row that equals a
    chosen one has gain 0 and comes at the end, by row.

    given: distinct rows that are chosen already. They stand as centres and are not given out, so the first pick has a
    gain too. Of `state`, the first picks that a row has been compared with are they; `saved` has the picks after them.

    State, int32 [n]: `seen`, the number of picks a row has been compared with, and `nearest`, its squared grid distance
    to the nearest of those. Standing is made from `nearest`: the gain where every pick was seen, else an upper bound of
    it, which is at most the gain of the last pick. Both depend on the picks alone, not on where the order was stopped.
    With groups (`Pool.groups`) that are closed at times, a bound may be above the gain of the last pick.
    """
    if groups is not None:
        return _FarthestFirstByGroup(vectors, weight_steps, saved, sizes or Sizes(), given, groups)
    return FarthestFirst(vectors, weight_steps, saved, sizes or Sizes(), given)


class FarthestFirst(Order):
    """The order of `farthest_first`.

    distance_count: distances that this object computed; round_count: rounds it made; both for benchmarks. The active
    rows are no part of the state: they are exactly the rows that have seen the last pick.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        weight_steps: np.ndarray,
        saved: SavedOrder | None,
        sizes: Sizes,
        given: Sequence[int] = (),
    ) -> None:
        n = len(vectors)
        self.distance_count = self.round_count = 0
        self._sizes = sizes
        self._grid, self._scale = round_unit_vectors(vectors)
        self._squared_lengths = np.einsum("ij,ij->i", self._grid, self._grid).astype(np.int32)
        self._weight_steps = weight_steps
        self._squared_weights = weight_steps * weight_steps
        self._nearest = np.full(n, np.iinfo(np.int32).max, dtype=np.int32)  # at most 2^26 after the first pick
        self._seen = np.zeros(n, dtype=np.int32)
        self._is_picked = np.zeros(n, dtype=bool)
        self._picks = np.empty(n, dtype=np.int32)
        self._pick_count = 0
        self._last_pick_is_unseen = False  # by the active rows
        self._active = _ActiveRows(self, np.empty(0, dtype=np.int64), 0)
        self._best_inactive = _NO_ROW
        self._shortlist = np.empty(0, dtype=np.int64)  # ascending
        self._best_unlisted: _RankKey | None = None  # best row outside the shortlist; None: no shortlist yet
        saved_picks = [] if saved is None else [pick.row for pick in saved.picks]
        if given or saved_picks:
            self._pick_count = len(given) + len(saved_picks)
            self._picks[: self._pick_count] = [*given, *saved_picks]
            self._is_picked[self._picks[: self._pick_count]] = True
        if saved is not None and saved_picks:
            self._nearest[:], self._seen[:] = saved.state["nearest"], saved.state["seen"]
            self._activate_rows_of_state()
        elif given:
            self._show_first_pick()

    def __next__(self) -> Pick:
        if self._pick_count == len(self._is_picked):
            raise StopIteration
        if self._pick_count == 0:
            row, gain = self._find_first(), None
        else:
            self._show_last_pick()
            row, nearest = self._find_best()
            gain = float(self._gain(self._weight_steps[row], nearest))
        self._picks[self._pick_count] = row
        self._is_picked[row] = True
        self._pick_count += 1
        self._last_pick_is_unseen = True
        return Pick(row, gain, None)

    def state(self) -> dict[str, np.ndarray]:
        """As `Order.state`: `seen` and `nearest`."""
        self._show_last_pick()
        self._active.store()
        return {"nearest": self._nearest.copy(), "seen": self._seen.copy()}

    def standing(self) -> np.ndarray:
        """As `Order.standing`; a bound where `seen` is less than the number of picks."""
        if self._pick_count == 0:
            return np.full(len(self._is_picked), np.nan)
        self._show_last_pick()
        self._active.store()
        standing = self._gain(self._weight_steps, self._nearest)
        standing[self._is_picked] = np.nan
        return standing

    def _show_last_pick(self) -> None:
        """Compare the active rows with the last pick, if they have not seen it yet."""
        if not self._last_pick_is_unseen:
            return
        self._last_pick_is_unseen = False
        row = int(self._picks[self._pick_count - 1])
        if self._pick_count == 1:
            self._show_first_pick()
        elif len(self._active.rows):
            rows_ahead = self._active.rows_ahead_of(self._best_inactive)
            if 2 * len(rows_ahead) < len(self._active.rows):  # rows that fell behind would only cost time
                self._active.store()
                self._active = _ActiveRows(self, rows_ahead, self._active.seen)
            self._active.compare_with(row)

    def _show_first_pick(self) -> None:
        """Compare all rows with the first pick: one pass over the data gives useful bounds from the start."""
        row = int(self._picks[0])
        dots = (self._grid @ self._grid[row]).astype(np.int32)
        np.subtract(self._squared_lengths + self._squared_lengths[row], 2 * dots, out=self._nearest)
        self._seen[:] = 1
        self.distance_count += len(dots)
        self._activate_rows_of_state()

    def _activate_rows_of_state(self) -> None:
        """Make active the rows that, by the state, have seen every pick."""
        bounds = self._bounds(slice(None))
        up_to_date = np.flatnonzero(self._seen == self._pick_count)
        # After the first pick these are all rows, hence the limit; later they are only those that were active.
        if len(up_to_date) > self._sizes.active:
            up_to_date = up_to_date[_find_largest(bounds[up_to_date], self._sizes.active)[0]]
        self._active = _ActiveRows(self, up_to_date, self._pick_count)
        bounds[up_to_date] = -1
        self._best_inactive = _rank_key(bounds, None, int(np.argmax(bounds)))

    def _find_first(self) -> int:
        return int(np.argmax(self._weight_steps))

    def _find_best(self) -> tuple[int, np.int32]:
        """The next pick and its `nearest`."""
        while self._active.best() <= self._best_inactive:
            self._active.store()
            rows, self._best_inactive = self._find_candidates()
            if not (self._squared_weights[rows] * self._nearest[rows]).any():
                # No row has anything to gain, and no gain can fall further: the rest come by row, without comparisons.
                self._active = _ActiveRows(self, rows[:0], self._pick_count)
                return int(rows[0]), self._nearest[rows[0]]
            self._active = _ActiveRows(self, self._bring_up_to_date(rows), self._pick_count)
            self.round_count += 1
        at = int(np.argmax(self._active.bounds))
        return int(self._active.rows[at]), self._active.nearest[at]

    def _find_candidates(self) -> tuple[np.ndarray, _RankKey]:
        """The rows of largest bound that are not picked, `Sizes.active` of them, ascending; and the best of the others.

        The shortlist stands for all rows as long as enough of its rows are ahead of every row outside it.
        """
        while True:
            if self._best_unlisted is not None:
                bounds = self._bounds(self._shortlist)
                at, next_at = _find_largest(bounds, self._sizes.active)
                rows = self._shortlist[at]
                best_other = _rank_key(bounds, self._shortlist, next_at)
                if self._best_unlisted == _NO_ROW or best_other > self._best_unlisted:
                    return rows, max(best_other, self._best_unlisted)
            size = max(self._sizes.shortlist, len(self._is_picked) // 64, self._sizes.active + 1)
            bounds = self._bounds(slice(None))
            self._shortlist, next_at = _find_largest(bounds, size)
            self._best_unlisted = _rank_key(bounds, None, next_at)

    def _bring_up_to_date(self, rows: np.ndarray) -> np.ndarray:
        """Compare `rows` with the picks they have not seen; returns those still ahead of the best inactive row.

        A row is dropped as soon as it falls behind. It sees picks in their order, so one number says which it has seen.
        """
        nearest, seen = self._nearest[rows], self._seen[rows]
        vectors, lengths, weights = self._grid[rows], self._squared_lengths[rows], self._squared_weights[rows]
        ahead = np.arange(len(rows))
        while len(ahead) and (first := int(seen[ahead].min())) < self._pick_count:
            last = min(first + self._sizes.picks, self._pick_count)
            behind_last = ahead[seen[ahead] < last]
            picks = self._picks[first:last]
            # float32 holds the dot products exactly, but not the distances.
            distances = (self._grid[picks] @ vectors[behind_last].T).astype(np.int32)
            distances *= -2
            distances += self._squared_lengths[picks][:, None]
            nearest[behind_last] = np.minimum(nearest[behind_last], distances.min(axis=0) + lengths[behind_last])
            seen[behind_last] = last
            self.distance_count += distances.size
            ahead = ahead[_is_ahead(weights[ahead] * nearest[ahead], rows[ahead], self._best_inactive)]
        self._nearest[rows], self._seen[rows] = nearest, seen
        return rows[ahead]

    def _bounds(self, rows: np.ndarray | slice) -> np.ndarray:
        """w²·m², m the distance to the nearest pick seen, in the weights' type; -1 for picked rows."""
        bounds = np.asarray(self._squared_weights[rows] * self._nearest[rows])
        bounds[self._is_picked[rows]] = -1
        return bounds

    def _gain(self, weight_steps: np.ndarray, nearest: np.ndarray | np.int32) -> np.ndarray:
        """One formula for one pick and for all rows, so that both have the same bits."""
        return np.asarray(weight_steps * SCORE_STEP * np.sqrt(nearest) / self._scale)


class _FarthestFirstByGroup(FarthestFirst):
    """The order where some groups are closed at times. No row is active: each pick looks at the bounds of all rows.

    It compares rows of largest bound with the picks that they have not seen until the best is known. That is O(n) for a
    pick beside the distances; which rows are open changes with nearly every pick, and a shortlist would not live long.
    """

    _FEW = 64  # rows compared at first, doubled up to `Sizes.active`

    def __init__(
        self,
        vectors: np.ndarray,
        weight_steps: np.ndarray,
        saved: SavedOrder | None,
        sizes: Sizes,
        given: Sequence[int],
        groups: np.ndarray,
    ) -> None:
        self._groups = groups
        super().__init__(vectors, weight_steps, saved, sizes, given)

    def _show_last_pick(self) -> None:
        if self._pick_count == 1 and self._last_pick_is_unseen:
            self._show_first_pick()
        self._last_pick_is_unseen = False

    def _activate_rows_of_state(self) -> None:
        pass

    def _find_first(self) -> int:
        weights = self._open(self._weight_steps)
        row = int(np.argmax(weights))
        if weights[row] < 0:
            raise StopIteration
        return row

    def _find_best(self) -> tuple[int, np.int32]:
        bounds, count = self._open(self._bounds(slice(None))), self._FEW
        while True:
            row = int(np.argmax(bounds))
            if bounds[row] < 0:
                raise StopIteration
            if bounds[row] == 0 or self._seen[row] == self._pick_count:
                return row, self._nearest[row]
            rows, next_at = _find_largest(bounds, count)
            self._best_inactive = _rank_key(bounds, None, next_at)
            self._bring_up_to_date(rows)
            bounds[rows] = self._bounds(rows)
            count = min(2 * count, self._sizes.active)
            self.round_count += 1

    def _open(self, values: np.ndarray) -> np.ndarray:
        """`values`, -1 where the row's group is closed."""
        is_open = open_rows(self._groups, self.open_groups)
        return values if is_open is None else np.where(is_open, values, -1)


class _ActiveRows:
    """Rows of an order, ascending, that have all seen the first `seen` picks, with copies of what comparing needs."""

    def __init__(self, order: FarthestFirst, rows: np.ndarray, seen: int) -> None:
        self._order = order
        self.rows = rows
        self.seen = seen
        self._vectors = order._grid[rows]
        self._lengths = order._squared_lengths[rows]
        self._weights = order._squared_weights[rows]
        self.nearest = order._nearest[rows]
        self.bounds = order._bounds(rows)

    def best(self) -> _RankKey:
        return _rank_key(self.bounds, self.rows, int(np.argmax(self.bounds))) if len(self.rows) else _NO_ROW

    def rows_ahead_of(self, other: _RankKey) -> np.ndarray:
        return np.asarray(self.rows[_is_ahead(self.bounds, self.rows, other)])

    def compare_with(self, pick: int) -> None:
        """Lower `nearest` and `bounds` by the distance to the pick."""
        order = self._order
        self.seen += 1
        distances = (self._vectors @ order._grid[pick]).astype(np.int32)
        distances *= -2
        distances += self._lengths + order._squared_lengths[pick]
        order.distance_count += len(distances)
        np.minimum(self.nearest, distances, out=self.nearest)
        np.multiply(self._weights, self.nearest, out=self.bounds)
        self.bounds[order._is_picked[self.rows]] = -1

    def store(self) -> None:
        """Copy what the rows have seen back into the order's arrays."""
        self._order._nearest[self.rows] = self.nearest
        self._order._seen[self.rows] = self.seen


def _rank_key(bounds: np.ndarray, rows: np.ndarray | None, at: int | None) -> _RankKey:
    """Of the row at position `at`; rows None: positions are rows. Below every row where `at` is None or picked."""
    if at is None or bounds[at] < 0:
        return _NO_ROW
    return bounds[at].item(), -(at if rows is None else int(rows[at]))


def _is_ahead(bounds: np.ndarray, rows: np.ndarray, other: _RankKey) -> np.ndarray:
    """Boolean [rows]: whether each is picked before `other`."""
    return np.asarray((bounds > other[0]) | ((bounds == other[0]) & (rows < -other[1])))


def _find_largest(bounds: np.ndarray, count: int) -> tuple[np.ndarray, int | None]:
    """(positions of the `count` largest bounds, ascending, without picked rows; position of the next largest one).

    Of equal bounds the first comes first. The next one is None where there are no more than `count`.
    """
    if len(bounds) <= count:
        return np.flatnonzero(bounds >= 0), None
    smallest = np.partition(bounds, len(bounds) - count)[len(bounds) - count]
    above, tied = np.flatnonzero(bounds > smallest), np.flatnonzero(bounds == smallest)
    tied_count = count - len(above)
    at = np.union1d(above, tied[:tied_count])
    if len(tied) > tied_count:
        next_at = int(tied[tied_count])
    else:
        next_at = int(np.argmax(np.where(bounds < smallest, bounds, -2)))
    return at[bounds[at] >= 0], next_at
