"""The baseline that every strategy has to beat: a seeded random draw."""

from dselect_core.fingerprint import digest
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy
from dselect_core.select.top_k import SortedOrder


def random_order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
    """Rows by the hash of (seed, sample id); gain is null.

    A sample's place depends on nothing but its id and the seed: a pool that grows or shrinks keeps the relative order
    of the samples that stay.
    """
    keys = [digest([str(seed), sample_id]) for sample_id in pool.sample_ids]
    return SortedOrder(sorted(range(len(keys)), key=keys.__getitem__), None, saved)


RANDOM = Strategy("random", frozenset(), (), random_order, seeded=True)
