"""DEITA: highest score first, and a row too similar to a chosen one is passed over.

Source: DEITA (arXiv 2312.15685); the filter is that of its code [second source]: a row is passed over if its cosine to
some chosen row is above the threshold. DEITA multiplies complexity and quality, from two scorers of its own; here the
score is `upd · grade`, the weight of D3 [ours]. Cosines are those of vectors on the grid (rounding.py), compared
exactly, so the chosen set does not depend on blocks or machines.

Rows are filtered in blocks: one matrix product with the chosen rows, one inside the block. A row that is passed over is
never picked, so the order may end before the pool does. The state names the chosen row that each of them is too similar
to.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.d3 import d3_weight_steps
from dselect_core.select.length_correction import LENGTH_CORRECTED
from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Option, Strategy

THRESHOLD = 0.9
"""The default of DEITA's own code."""

_BLOCK = 512  # rows filtered at a time: bounds the memory, changes no value
_CHOSEN_BLOCK = 4_096  # chosen rows compared at a time: the same


def deita_order(pool: Pool, seed: int, saved: SavedOrder | None = None, threshold: float = THRESHOLD) -> Order:
    """`score_first` by `upd · grade` on the score grid; `seed` is not used. Raises DselectError as `d3_order` does."""
    assert pool.embeddings is not None
    return score_first(pool.embeddings, d3_weight_steps(pool), threshold, saved, pool.groups)


def score_first(
    vectors: np.ndarray,
    score_steps: np.ndarray,
    threshold: float,
    saved: SavedOrder | None = None,
    groups: np.ndarray | None = None,
) -> Order:
    """Rows by score, highest first, ties to the lowest row; none whose cosine to an earlier pick is above `threshold`.

    vectors: [n, d], usable rows (`rounding.usable_vectors`); score_steps: int64 [n], score / SCORE_STEP; threshold: in
    (0, 1]; at 1 every row is picked. Gain: the score. State `too_alike`: int64 [n]; for each row passed over before the
    next pick, the first pick whose cosine to it is above the threshold; -1 for the others. Standing is NaN for rows
    passed over. With groups all this holds for each of them: a row is before or after the next pick of its group.
    """
    if groups is not None:
        return _ScoreFirstByGroup(vectors, score_steps, threshold, saved, groups)
    return _ScoreFirst(vectors, score_steps, threshold, saved)


