"""What holds for every strategy: budgets nest, row order does not matter, the same seed gives the same order."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import Selection, select
from dselect_core.select.strategies import all_strategies, strategy

NAMES = ["d3", "miwv", "mads", "facility-location", "kcenter", "random", "topk:loss", "topk:response_tokens"]
"""Strategies whose order has every row. deita's may end before: see test_select_deita.py."""


def make_rows(seed: int, n: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with few distinct values (ties), nulls, repeated vectors; ids in no order."""
    random = np.random.default_rng(seed)

    def some_null(values: np.ndarray) -> list[float | None]:
        return [None if random.random() < 0.1 else value for value in values.tolist()]

    scores = pl.DataFrame(
        {
            "sample_id": [random.bytes(16).hex() for _ in range(n)],
            "upd": some_null(random.choice([0.25, 0.5, 0.75], n)),
            "loss": some_null(random.choice([1.0, 2.0, 3.5], n)),
            "grade": some_null(random.choice([0.25, 0.5, 1.0], n)),
            "miwv": some_null(random.choice([-0.5, 0.0, 0.5], n)),
            "response_tokens": pl.Series(random.integers(1, 20, n), dtype=pl.Int32),
        }
    )
    embeddings = random.integers(-2, 3, size=(n, 5)).astype(np.float32)
    embeddings[random.random(n) < 0.1] = np.nan
    neurons = np.argsort(random.random((n, 12)), axis=1)[:, :3].astype(np.uint32)
    return scores, embeddings, neurons, random.random(n) > 0.1


def ids(selection: Selection) -> list[str]:
    return selection.order["sample_id"].to_list()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10_000), st.integers(8, 30), st.data())
def test_a_smaller_budget_is_a_prefix(name: str, seed: int, n: int, data: st.DataObject) -> None:
    pool = Pool.of(*make_rows(seed, n))
    whole = n - len(select(pool, CoresetSpec(strategy=name, budget=1)).excluded)
    rows = sorted(data.draw(st.lists(st.integers(1, whole), min_size=2, max_size=2)))
    shares = [f"{count * 100 / n}%" for count in rows]
    for budgets in (rows, shares):
        small, large = (select(pool, CoresetSpec(strategy=name, budget=budget)) for budget in budgets)
        assert [small.rows, large.rows] == rows
        assert small.order.equals(large.order.head(small.rows))

    full = select(pool, CoresetSpec(strategy=name, budget=whole))
    lengths = full.order["response_tokens"].to_list()
    tokens = sorted(data.draw(st.lists(st.integers(lengths[0], sum(lengths)), min_size=2, max_size=2)))
    small, large = (select(pool, CoresetSpec(strategy=name, budget=f"{budget} tokens")) for budget in tokens)
    assert small.order.equals(large.order.head(small.rows))
    for budget, selection in zip(tokens, (small, large), strict=True):
        cumulative = np.cumsum(lengths)
        assert selection.rows == int((cumulative <= budget).sum())
        assert selection.tokens == cumulative[selection.rows - 1]
        assert selection.order.equals(full.order.head(selection.rows))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_the_input_rows_does_not_matter(name: str, seed: int, random: object) -> None:
    scores, *arrays = make_rows(seed, 20)
    moved = list(range(20))
    random.shuffle(moved)
    spec = CoresetSpec(strategy=name, budget="40%")
    one = select(Pool.of(scores, *arrays), spec)
    other = select(Pool.of(scores[moved], *(array[moved] for array in arrays)), spec)
    assert one.order.equals(other.order)
    assert one.excluded.equals(other.excluded)


@pytest.mark.parametrize("name", NAMES)
def test_every_selectable_sample_comes_once(name: str) -> None:
    pool = Pool.of(*make_rows(3, 60))
    excluded = set(select(pool, CoresetSpec(strategy=name, budget=1)).excluded["sample_id"])
    full = select(pool, CoresetSpec(strategy=name, budget=60 - len(excluded)))
    assert full.order["rank"].to_list() == list(range(1, full.rows + 1))
    assert sorted(ids(full)) == sorted(set(pool.sample_ids) - excluded)
    assert (full.passes is None) == (name != "mads")
    assert ("pass" in full.order.columns) == (name == "mads")


@pytest.mark.parametrize("column", ["miwv", "loss"])
def test_ranked_is_by_value_then_id(column: str) -> None:
    pool = Pool.of(*make_rows(5, 60))
    name = "miwv" if column == "miwv" else f"topk:{column}"
    wanted = pool.scores.drop_nulls(column).sort([column, "sample_id"], descending=[True, False])
    order = select(pool, CoresetSpec(strategy=name, budget=wanted.height)).order
    assert order["sample_id"].to_list() == wanted["sample_id"].to_list()
    assert order["gain"].to_list() == wanted[column].to_list()


def test_scores_nearer_than_the_grid_are_ties_by_id() -> None:
    scores = pl.DataFrame({"sample_id": ["a", "b", "c"], "loss": [1.0, 1.0 + 1e-6, 1.0 + 1e-4]})
    assert ids(select(Pool.of(scores), CoresetSpec(strategy="topk:loss", budget=3))) == ["c", "a", "b"]


def test_random_is_seeded_and_does_not_depend_on_the_rest_of_the_pool() -> None:
    pool = Pool.of(make_rows(7, 200)[0])

    def run(of: Pool, seed: int) -> list[str]:
        return ids(select(of, CoresetSpec(strategy="random", budget="100%", seed=seed)))

    assert run(pool, 0) == run(pool, 0)
    assert run(pool, 0) != run(pool, 1)
    half = pool.take(np.arange(0, 200, 2))
    saved = set(half.sample_ids)
    assert run(half, 0) == [sample_id for sample_id in run(pool, 0) if sample_id in saved]


def test_known_strategies_and_their_needs() -> None:
    assert {name for name in NAMES if not name.startswith("topk:")} <= set(all_strategies())
    for column, kind in rankable_columns().items():
        assert strategy(f"topk:{column}").needs == {kind}
    assert strategy("d3").needs == {"embeddings", "difficulty", "grades"}
    assert strategy("d3").columns == ("upd", "grade")
    assert strategy("mads").needs == {"activations"}
    assert strategy("topk:grade").needs == {"grades"}
    assert strategy("random").needs == frozenset()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("d4", "d3"), ("mivw", "miwv"), ("MADS", "mads"), ("k-center", "kcenter"), ("topk:los", "topk:loss")],
)
def test_an_unknown_strategy_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(DselectError, match=f"unknown strategy `{name}`; did you mean `{nearest}`"):
        strategy(name)


@pytest.mark.parametrize("column", ["shot_id", "truncated"])
def test_columns_that_are_no_numbers_cannot_be_ranked_by(column: str) -> None:
    with pytest.raises(DselectError, match=r"topk:<column> takes upd, loss"):
        strategy(f"topk:{column}")
