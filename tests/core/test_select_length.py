"""`length_corrected` and `per: token` against brute force; and orders with them nest, go on, and have their own key."""

import math
from fractions import Fraction
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
from dselect_core.select.length_correction import FEWEST_ROWS, without_length
from dselect_core.select.order_key import order_key
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.select import Selection, required_kinds, select
from dselect_core.select.strategies import strategy_with_options
from tests.cases import CASES
from tests.core.test_select_continue import Orders, assert_same
from tests.core.test_select_d3 import reference as d3_by_rule
from tests.core.test_select_deita import by_rule as deita_by_rule
from tests.core.test_select_facility_location import gains_of, served, similarities
from tests.core.test_select_orders import make_rows

RECIPES: list[dict[str, Any]] = [
    {"strategy": "d3", "length_corrected": True},
    {"strategy": "d3", "per": "token"},
    {"strategy": "d3", "length_corrected": True, "per": "token"},
    {"strategy": "deita", "length_corrected": True, "threshold": 1.0},
    {"strategy": "facility-location", "per": "token"},
    {"strategy": "facility-location", "per": "token", "neighbors": 5},
    {"strategy": "topk:loss", "length_corrected": True},
    {"strategy": "miwv", "length_corrected": True},
]


def line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    if len(set(x)) == 1:
        return 0.0, mean_x, mean_y
    square = math.fsum((a - mean_x) * (a - mean_x) for a in x)
    return math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / square, mean_x, mean_y


def corrected(values: list[float], tokens: list[int], sources: list[str | None]) -> list[float]:
    """The formula of the module, row by row."""
    y = [round(Fraction(value) / Fraction(SCORE_STEP)) * SCORE_STEP for value in values]
    x = [math.log(max(1, t)) for t in tokens]
    mean = math.fsum(y) / len(y)
    found = []
    for row, source in enumerate(sources):
        own = [i for i, other in enumerate(sources) if other == source]
        if len(own) < FEWEST_ROWS:
            own = list(range(len(y)))
        slope, mean_x, mean_y = line([x[i] for i in own], [y[i] for i in own])
        found.append(y[row] - mean_y - slope * (x[row] - mean_x) + mean)
    return found


def pool_of(seed: int, n: int, sources: int) -> Pool:
    """Rows with few distinct scores and repeated vectors; in one to three sources, or in several at once."""
    scores, embeddings, neurons, has_neurons = make_rows(seed, n)
    random = np.random.default_rng(seed)
    lists = [sorted({f"s{random.integers(0, sources)}" for _ in range(random.integers(1, 3))}) for _ in range(n)]
    return Pool.of(scores.with_columns(sources=pl.Series(lists)), embeddings, neurons, has_neurons)


def usable(pool: Pool, selection: Selection) -> tuple[pl.DataFrame, list[list[float]]]:
    """The rows that can be chosen, with their vectors."""
    keep = ~pool.sample_ids.is_in(selection.excluded["sample_id"].implode())
    assert pool.embeddings is not None
    return pool.scores.filter(keep), pool.embeddings[keep.to_numpy()].astype(float).tolist()


def column_of(rows: pl.DataFrame, column: str) -> list[float]:
    first = [names[0] for names in rows["sources"].to_list()]
    return corrected(rows[column].to_list(), rows["response_tokens"].to_list(), first)


def d3_steps(rows: pl.DataFrame, *, is_corrected: bool) -> list[int]:
    upd = column_of(rows, "upd") if is_corrected else rows["upd"].to_list()
    return [round(min(1, max(0, u)) * g / SCORE_STEP) for u, g in zip(upd, rows["grade"].to_list(), strict=True)]


def per_token_d3(vectors: list[list[float]], weights: list[float]) -> list[int]:
    """Greedy by w² · m² in float64, every distance from scratch."""
    scale = math.floor(4096 - math.sqrt(len(vectors[0])) / 2)
    unit = [[round(x * scale / math.sqrt(math.fsum(y * y for y in v))) for x in v] for v in vectors]
    left = list(range(len(vectors)))
    chosen = [max(left, key=lambda i: (weights[i], -i))]
    left.remove(chosen[0])
    while left:

        def squared_gain(i: int) -> float:
            near = min(sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True)) for j in chosen)
            return weights[i] * weights[i] * near

        chosen.append(max(left, key=lambda i: (squared_gain(i), -i)))
        left.remove(chosen[-1])
    return chosen


