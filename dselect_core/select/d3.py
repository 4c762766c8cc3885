"""D3's weighted coreset: greedy farthest-first over unit vectors, weighted by difficulty times dependability.

Source: D3 (arXiv 2503.11441), step 4; Euclidean distance over vectors brought to unit length, and the rounding, are
[ours]. With all weights one it is the k-center greedy (Gonzalez). One matrix-vector product per pick and O(n) memory:
simple and exact, at k·n·d multiplications. Kept are the distances to the nearest chosen row, so continuing pays for
the new picks alone.
"""

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.select.grid import SCORE_STEP, round_unit_vectors
from dselect_core.select.kept import Kept
from dselect_core.select.pool import Order, Pick, Pool

MOST_STEPS = 2**18
"""Largest weight, in steps of the score grid (so 4.0): its square times a squared grid distance still fits int64."""


def d3_order(pool: Pool, seed: int, kept: Kept | None = None) -> Order:
    """Order by `w_i · m_i` with `w = upd · grade` rounded to the score grid; `seed` is not used.

    Raises DselectError where upd · grade is outside [0, 4]; both are at most 1 by definition.
    """
    assert pool.embeddings is not None
    return farthest_first(pool.embeddings, d3_weight_steps(pool), kept)


def d3_weight_steps(pool: Pool) -> np.ndarray:
    """`upd · grade` in steps of the score grid, int64 [n]; only the product is rounded. Raises as `d3_order`."""
    weights = pool.scores["upd"].to_numpy().astype(np.float64) * pool.scores["grade"].to_numpy()
    steps = np.rint(weights / SCORE_STEP)
    wrong = np.flatnonzero((steps < 0) | (steps > MOST_STEPS))
    if len(wrong):
        raise DselectError(
            f"sample {pool.sample_ids[int(wrong[0])]}: upd · grade is {weights[wrong[0]]:g}, but upd and grade lie in "
            f"[0, 1]; have the scores made again"
        )
    return np.asarray(steps.astype(np.int64))


def farthest_first(vectors: np.ndarray, weight_steps: np.ndarray, kept: Kept | None = None) -> Order:
    """First `argmax w`, then `argmax w_i · min over chosen j of ‖e_i - e_j‖`; ties to the lowest row.

    vectors: [n, d], usable rows (`grid.usable_vectors`); weight_steps: int64 [n] in [0, MOST_STEPS], w / SCORE_STEP.
    Gives every row once. Gain: weight times distance on the unit sphere; null for the first pick, which has no chosen
    sample to be far from. A row that repeats a chosen one has gain 0 and comes at the end, by row.
    Compares w²·m² in integers, so equal gains are equal and no square root or rounding breaks a tie.
    """
    return _FarthestFirst(vectors, weight_steps, kept)


class _FarthestFirst(Order):
    def __init__(self, vectors: np.ndarray, weight_steps: np.ndarray, kept: Kept | None) -> None:
        n = len(vectors)
        self._grid, self._scale = round_unit_vectors(vectors)
        self._squared_lengths = np.einsum("ij,ij->i", self._grid, self._grid).astype(np.int64)
        self._weight_steps = weight_steps
        self._squared_weights = weight_steps * weight_steps
        self._nearest = np.full(n, np.iinfo(np.int64).max)  # squared grid distance to the nearest chosen, at most 2^26
        self._taken = np.zeros(n, dtype=bool)
        self._made = 0
        self._unmeasured: int | None = None  # the last pick, until its distances are needed
        if kept is not None and kept.picks:
            self._nearest[:] = kept.state["nearest"]
            self._taken[[pick.row for pick in kept.picks]] = True
            self._made = len(kept.picks)

    def __next__(self) -> Pick:
        if self._made == len(self._taken):
            raise StopIteration
        if self._made == 0:
            row, gain = int(np.argmax(self._weight_steps)), None
        else:
            self._measure()
            squared_gains = self._squared_weights * self._nearest
            squared_gains[self._taken] = -1
            row = int(np.argmax(squared_gains))
            gain = float(self._gains(row))
        self._taken[row] = True
        self._made += 1
        self._unmeasured = row
        return Pick(row, gain, None)

    def state(self) -> dict[str, np.ndarray]:
        self._measure()
        return {"nearest": self._nearest.copy()}

    def standing(self) -> np.ndarray:
        if self._made == 0:
            return np.full(len(self._taken), np.nan)
        self._measure()
        standing = self._gains(slice(None))
        standing[self._taken] = np.nan
        return standing

    def _measure(self) -> None:
        """Count the last pick among the chosen."""
        if self._unmeasured is None:
            return
        row, self._unmeasured = self._unmeasured, None
        # float32 holds the dot product exactly, but not the distance.
        dots = (self._grid @ self._grid[row]).astype(np.int64)
        distances = self._squared_lengths + self._squared_lengths[row] - 2 * dots
        np.minimum(self._nearest, distances, out=self._nearest)

    def _gains(self, rows: int | slice) -> np.ndarray:
        """One formula for a pick and for all rows: the same bits either way."""
        return np.asarray(self._weight_steps[rows] * SCORE_STEP * np.sqrt(self._nearest[rows]) / self._scale)
