"""The key of an order: a hash of all that the order depends on, and of nothing else.

The budget is no part of it: it only cuts. Scores count as rounded to the grid the strategy compares on, so a change
below the grid, which changes no pick, changes no key. Vectors and neurons count byte for byte: hashing is far cheaper
than rounding them, and a new embedding that differs anywhere nearly always rounds to another one too.
"""

from collections.abc import Iterator

import numpy as np

from dselect_core.fingerprint import digest
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.strategy import Strategy

ORDER_REVISION = 2
"""Goes up with any change of a strategy's picks, gains, standing or state, or of what the saved table holds."""

_BLOCK = 16_384  # rows hashed at a time: bounds the memory; part of the key, so it must not change


def order_key(pool: Pool, strategy: Strategy | str, seed: int, mixture: str | None = None) -> str:
    """128-bit hex.

    pool: what the strategy orders, so only samples that have everything it needs. strategy: with its option values, or
    a name for the default ones. mixture: its identity, where the pool has groups. Raises DselectError as the strategy's
    order does.
    """
    return digest(
        _fields(pool, strategies.strategy(strategy) if isinstance(strategy, str) else strategy, seed, mixture)
    )


def _fields(pool: Pool, strategy: Strategy, seed: int, mixture: str | None) -> Iterator[str | bytes]:
    yield f"order {ORDER_REVISION}"
    yield strategy.name
    if strategy.seeded:
        yield f"seed {seed}"
    for option, value in sorted(strategy.option_values.items()):
        yield f"{option} {value}"
    if strategy.decided_by_size is not None and (decided := strategy.decided_by_size(pool)) is not None:
        yield decided
    yield f"{len(pool)} samples"
    yield from pool.sample_ids
    if strategy.values is not None:
        yield from _array_fields(strategy.values(pool))
    for column in strategy.columns_of_options:
        yield from _array_fields(pool.scores[column].to_numpy().astype(np.int64))
    for name in strategy.array_fields.values():
        yield from _array_fields(getattr(pool, name))
    if strategy.target_kind is not None and pool.targets is not None:
        yield f"{len(pool.targets)} targets"
        yield from pool.targets.sample_ids
        yield from _array_fields(pool.targets.vectors)
    if pool.groups is not None:
        yield f"mixture {mixture}"
        yield from _array_fields(pool.groups)


def _array_fields(array: np.ndarray) -> Iterator[str | bytes]:
    yield f"{array.dtype.str} {array.shape}"
    for start in range(0, len(array), _BLOCK):
        yield array[start : start + _BLOCK].tobytes()  # in C order, whatever the array's own layout