def per_token_facility_location(vectors: list[list[float]], tokens: list[int], neighbors: int | None) -> list[int]:
    counted, floor, _ = similarities([tuple(map(int, v)) for v in vectors], neighbors or len(vectors))
    chosen: list[int] = []
    while len(chosen) < len(vectors):
        gains = gains_of(counted, served(counted, floor, chosen))
        left = [j for j in range(len(vectors)) if j not in chosen]
        chosen.append(max(left, key=lambda j: (gains[j] / tokens[j], -j)))
    return chosen


def expected(recipe: dict[str, Any], rows: pl.DataFrame, vectors: list[list[float]]) -> list[int]:
    name, is_corrected = recipe["strategy"], recipe.get("length_corrected", False)
    tokens = rows["response_tokens"].to_list()
    if name == "facility-location":
        return per_token_facility_location(vectors, tokens, recipe.get("neighbors"))
    if name in ("d3", "deita"):
        steps = d3_steps(rows, is_corrected=is_corrected)
        if name == "deita":
            return deita_by_rule([list(map(int, v)) for v in vectors], steps, 1.0)[0]
        if recipe.get("per"):
            return per_token_d3(vectors, [step / t for step, t in zip(steps, tokens, strict=True)])
        return [row for row, _ in d3_by_rule(vectors, steps)]
    values = column_of(rows, name.removeprefix("topk:"))
    steps = [
        round(max(0, value) / SCORE_STEP) if name == "topk:loss" else round(value / SCORE_STEP) for value in values
    ]
    return sorted(range(len(steps)), key=lambda i: (-steps[i], i))


@settings(max_examples=CASES, deadline=None)
@given(st.sampled_from(RECIPES), st.integers(0, 10**6), st.integers(6, 20), st.integers(1, 3))
def test_the_order_is_that_of_brute_force(recipe: dict[str, Any], seed: int, n: int, sources: int) -> None:
    pool = pool_of(seed, n, sources)
    try:
        first = select(pool, CoresetSpec(budget=1, **recipe))
    except DselectError as error:
        assert "larger than the 0" in str(error)
        return
    rows, vectors = usable(pool, first)
    whole = select(pool, CoresetSpec(budget=rows.height, **recipe))
    ids = rows["sample_id"].to_list()
    assert whole.order["sample_id"].to_list() == [ids[i] for i in expected(recipe, rows, vectors)]
    # A gain told of a pick is what it stood at.
    gains = whole.order["gain"].drop_nulls().to_list()
    assert recipe["strategy"] in ("facility-location",) or gains == sorted(gains, reverse=True)


@settings(max_examples=CASES, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 8, width=32), st.integers(0, 40), st.sampled_from([None, "a", "b"])),
        min_size=1,
        max_size=40,
    )
)
def test_corrected_values_are_the_formulas_and_least_squares(rows: list[tuple[float, int, str | None]]) -> None:
    values, tokens, sources = (list(each) for each in zip(*rows, strict=True))
    found = without_length(np.array(values, dtype=np.float32), np.array(tokens), sources)
    assert found.tolist() == corrected(values, tokens, sources)
    # What is left of a large source has no slope over the length, and the mean of all.
    for source in set(sources):
        own = np.array([other == source for other in sources])
        logs = np.log(np.maximum(np.array(tokens)[own], 1))
        if own.sum() >= FEWEST_ROWS and len(set(logs)) > 1:
            assert np.polyfit(logs, found[own], 1)[0] == pytest.approx(0, abs=1e-6)
            assert found[own].mean() == pytest.approx(np.mean(values), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(RECIPES), st.integers(0, 10_000), st.integers(8, 40), st.data())
