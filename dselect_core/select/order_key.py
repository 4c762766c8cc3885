"""The key of an order: a hash of all that the order depends on, and of nothing else.

Not the budget: it only cuts. Scores count as rounded to the grid the strategy compares on, so a change below the grid,
which moves no pick, moves no key. Vectors and neurons count byte for byte: hashing is far cheaper than rounding them,
and a new embedding that differs anywhere is nearly always another one anyway.
"""

from collections.abc import Iterator

import numpy as np

from dselect_core.fingerprint import digest
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.strategies import strategy
from dselect_core.select.strategy import Strategy

ORDER_REVISION = 2
"""Goes up with any change of a strategy's picks, gains, standing or state, or of what the saved table holds."""

_BLOCK = 16_384  # rows hashed at a time: bounds the memory; part of the key, so it stays


def order_key(pool: Pool, chosen: Strategy | str, seed: int) -> str:
    """128-bit hex. pool: what the strategy sees, so no sample that lacks anything it needs.

    chosen: with its options in force; a name has them as they are by default. Raises DselectError as the strategy's
    order does.
    """
    return digest(_fields(pool, strategy(chosen) if isinstance(chosen, str) else chosen, seed))


def _fields(pool: Pool, chosen: Strategy, seed: int) -> Iterator[str | bytes]:
    yield f"order {ORDER_REVISION}"
    yield chosen.name
    if chosen.seeded:
        yield f"seed {seed}"
    for option, value in sorted(chosen.options.items()):
        yield f"{option} {value}"
    yield f"{len(pool)} samples"
    yield from pool.sample_ids
    if chosen.values is not None:
        yield from _array(chosen.values(pool))
    for kind, array in (("embeddings", pool.embeddings), ("activations", pool.neurons)):
        if kind in chosen.needs:
            assert array is not None
            yield from _array(array)


def _array(array: np.ndarray) -> Iterator[str | bytes]:
    yield f"{array.dtype.str} {array.shape}"
    for start in range(0, len(array), _BLOCK):
        yield array[start : start + _BLOCK].tobytes()  # in C order, whatever the array's own
