"""D3's weighted coreset: greedy farthest-first over unit vectors, weighted by difficulty times dependability.

Source: D3 (arXiv 2503.11441), step 4; Euclidean distance over vectors brought to unit length, and the rounding, are
[ours]. How the order is made, and what is saved of it to continue: farthest_first.py.
"""

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.farthest_first import MOST_STEPS, farthest_first
from dselect_core.select.order import Order
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy


def d3_order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
    """Order by `w_i · m_i` with `w = upd · grade` rounded to the score grid; `seed` is not used.

    Raises DselectError where upd · grade is outside [0, 4]; both are at most 1 by definition.
    """
    assert pool.embeddings is not None
    return farthest_first(pool.embeddings, d3_weight_steps(pool), saved)


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


D3 = Strategy("d3", frozenset({"embeddings", "difficulty", "grades"}), ("upd", "grade"), d3_order, d3_weight_steps)
