"""D3's weighted coreset: greedy farthest-first over unit vectors, weighted by difficulty times dependability.

Source: D3 (arXiv 2503.11441), step 4; its shape is from the paper and second sources, its exact form is [ours], and so
are the Euclidean distance over unit vectors and the rounding. How the order is made and continued: farthest_first.py.
"""

from collections.abc import Sequence

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.farthest_first import MAX_WEIGHT_STEPS, FarthestFirst, farthest_first
from dselect_core.select.gain_per_token import PER_TOKEN, response_tokens
from dselect_core.select.length_correction import LENGTH_CORRECTED
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy
from dselect_core.select.whitening import WHITEN


def d3_order(
    pool: Pool, seed: int, saved: SavedOrder | None = None, per: str | None = None, given: Sequence[int] = ()
) -> FarthestFirst:
    """First `argmax w_i`, then `argmax w_i · m_i`, m_i the distance to the nearest pick; `seed` is not used.

    per: "token" divides each weight by the row's response tokens. given: as in `farthest_first`.
    `w = upd · grade`, rounded to the score grid. Raises DselectError where it is outside [0, 4]; upd and grade are at
    most 1 by definition.
    """
    assert pool.embeddings is not None
    weight_steps = d3_weight_steps(pool)
    if per == "token":
        weight_steps = weight_steps / response_tokens(pool)
    return farthest_first(pool.embeddings, weight_steps, saved, given=given, groups=pool.groups)


def d3_weight_steps(pool: Pool) -> np.ndarray:
    """`upd · grade` in steps of the score grid, int64 [n]; only the product is rounded. Raises as `d3_order`."""
    weights = pool.scores["upd"].to_numpy().astype(np.float64) * pool.scores["grade"].to_numpy()
    steps = np.rint(weights / SCORE_STEP)
    out_of_range = np.flatnonzero((steps < 0) | (steps > MAX_WEIGHT_STEPS))
    if len(out_of_range):
        row = int(out_of_range[0])
        raise DselectError(
            f"sample {pool.sample_ids[row]}: upd · grade is {weights[row]:g}, but upd and grade lie in "
            f"[0, 1]; have the scores made again"
        )
    return np.asarray(steps.astype(np.int64))


D3 = Strategy(
    name="d3",
    description="difficult, well answered, far apart: D3",
    needs=frozenset({"embeddings", "difficulty", "grades"}),
    columns=("upd", "grade"),
    order=d3_order,
    values=d3_weight_steps,
    options={"length_corrected": LENGTH_CORRECTED, "per": PER_TOKEN, "whiten": WHITEN},
    ranks_by="upd",
    rises_with=frozenset({"grade"}),
    by_group=True,
)
