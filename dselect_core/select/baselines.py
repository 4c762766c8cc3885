"""Baselines a method has to beat: seeded random, and k-center (diversity alone)."""

import numpy as np

from dselect_core.fingerprint import digest
from dselect_core.select.farthest_first import farthest_first
from dselect_core.select.order import Order, Pool
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.saved_order import Kept
from dselect_core.select.top_k import SortedOrder


def random_order(pool: Pool, seed: int, kept: Kept | None = None) -> Order:
    """Rows by the hash of (seed, sample id); gain is null.

    A sample's place depends on nothing but its id and the seed: a pool that grows or shrinks keeps the relative order
    of the samples that stay.
    """
    keys = [digest([str(seed), sample_id]) for sample_id in pool.sample_ids]
    return SortedOrder(sorted(range(len(keys)), key=keys.__getitem__), None, kept)


def kcenter_order(pool: Pool, seed: int, kept: Kept | None = None) -> Order:
    """D3's order with every weight one: farthest-first from the lowest sample id; `seed` is not used."""
    assert pool.embeddings is not None
    return farthest_first(pool.embeddings, np.full(len(pool), round(1 / SCORE_STEP)), kept)
