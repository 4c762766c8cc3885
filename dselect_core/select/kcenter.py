"""K-center: diversity alone, D3's order with every weight one. A baseline; the greedy form is Gonzalez (1985)."""

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.farthest_first import farthest_first
from dselect_core.select.order import Order
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy
from dselect_core.select.whitening import WHITEN


def kcenter_order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
    """The lowest sample id, then `argmax m_i`, m_i the distance to the nearest pick; `seed` is not used."""
    assert pool.embeddings is not None
    return farthest_first(pool.embeddings, np.full(len(pool), round(1 / SCORE_STEP)), saved, groups=pool.groups)


KCENTER = Strategy(
    name="kcenter",
    description="far apart: a baseline",
    needs=frozenset({"embeddings"}),
    columns=(),
    order=kcenter_order,
    options={"whiten": WHITEN},
    by_group=True,
)
