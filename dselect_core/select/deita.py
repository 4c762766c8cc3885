"""DEITA: score first, diversity aware. Rows by score, highest first; one too alike to a chosen row is passed over.

Source: DEITA (arXiv 2312.15685), the filter as in its code: passed over is a row whose cosine to some chosen one is
above the threshold. DEITA's complexity times quality needs its own two scorers; here `upd · grade`, the weight of D3,
stands for it [ours]. Cosines are those of vectors on the grid (rounding.py), compared exactly, so the set does not
depend on blocks or machines.

Rows go through in blocks: one matrix product against the chosen, one inside the block. What is passed over never comes,
so the order may end before the pool does. The state names, for each row passed over, the chosen row in its way.
"""

from collections import deque

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.d3 import d3_weight_steps
from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Option, Strategy

THRESHOLD = 0.9
"""DEITA's own."""

_BLOCK = 512  # rows that go through at a time: bounds the memory, changes no value
_CHOSEN = 4_096  # chosen rows compared at a time


def deita_order(pool: Pool, seed: int, saved: SavedOrder | None = None, threshold: float = THRESHOLD) -> Order:
    """`score_first` by `upd · grade` on the score grid; `seed` is not used. Raises DselectError as `d3_order` does."""
    assert pool.embeddings is not None
    return score_first(pool.embeddings, d3_weight_steps(pool), threshold, saved)


def score_first(
    vectors: np.ndarray, score_steps: np.ndarray, threshold: float, saved: SavedOrder | None = None
) -> Order:
    """Rows by score, highest first, ties to the lowest row; none whose cosine to an earlier one is above `threshold`.

    vectors: [n, d], usable rows (`rounding.usable_vectors`); score_steps: int64 [n], score / SCORE_STEP; threshold: in
    (0, 1]; at 1 every row comes. Gain: the score. State `too_alike`: int64 [n], of each row passed over before the pick
    that comes next, the first chosen row with a cosine above the threshold; -1 for the others. Standing is NaN there.
    """
    return _ScoreFirst(vectors, score_steps, threshold, saved)


class _ScoreFirst(Order):
    def __init__(
        self, vectors: np.ndarray, score_steps: np.ndarray, threshold: float, saved: SavedOrder | None
    ) -> None:
        n = len(vectors)
        self._grid, _ = round_unit_vectors(vectors)
        self._lengths = np.einsum("ij,ij->i", self._grid, self._grid)  # squared, at most 2^24
        self._scores = score_steps * SCORE_STEP
        self._sorted = np.argsort(-score_steps, kind="stable")
        self._place = np.empty(n, dtype=np.int64)
        self._place[self._sorted] = np.arange(n)
        self._threshold = threshold
        # No cosine above the threshold has a smaller dot product than this: the few that pass are looked at exactly.
        self._least = np.float32(threshold * float(self._lengths.min())) if n else np.float32(0)
        self._taken = np.zeros(n, dtype=bool)
        self._too_alike = np.full(n, -1, dtype=np.int64)  # of all rows that went through
        self._chosen = np.empty((0, vectors.shape[1]), dtype=np.float32)  # their vectors, with room for more
        self._chosen_rows: list[int] = []
        self._through = 0  # place of the first row that has not gone through
        self._next: deque[int] = deque()  # chosen, and not yet given out
        if saved is not None and saved.picks:
            picked = [pick.row for pick in saved.picks]
            self._taken[picked] = True
            self._too_alike[:] = saved.state["too_alike"]
            self._choose(np.array(picked))
            self._through = int(self._place[picked[-1]]) + 1

    def __next__(self) -> Pick:
        self._look_ahead()
        if not self._next:
            raise StopIteration
        row = self._next.popleft()
        self._taken[row] = True
        return Pick(row, float(self._scores[row]), None)

    def state(self) -> dict[str, np.ndarray]:
        return {"too_alike": np.where(self._place < self._reached(), self._too_alike, -1)}

    def standing(self) -> np.ndarray:
        passed = self._place < self._reached()  # all that is before the next pick was picked, or passed over
        return np.where(passed, np.nan, self._scores)

    def _reached(self) -> int:
        """Place of the next pick. A block goes through whole, but what is told is no more than the picks decide."""
        self._look_ahead()
        return int(self._place[self._next[0]]) if self._next else len(self._place)

    def _look_ahead(self) -> None:
        while not self._next and self._through < len(self._sorted):
            rows = self._sorted[self._through : self._through + _BLOCK]
            self._through += len(rows)
            rows = self._unlike_chosen(rows)
            rows = self._unlike_each_other(rows)
            self._choose(rows)
            self._next.extend(rows.tolist())

    def _unlike_chosen(self, rows: np.ndarray) -> np.ndarray:
        for start in range(0, len(self._chosen_rows), _CHOSEN):
            chosen = np.array(self._chosen_rows[start : start + _CHOSEN])
            alike = self._alike(rows, self._chosen[start : start + len(chosen)], chosen)
            lost = alike.any(axis=1)
            self._too_alike[rows[lost]] = chosen[alike[lost].argmax(axis=1)]
            rows = rows[~lost]
        return rows

    def _unlike_each_other(self, rows: np.ndarray) -> np.ndarray:
        alike = self._alike(rows, self._grid[rows], rows)
        alone = np.ones(len(rows), dtype=bool)
        for at in np.flatnonzero(np.triu(alike, 1).any(axis=1)):
            if alone[at]:
                lost = at + 1 + np.flatnonzero(alike[at, at + 1 :] & alone[at + 1 :])
                self._too_alike[rows[lost]] = rows[at]
                alone[lost] = False
        return rows[alone]

    def _alike(self, rows: np.ndarray, vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Boolean [rows, others]: whether the cosine is above the threshold. vectors: those of `others`."""
        dots = self._grid[rows] @ vectors.T
        alike: np.ndarray = dots >= self._least
        at, other = np.nonzero(alike)
        # Whole numbers below 2^53, and one square root and one product rounded as IEEE 754 has it: the same anywhere.
        product = self._lengths[rows[at]].astype(np.float64) * self._lengths[others[other]]
        alike[at, other] = dots[at, other] > self._threshold * np.sqrt(product)
        return alike

    def _choose(self, rows: np.ndarray) -> None:
        held = len(self._chosen_rows)
        if held + len(rows) > len(self._chosen):
            room = np.empty((2 * (held + len(rows)), self._chosen.shape[1]), dtype=np.float32)
            room[:held] = self._chosen[:held]
            self._chosen = room
        self._chosen[held : held + len(rows)] = self._grid[rows]
        self._chosen_rows.extend(rows.tolist())


DEITA = Strategy(
    "deita",
    frozenset({"embeddings", "difficulty", "grades"}),
    ("upd", "grade"),
    deita_order,
    d3_weight_steps,
    declared={
        "threshold": Option(
            float,
            THRESHOLD,
            "deita: a row with a higher cosine to a chosen one is passed over; 0.9 by default",
            {"gt": 0, "le": 1},
        )
    },
    ends_early=True,
)
