"""`whiten` against the formula by another road; orders with it nest, go on and have their own key."""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dselect_core.coreset.manifest import order_identity
from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order_key import order_key
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import required_kinds, select
from dselect_core.select.strategies import strategy_with_options
from dselect_core.select.whitening import RIDGE, ROWS_PER_DIRECTION, whitened
from tests.cases import CASES
from tests.core.test_select_continue import Orders, assert_same

RECIPES: list[dict[str, Any]] = [
    {"strategy": "d3"},
    {"strategy": "d3", "length_corrected": True},
    {"strategy": "kcenter"},
    {"strategy": "facility-location"},
    {"strategy": "facility-location", "neighbors": 5},
]


def pool_of(seed: int, n: int, width: int) -> Pool:
    """Rows that share one direction, some vectors twice; a row in ten has no usable vector."""
    random = np.random.default_rng(seed)
    vectors = (random.normal(size=(n, width)) * random.uniform(0.1, 3, width) + 5).astype(np.float32)
    vectors[random.random(n) < 0.1] = vectors[0]
    vectors[1:][random.random(n - 1) < 0.1] = np.nan
    scores = pl.DataFrame(
        {
            "sample_id": [f"{i:03d}" for i in range(n)],
            "sources": [[f"s{i % 2}"] for i in range(n)],
            "upd": random.random(n).round(2),
            "grade": random.random(n).round(2),
            "response_tokens": random.integers(1, 60, n),
        }
    )
    return Pool.of(scores, vectors)


def usable(pool: Pool) -> Pool:
    assert pool.embeddings is not None
    return pool.take(np.flatnonzero(np.isfinite(pool.embeddings).all(1)))


def by_formula(vectors: np.ndarray) -> np.ndarray:
    """(S + r·I)^(-1/2) from the singular values of the rows, whose directions are those of S."""
    x = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    _, singular, directions = np.linalg.svd(x, full_matrices=False)
    variances = singular**2 / len(x)
    ridge = RIDGE * variances.sum() / x.shape[1]
    return np.asarray(x @ directions.T @ np.diag(1 / np.sqrt(variances + ridge)) @ directions)


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 10**6), st.integers(16, 60), st.integers(2, 6))
def test_it_is_the_formula_and_each_direction_has_the_same_variance(seed: int, n: int, width: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, width)) * np.arange(1, width + 1) + 7
    found = whitened(vectors.astype(np.float32))
    np.testing.assert_allclose(found, by_formula(vectors.astype(np.float32)), atol=1e-4)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    before = np.linalg.eigvalsh(np.cov(vectors.astype(np.float32).T.astype(np.float64), bias=True))
    after = np.linalg.eigvalsh(np.cov(found.T.astype(np.float64), bias=True))
    np.testing.assert_allclose(after, before / (before + RIDGE * before.mean()), atol=1e-4)  # one, but for the ridge


@settings(max_examples=CASES, deadline=None)
@given(st.sampled_from(RECIPES), st.integers(0, 10**6), st.integers(20, 40))
def test_the_order_is_the_strategys_own_over_whitened_vectors(recipe: dict[str, Any], seed: int, n: int) -> None:
    """The strategy's own order has its brute force beside it, in the test of each."""
    pool = pool_of(seed, n, 3)
    chosen = select(pool, CoresetSpec(budget=8, whiten=True, **recipe))
    can_be_chosen = usable(pool)
    assert can_be_chosen.embeddings is not None
    plain = replace(can_be_chosen, embeddings=whitened(can_be_chosen.embeddings))
    assert chosen.order["sample_id"].equals(select(plain, CoresetSpec(budget=8, **recipe)).order["sample_id"])
    assert chosen.excluded["sample_id"].is_in(can_be_chosen.sample_ids.implode()).sum() == 0


def test_what_all_rows_share_decides_nothing_any_more() -> None:
    """Eight groups that differ by little, beside a direction that all have and one in which all rows differ widely."""
    random = np.random.default_rng(4)
    group = np.repeat(np.arange(8), 30)
    vectors = np.eye(8)[group] + random.normal(size=(240, 8)) * 0.02
    vectors = np.hstack([vectors, np.full((240, 1), 20.0), random.normal(size=(240, 1)) * 10]).astype(np.float32)
    pool = Pool.of(pl.DataFrame({"sample_id": [f"{i:03d}" for i in range(240)]}), vectors)

    def groups_of_first_eight(**options: object) -> int:
        chosen = select(pool, CoresetSpec.model_validate({"strategy": "facility-location", "budget": 8, **options}))
        return len({group[int(sample_id)] for sample_id in chosen.order["sample_id"]})

    assert groups_of_first_eight(whiten=True) == 8
    assert groups_of_first_eight() < 8


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_budgets_nest_and_a_saved_order_goes_on_as_a_fresh_one(
    tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any]
) -> None:
    pool, orders = pool_of(5, 60, 4), Orders(tmp_path_factory.mktemp("orders"))
    whole = select(pool, CoresetSpec(budget=40, whiten=True, **recipe))
    for rows in (7, 25, 12, 40):
        spec = CoresetSpec(budget=rows, whiten=True, **recipe)
        selection = select(pool, spec, None, orders)
        orders.write(selection)
        assert_same(selection, select(pool, spec))
        assert selection.order["sample_id"].equals(whole.order["sample_id"].head(rows))
    assert len(set(orders.requested_keys)) == 1


def test_the_key_has_it_and_recipes_without_it_are_what_they_were() -> None:
    pool = usable(pool_of(3, 40, 4))
    for recipe in RECIPES:
        name, options = recipe["strategy"], {key: value for key, value in recipe.items() if key != "strategy"}
        plain, off, on = (
            order_key(pool, strategy_with_options(name, options | whiten), 0)
            for whiten in ({}, {"whiten": False}, {"whiten": True})
        )
        assert plain == off != on
        assert "whiten" not in order_identity(CoresetSpec(budget=5, **recipe))["options"]
        assert order_identity(CoresetSpec(budget=5, whiten=True, **recipe))["options"]["whiten"] is True
    assert required_kinds(CoresetSpec(strategy="kcenter", budget=5, whiten=True)) == {"embeddings"}


def test_where_it_cannot_be_it_is_refused_with_what_to_do() -> None:
    few = pool_of(1, 20, 12)
    with pytest.raises(DselectError, match=rf"needs {ROWS_PER_DIRECTION * 12} rows .* only \d+ can be chosen: leave"):
        select(few, CoresetSpec(strategy="kcenter", budget=3, whiten=True))
    assert few.embeddings is not None
    same = replace(few, embeddings=np.ones((20, 4), dtype=np.float32))
    with pytest.raises(DselectError, match="all vectors are equal"):
        select(same, CoresetSpec(strategy="kcenter", budget=3, whiten=True))
    middle = np.vstack([np.eye(4), -np.eye(4), np.zeros((1, 4))]).astype(np.float32) + 1
    at_mean = Pool.of(pl.DataFrame({"sample_id": list("abcdefghi")}), middle)
    with pytest.raises(DselectError, match="sample i: its vector is the mean of all"):
        select(at_mean, CoresetSpec(strategy="kcenter", budget=3, whiten=True))
    for name in ("topk:loss", "mads", "random", "deita"):
        with pytest.raises(ValidationError, match="whiten"):
            CoresetSpec(strategy=name, budget=5, whiten=True)
