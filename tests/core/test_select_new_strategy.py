"""A new strategy costs one file: defined with an option of its own, registered, and used like any other."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from dselect_core import kinds
from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.kcenter import kcenter_order
from dselect_core.select.order import Order
from dselect_core.select.order_key import order_key
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.select import required_kinds, select
from dselect_core.select.strategies import register, strategy, strategy_with_options, unregister
from dselect_core.select.strategy import Option, Strategy
from dselect_core.select.top_k import SortedOrder
from dselect_core.settings.settings import json_schema


def near_order(pool: Pool, seed: int, saved: SavedOrder | None = None, target: float = 0.5) -> Order:
    """Rows by the distance of their loss to a target."""
    distances = np.abs(pool.scores["loss"].to_numpy() - target)
    return SortedOrder(np.argsort(distances, kind="stable").tolist(), -distances, saved)


NEAR = Strategy(
    name="near",
    description="loss close to a target",
    needs=frozenset({"difficulty"}),
    columns=("loss",),
    order=near_order,
    values=lambda pool: pool.scores["loss"].to_numpy(),
    options={"target": Option(float, 0.5, "near: the loss that rows should have", {"ge": 0})},
)
POOL = Pool.of(pl.DataFrame({"sample_id": list("abcde"), "loss": [0.1, 0.4, 0.9, None, 2.0]}))


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(NEAR)
    yield
    unregister("near")


def chosen(**recipe: object) -> str:
    selection = select(POOL, CoresetSpec.model_validate({"strategy": "near", **recipe}))
    return "".join(selection.order["sample_id"])


def test_it_is_selected_by_with_its_option() -> None:
    assert chosen(budget=2) == "ba"
    assert chosen(budget=2, target=2) == "ec"
    assert required_kinds(CoresetSpec.model_validate({"strategy": "near", "budget": 1})) == {"difficulty"}
    selection = select(POOL, CoresetSpec.model_validate({"strategy": "near", "budget": 2}))
    assert selection.excluded.rows() == [("d", "no loss")]


def test_its_option_is_checked_counted_and_described() -> None:
    with pytest.raises(ValidationError, match="target: Input should be greater than or equal to 0"):
        chosen(budget=2, target=-1)
    with pytest.raises(ValidationError, match="unknown key `targt`; did you mean `target`"):
        chosen(budget=2, targt=1)
    with pytest.raises(ValidationError, match="`target` is an option of near; `d3` has no use for it"):
        CoresetSpec.model_validate({"strategy": "d3", "budget": 1, "target": 1})
    usable = POOL.take(np.array([0, 1, 2, 4]))
    keys = {
        order_key(usable, strategy_with_options("near", given), 0) for given in ({}, {"target": 0.5}, {"target": 1.0})
    }
    assert len(keys) == 2
    described = json_schema()["$defs"]["CoresetSpec"]["properties"]["target"]
    assert described["description"] == "near: the loss that rows should have"


def test_names_that_clash_are_refused() -> None:
    with pytest.raises(DselectError, match="strategy `near` is defined twice"):
        register(NEAR)
    other = Strategy("far", "", frozenset(), (), near_order, options={"target": Option(str, "", "another thing")})
    with pytest.raises(DselectError, match="`near` has another option `target`"):
        register(other)
    assert strategy("near") is NEAR


def test_vectors_of_a_kind_that_is_registered_are_required_and_part_of_the_key() -> None:
    topics = kinds.Kind(
        name="topics",
        asset="topics",
        description="Topic vectors of another model.",
        columns=(kinds.Column("topic", pl.Float32(), "topics", vector=True), kinds.Column("reason", pl.String(), "")),
        value="topic",
        array="topic",
        pool_field="embeddings",
        provenance=lambda inputs: {"score": "topics"},
        computation=kinds.FromSamples(lambda samples, settings, emit, progress: None),
    )
    by_topic = Strategy("by-topic", "far apart by topic", frozenset({"topics"}), (), kcenter_order)
    vectors = np.array([[0, 1], [1, 0], [np.nan, 1], [0, -1], [0, 2]], dtype=np.float32)
    kinds.register(topics)
    register(by_topic)
    try:
        spec = CoresetSpec(strategy="by-topic", budget=2)
        selection = select(Pool(POOL.scores, vectors), spec)
        assert selection.order["sample_id"].to_list() == ["a", "d"]
        assert selection.excluded.rows() == [("c", "no embedding")]
        with pytest.raises(DselectError, match="the pool has no topics, which `by-topic` needs"):
            select(POOL, spec)
        assert order_key(Pool(POOL.scores, vectors), by_topic, 0) != order_key(
            Pool(POOL.scores, 2 * vectors), by_topic, 0
        )
    finally:
        unregister("by-topic")
        kinds.unregister("topics")