class _ScoreFirst(Order):
    def __init__(
        self, vectors: np.ndarray, score_steps: np.ndarray, threshold: float, saved: SavedOrder | None
    ) -> None:
        n = len(vectors)
        self._grid, _ = round_unit_vectors(vectors)
        self._squared_lengths = np.einsum("ij,ij->i", self._grid, self._grid)  # at most 2^24
        self._scores = score_steps * SCORE_STEP
        self._by_score = np.argsort(-score_steps, kind="stable")
        self._position = np.empty(n, dtype=np.int64)  # of each row in `_by_score`
        self._position[self._by_score] = np.arange(n)
        self._threshold = threshold
        # No pair above the threshold has a smaller dot product: only pairs that reach it are compared exactly.
        self._min_dot = np.float32(threshold * float(self._squared_lengths.min())) if n else np.float32(0)
        self._is_picked = np.zeros(n, dtype=bool)
        self._too_alike = np.full(n, -1, dtype=np.int64)  # of all rows filtered so far
        self._chosen_rows: list[int] = []
        self._chosen_vectors = np.empty((0, vectors.shape[1]), dtype=np.float32)  # grown ahead of need
        self._filtered_count = 0  # rows of `_by_score` filtered so far
        self._pending: deque[int] = deque()  # chosen, but not given out yet
        if saved is not None and saved.picks:
            picked_rows = [pick.row for pick in saved.picks]
            self._is_picked[picked_rows] = True
            self._too_alike[:] = saved.state["too_alike"]
            self._choose(np.array(picked_rows))
            self._filtered_count = int(self._position[picked_rows[-1]]) + 1

    def __next__(self) -> Pick:
        self._filter_until_pending()
        if not self._pending:
            raise StopIteration
        row = self._pending.popleft()
        self._is_picked[row] = True
        return Pick(row, float(self._scores[row]), None)

    def state(self) -> dict[str, np.ndarray]:
        return {"too_alike": np.where(self._position < self._next_position(), self._too_alike, -1)}

    def standing(self) -> np.ndarray:
        is_decided = self._position < self._next_position()  # each row before the next pick is picked or passed over
        return np.where(is_decided, np.nan, self._scores)

    def _next_position(self) -> int:
        """Position of the next pick. A block is filtered whole, but only the rows before this one count as decided."""
        self._filter_until_pending()
        return int(self._position[self._pending[0]]) if self._pending else len(self._position)

    def _filter_until_pending(self) -> None:
        while not self._pending and self._filtered_count < len(self._by_score):
            rows = self._by_score[self._filtered_count : self._filtered_count + _BLOCK]
            self._filtered_count += len(rows)
            rows = self._filter_by_chosen(rows)
            rows = self._filter_by_each_other(rows)
            self._choose(rows)
            self._pending.extend(rows.tolist())

    def _filter_by_chosen(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        for start in range(first, len(self._chosen_rows), _CHOSEN_BLOCK):
            chosen = np.array(self._chosen_rows[start : start + _CHOSEN_BLOCK])
            is_alike = self._is_too_alike(rows, self._chosen_vectors[start : start + len(chosen)], chosen)
            passed_over = is_alike.any(axis=1)
            self._too_alike[rows[passed_over]] = chosen[is_alike[passed_over].argmax(axis=1)]
            rows = rows[~passed_over]
        return rows

    def _filter_by_each_other(self, rows: np.ndarray) -> np.ndarray:
        is_alike = self._is_too_alike(rows, self._grid[rows], rows)
        stays = np.ones(len(rows), dtype=bool)
        for at in np.flatnonzero(np.triu(is_alike, 1).any(axis=1)):
            if stays[at]:
                passed_over = at + 1 + np.flatnonzero(is_alike[at, at + 1 :] & stays[at + 1 :])
                self._too_alike[rows[passed_over]] = rows[at]
                stays[passed_over] = False
        return rows[stays]

    def _is_too_alike(self, rows: np.ndarray, vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Boolean [rows, others]: whether the cosine is above the threshold. vectors: grid[others]."""
        dots = self._grid[rows] @ vectors.T
        is_alike: np.ndarray = dots >= self._min_dot
        row_at, other_at = np.nonzero(is_alike)
        # Integers below 2^53, then one product and one square root, which IEEE 754 rounds the same on any machine.
        product = self._squared_lengths[rows[row_at]].astype(np.float64) * self._squared_lengths[others[other_at]]
        is_alike[row_at, other_at] = dots[row_at, other_at] > self._threshold * np.sqrt(product)
        return is_alike

    def _choose(self, rows: np.ndarray) -> None:
        count = len(self._chosen_rows)
        if count + len(rows) > len(self._chosen_vectors):
            larger = np.empty((2 * (count + len(rows)), self._chosen_vectors.shape[1]), dtype=np.float32)
            larger[:count] = self._chosen_vectors[:count]
            self._chosen_vectors = larger
        self._chosen_vectors[count : count + len(rows)] = self._grid[rows]
        self._chosen_rows.extend(rows.tolist())


class _ScoreFirstByGroup(_ScoreFirst):
    """Each group has a queue by score, of which a window is filtered by the picks, also by those of other groups.

    The head of a queue is its first row that may be picked. What is known of rows behind it is hidden: it depends on
    where the windows begin.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        score_steps: np.ndarray,
        threshold: float,
        saved: SavedOrder | None,
        groups: np.ndarray,
    ) -> None:
        super().__init__(vectors, score_steps, threshold, saved)
        count = int(groups.max(initial=-1)) + 1
        self._groups = groups
        is_left = ~self._is_picked & (self._too_alike < 0)
        self._queues = [
            self._by_score[(groups == group)[self._by_score] & is_left[self._by_score]] for group in range(count)
        ]
        self._windows = [_Window(queue[:0], 0) for queue in self._queues]

    def __next__(self) -> Pick:
        open_groups = [g for g in range(len(self._queues)) if self.open_groups is None or self.open_groups[g]]
        heads = [head for group in open_groups if (head := self._head(group)) is not None]
        if not heads:
            raise StopIteration
        row = min(heads, key=self._position.__getitem__)
        window = self._windows[self._groups[row]]
        window.rows = window.rows[1:]
        self._is_picked[row] = True
        self._choose(np.array([row]))
        return Pick(row, float(self._scores[row]), None)

    def state(self) -> dict[str, np.ndarray]:
        return {"too_alike": np.where(self._is_decided(), self._too_alike, -1)}

    def standing(self) -> np.ndarray:
        return np.where(self._is_decided(), np.nan, self._scores)

    def _is_decided(self) -> np.ndarray:
        """Boolean [n]: picked, or before the head of its group's queue."""
        heads = [self._head(group) for group in range(len(self._queues))]
        ends = np.array([len(self._position) if head is None else self._position[head] for head in heads])
        return np.asarray(self._position < ends[self._groups])

    def _head(self, group: int) -> int | None:
        window = self._windows[group]
        while True:
            if len(window.rows) and window.seen < len(self._chosen_rows):
                window.rows = self._filter_by_chosen(window.rows, window.seen)
            window.seen = len(self._chosen_rows)
            if len(window.rows):
                return int(window.rows[0])
            if not len(self._queues[group]):
                return None
            window.rows, window.seen = self._queues[group][:_BLOCK], 0
            self._queues[group] = self._queues[group][_BLOCK:]


@dataclass
class _Window:
    """Rows of a queue that are not decided, but for what the first `seen` picks decide."""

    rows: np.ndarray
    seen: int


DEITA = Strategy(
    name="deita",
    description="highest upd · grade, without near-duplicates: DEITA",
    needs=frozenset({"embeddings", "difficulty", "grades"}),
    columns=("upd", "grade"),
    order=deita_order,
    values=d3_weight_steps,
    options={
        "length_corrected": LENGTH_CORRECTED,
        "threshold": Option(
            float,
            THRESHOLD,
            "deita: a row with a higher cosine to a chosen one is passed over; 0.9 by default",
            {"gt": 0, "le": 1},
        ),
    },
    ranks_by="upd",
    rises_with=frozenset({"grade"}),
    ends_early=True,
    by_group=True,
)
