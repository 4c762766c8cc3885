"""D3's weighted coreset: greedy farthest-first over unit vectors, weighted by difficulty times dependability.

Source: D3 (arXiv 2503.11441), step 4; Euclidean distance over vectors brought to unit length, and the rounding, are
[ours]. With all weights one it is the k-center greedy (Gonzalez). One matrix-vector product per pick and O(n) memory:
simple and exact, at k·n·d multiplications.
"""

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.select.grid import SCORE_STEP, round_unit_vectors
from dselect_core.select.pool import Order, Pick, Pool

MOST_STEPS = 2**18
"""Largest weight, in steps of the score grid (so 4.0): its square times a squared grid distance still fits int64."""


def d3_order(pool: Pool, seed: int) -> Order:
    """Order by `w_i · m_i` with `w = upd · grade` rounded to the score grid; `seed` is not used.

    Raises DselectError where upd · grade is outside [0, 4]; both are at most 1 by definition.
    """
    assert pool.embeddings is not None
    weights = pool.scores["upd"].to_numpy().astype(np.float64) * pool.scores["grade"].to_numpy()
    steps = np.rint(weights / SCORE_STEP)
    wrong = np.flatnonzero((steps < 0) | (steps > MOST_STEPS))
    if len(wrong):
        raise DselectError(
            f"sample {pool.sample_ids[int(wrong[0])]}: upd · grade is {weights[wrong[0]]:g}, but upd and grade lie in "
            f"[0, 1]; have the scores made again"
        )
    return farthest_first(pool.embeddings, steps.astype(np.int64))


def farthest_first(vectors: np.ndarray, weight_steps: np.ndarray) -> Order:
    """First `argmax w`, then `argmax w_i · min over chosen j of ‖e_i - e_j‖`; ties to the lowest row.

    vectors: [n, d], usable rows (`grid.usable_vectors`); weight_steps: int64 [n] in [0, MOST_STEPS], w / SCORE_STEP.
    Yields every row once. Gain: weight times distance on the unit sphere; null for the first pick, which has no chosen
    sample to be far from. A row that repeats a chosen one has gain 0 and comes at the end, by row.
    Compares w²·m² in integers, so equal gains are equal and no square root or rounding breaks a tie.
    """
    n = len(vectors)
    if n == 0:
        return
    grid, scale = round_unit_vectors(vectors)
    squared_lengths = np.einsum("ij,ij->i", grid, grid).astype(np.int64)
    squared_weights = weight_steps * weight_steps
    nearest = np.full(n, np.iinfo(np.int64).max)  # squared grid distance to the nearest chosen row, at most 2^26
    taken = np.zeros(n, dtype=bool)
    row = int(np.argmax(weight_steps))
    gain = None
    for _ in range(n):
        yield Pick(row, gain, None)
        taken[row] = True
        # float32 holds the dot product exactly, but not the distance.
        dots = (grid @ grid[row]).astype(np.int64)
        np.minimum(nearest, squared_lengths + squared_lengths[row] - 2 * dots, out=nearest)
        squared_gains = squared_weights * nearest
        squared_gains[taken] = -1
        row = int(np.argmax(squared_gains))
        gain = float(weight_steps[row] * SCORE_STEP * np.sqrt(nearest[row]) / scale)