def test_budgets_nest_and_a_saved_order_goes_on_as_a_fresh_one(
    tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any], seed: int, n: int, data: st.DataObject
) -> None:
    orders, pool = Orders(tmp_path_factory.mktemp("orders")), pool_of(seed, n, 2)
    whole = select(pool, CoresetSpec(budget=n - len(select(pool, CoresetSpec(budget=1, **recipe)).excluded), **recipe))
    for rows in data.draw(st.lists(st.integers(1, whole.rows), min_size=2, max_size=4)):
        spec = CoresetSpec(budget=rows, **recipe)
        selection = select(pool, spec, None, orders)
        orders.write(selection)
        assert_same(selection, select(pool, spec))
        assert selection.order.equals(whole.order.head(rows))
    assert len(set(orders.requested_keys)) == 1

    # The same where each pick must be of an open group.
    for rows in (whole.rows // 3, whole.rows // 2):
        if rows:
            spec = CoresetSpec(budget=rows, quota={"s0": {"max": rows}}, **recipe)
            selection = select(pool, spec, None, orders)
            orders.write(selection)
            assert_same(selection, select(pool, spec))
            assert selection.order["sample_id"].equals(whole.order["sample_id"].head(rows))


def test_a_budget_in_tokens_buys_more_per_token() -> None:
    """The longest have the highest gain in themselves, and little for a token."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, 400, 120)
    scores = pl.DataFrame(
        {
            "sample_id": [f"{i:03d}" for i in range(120)],
            "upd": 0.2 + tokens / 500,
            "grade": [1.0] * 120,
            "response_tokens": tokens,
        }
    )
    pool = Pool(scores, random.normal(size=(120, 8)).astype(np.float32))
    for name in ("d3", "facility-location"):
        by_row, per_token = (
            select(pool, CoresetSpec(strategy=name, budget="3000 tokens", **options))
            for options in ({}, {"per": "token"})
        )
        assert per_token.rows > 2 * by_row.rows
        assert per_token.tokens is not None and per_token.tokens <= 3000


def test_the_key_has_what_the_order_depends_on_and_no_more() -> None:
    scores, embeddings, _, _ = make_rows(3, 60)
    usable_rows = scores.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    keep = usable_rows & np.isfinite(embeddings).all(1) & embeddings.any(1)
    scores, embeddings = scores.filter(pl.Series(keep)), embeddings[keep]
    one = pl.Series([["a"]] * scores.height)

    def key(recipe: dict[str, Any], sources: pl.Series = one, longer: int = 0) -> str:
        options = {name: value for name, value in recipe.items() if name != "strategy"}
        table = scores.with_columns(pl.col("response_tokens") + longer, sources=sources)
        return order_key(Pool.of(table, embeddings), strategy_with_options(recipe["strategy"], options), 0)

    halves = pl.Series([["a"] if i % 2 else ["b", "c"] for i in range(scores.height)])
    for recipe in RECIPES:
        plain = {"strategy": recipe["strategy"]}
        assert key(recipe) != key(plain)
        assert (key(recipe) != key(recipe, halves)) == ("length_corrected" in recipe)
        assert key(recipe) != key(recipe, longer=1)
        # What uses no new option has the key, and the record, that it had.
        silent = {name: type(value)() if value is True else value for name, value in recipe.items() if name != "per"}
        without = {name: value for name, value in silent.items() if name != "length_corrected"}
        assert key(silent) == key(without) == key(without, halves, longer=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [("d3", {}), ("miwv", {}), ("facility-location", {"neighbors": None}), ("deita", {"threshold": 0.9})],
)
def test_a_recipe_without_them_is_recorded_as_before(name: str, options: dict[str, object]) -> None:
    assert order_identity(CoresetSpec(strategy=name, budget=5))["options"] == options


def test_what_they_read_is_needed_and_where_they_have_no_use_they_are_refused() -> None:
    assert required_kinds(CoresetSpec(strategy="facility-location", budget=5)) == {"embeddings"}
    per_token = CoresetSpec(strategy="facility-location", budget=5, per="token")
    assert required_kinds(per_token) == {"embeddings", "difficulty"}
    corrected_miwv = CoresetSpec(strategy="miwv", budget=5, length_corrected=True)
    assert required_kinds(corrected_miwv) == {"miwv", "difficulty"}
    with pytest.raises(ValidationError, match="an option of d3, facility-location; `deita` has no use for it"):
        CoresetSpec(strategy="deita", budget=5, per="token")
    with pytest.raises(ValidationError, match=r"`length_corrected` is an option of d3, .*topk:<column>; `kcenter` has"):
        CoresetSpec(strategy="kcenter", budget=5, length_corrected=True)
    with pytest.raises(ValidationError, match="per"):
        CoresetSpec(strategy="d3", budget=5, per="row")
