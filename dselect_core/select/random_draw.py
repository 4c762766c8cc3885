"""A seeded random draw: the baseline that every strategy has to beat."""

from dselect_core.fingerprint import digest
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy
from dselect_core.select.top_k import SortedOrder


def random_order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
    """Rows by the hash of (seed, sample id); gain is null.

    A sample's hash depends on its id and the seed alone: when the pool grows or shrinks, the samples that stay keep
    their relative order.
    """
    hashes = [digest([str(seed), sample_id]) for sample_id in pool.sample_ids]
    return SortedOrder(sorted(range(len(hashes)), key=hashes.__getitem__), None, saved, pool.groups)


RANDOM = Strategy(
    name="random",
    description="a seeded draw: the baseline",
    needs=frozenset(),
    columns=(),
    order=random_order,
    seeded=True,
    by_group=True,
)
