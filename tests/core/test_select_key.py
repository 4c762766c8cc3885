"""The key of an order changes when and only when something changes that the order depends on."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.select import order_key as key_module
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order_key import order_key
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import select
from tests.core.test_select_orders import NAMES as WHOLE

NAMES = [*WHOLE, "deita"]

# From 0 in steps of 2^-3, so far from the middle of two steps of the grid.
SCORES = pl.DataFrame(
    {
        "sample_id": [f"{i:02d}" for i in range(20)],
        **{column: np.arange(20) % 8 / 8 for column in ("upd", "grade", "loss", "miwv")},
        "response_tokens": np.arange(20) % 7 + 1,
        "truncated": [False] * 20,
    }
)
EMBEDDINGS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
NEURONS = np.argsort(np.random.default_rng(1).random((20, 12)), axis=1)[:, :3].astype(np.uint32)
POOL = Pool(SCORES, EMBEDDINGS, NEURONS)
BELOW, ABOVE = 2.0**-20, 2.0**-10


def scores(column: str, by: float) -> Callable[[], Pool]:
    added = pl.when(pl.col("sample_id") == "05").then(by).otherwise(0.0)
    return lambda: Pool(SCORES.with_columns(pl.col(column) + added), EMBEDDINGS, NEURONS)


def vectors(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Pool]:
    return lambda: Pool(SCORES, change(EMBEDDINGS), NEURONS)


def neurons(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Pool]:
    return lambda: Pool(SCORES, EMBEDDINGS, change(NEURONS))


def nudged(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[3, 2] = 100 if array.dtype == np.uint32 else np.nextafter(array[3, 2], np.float32(9))
    return changed


ALL = set(NAMES)
OF_VECTORS = {"d3", "deita", "facility-location", "kcenter"}
# What changes, and for which strategies that is another order.
CHANGES = {
    "nothing": (lambda: POOL, set()),
    "an id": (lambda: Pool(SCORES.with_columns(pl.col("sample_id").replace("05", "05a")), EMBEDDINGS, NEURONS), ALL),
    "one row fewer": (lambda: POOL.take(np.arange(19)), ALL),
    "upd": (scores("upd", ABOVE), {"d3", "deita"}),
    "grade": (scores("grade", -ABOVE), {"d3", "deita"}),
    "miwv": (scores("miwv", ABOVE), {"miwv"}),
    "loss": (scores("loss", ABOVE), {"topk:loss"}),
    "response_tokens": (scores("response_tokens", 1), {"topk:response_tokens"}),
    "upd below the grid": (scores("upd", BELOW), set()),
    "miwv below the grid": (scores("miwv", -BELOW), set()),
    "loss below the grid": (scores("loss", BELOW), set()),
    "a zero below the grid": (
        lambda: Pool(SCORES.with_columns(pl.col("miwv").replace(0.0, -BELOW)), EMBEDDINGS, NEURONS),
        set(),
    ),
    "upd and grade, not their product": (
        lambda: Pool(SCORES.rename({"upd": "grade", "grade": "upd"}), EMBEDDINGS, NEURONS),
        set(),
    ),
    "a column that nobody reads": (
        lambda: Pool(SCORES.with_columns(truncated=True, other=1.0), EMBEDDINGS, NEURONS),
        set(),
    ),
    "the type of a score": (
        lambda: Pool(SCORES.with_columns(pl.col("upd", "grade", "loss", "miwv").cast(pl.Float32)), EMBEDDINGS, NEURONS),
        set(),
    ),
    "one bit of a vector": (vectors(nudged), OF_VECTORS),
    "the type of the vectors": (vectors(lambda a: a.astype(np.float64)), OF_VECTORS),
    "the width of the vectors": (vectors(lambda a: a.reshape(20, -1)[:, :5]), OF_VECTORS),
    "the layout of the vectors": (vectors(np.asfortranarray), set()),
    "a neuron": (neurons(nudged), {"mads"}),
    "the layout of the neurons": (neurons(np.asfortranarray), set()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_changes_with_the_input_and_only_then(change: str) -> None:
    make, expected = CHANGES[change]
    pool = make()
    assert {name for name in NAMES if order_key(pool, name, 0) != order_key(POOL, name, 0)} == expected


def test_no_two_strategies_share_one() -> None:
    assert len({order_key(POOL, name, 0) for name in [*NAMES, "topk:miwv"]}) == len(NAMES) + 1


def test_the_seed_counts_where_it_is_used() -> None:
    assert {name for name in NAMES if order_key(POOL, name, 0) != order_key(POOL, name, 1)} == {"random"}


@pytest.mark.parametrize(
    ("name", "option", "value"), [("deita", "threshold", 0.8), ("facility-location", "neighbors", 3)]
)
def test_the_options_count(name: str, option: str, value: float) -> None:
    chosen = strategies.strategy(name)
    assert order_key(POOL, chosen, 0) == order_key(POOL, chosen.with_given({option: None}), 0)
    assert order_key(POOL, chosen.with_given({option: value}), 0) != order_key(POOL, chosen, 0)
    of_default = chosen.with_given({option: chosen.option_values[option]})
    assert order_key(POOL, of_default, 0) == order_key(POOL, chosen, 0)  # said or not, it is the same order


def test_the_revision_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [order_key(POOL, name, 0) for name in NAMES]
    monkeypatch.setattr(key_module, "ORDER_REVISION", key_module.ORDER_REVISION + 1)
    assert not set(keys) & {order_key(POOL, name, 0) for name in NAMES}


def test_blocks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_module, "_BLOCK", 7)
    last = EMBEDDINGS.copy()
    last[19, 5] = 0
    assert order_key(POOL, "d3", 0) == order_key(Pool(SCORES, np.asfortranarray(EMBEDDINGS), None), "d3", 0)
    assert order_key(POOL, "d3", 0) != order_key(Pool(SCORES, last, None), "d3", 0)


def test_the_budget_does_not_count_but_what_it_leaves_out_does() -> None:
    keys: list[str] = []

    def key_of(pool: Pool, budget: str | int) -> str:
        select(pool, CoresetSpec(strategy="random", budget=budget), None, keys.append)
        return keys[-1]

    assert len({key_of(POOL, budget) for budget in (1, 5, "10%", "100%", "30 tokens")}) == 1
    unknown = Pool(SCORES.with_columns(pl.col("response_tokens").replace(3, None)))
    assert key_of(unknown, 5) == key_of(POOL, 5)
    assert key_of(unknown, "20 tokens") != key_of(unknown, 5)


def test_it_refuses_what_the_order_refuses() -> None:
    with pytest.raises(DselectError, match="upd · grade"):
        order_key(Pool(SCORES.with_columns(upd=9.0, grade=1.0), EMBEDDINGS), "d3", 0)
