"""deita against the rule, row by row in Python's integers; and what a selection says that ends before its budget."""

import math
from itertools import islice

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from dselect_core.coreset.export import write_coreset
from dselect_core.select import deita as module
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.deita import score_first
from dselect_core.select.order import Order, Pick
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.select import select
from tests.core.test_select_continue import Orders, assert_same
from tests.core.test_select_orders import make_rows

small_cases = st.integers(1, 3).flatmap(
    lambda d: st.lists(
        st.tuples(st.lists(st.integers(-2, 2), min_size=d, max_size=d).filter(any), st.integers(0, 3)),
        min_size=1,
        max_size=14,
    )
)


def by_rule(vectors: list[list[int]], scores: list[int], threshold: float) -> tuple[list[int], dict[int, int]]:
    """The chosen in order; and, for each row passed over, the first chosen one that is too alike."""
    scale = math.floor(4096 - math.sqrt(len(vectors[0])) / 2)
    unit = [[round(x * scale / math.sqrt(math.fsum(y * y for y in v))) for x in v] for v in vectors]

    def dot(i: int, j: int) -> int:
        return sum(a * b for a, b in zip(unit[i], unit[j], strict=True))

    chosen: list[int] = []
    passed: dict[int, int] = {}
    for row in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        alike = [j for j in chosen if dot(row, j) > threshold * math.sqrt(dot(row, row) * dot(j, j))]
        if alike:
            passed[row] = alike[0]
        else:
            chosen.append(row)
    return chosen, passed


@settings(max_examples=1_000, deadline=None)
@given(small_cases, st.sampled_from([0.05, 0.5, 0.7, 0.9, 1.0]), st.sampled_from([1, 3, 512]))
def test_every_pick_and_how_the_others_stand(case: list[tuple[list[int], int]], threshold: float, block: int) -> None:
    vectors, scores = [v for v, _ in case], [s for _, s in case]
    chosen, passed = by_rule(vectors, scores, threshold)
    in_turn = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_CHOSEN_BLOCK", max(2, block))
        order = score_first(np.array(vectors, dtype=np.float32), np.array(scores), threshold)
        for pick_count in range(len(chosen) + 1):
            decided = in_turn[: in_turn.index(chosen[pick_count])] if pick_count < len(chosen) else in_turn
            standing = [math.nan if i in decided else s * SCORE_STEP for i, s in enumerate(scores)]
            assert np.array_equal(order.standing(), standing, equal_nan=True)
            expected = [passed.get(i, -1) if i in decided else -1 for i in range(len(scores))]
            assert order.state()["too_alike"].tolist() == expected
            if pick_count < len(chosen):
                assert next(order) == Pick(chosen[pick_count], scores[chosen[pick_count]] * SCORE_STEP, None)
        with pytest.raises(StopIteration):
            next(order)


def test_the_same_vector_is_passed_over_whatever_its_length_and_at_one_never() -> None:
    vectors = np.array([[1, 2, 3], [2, 4, 6], [3, 2, 1]], dtype=np.float32)
    scores = np.array([1, 2, 3])
    assert [pick.row for pick in score_first(vectors, scores, 0.999999)] == [2, 1]
    assert [pick.row for pick in score_first(vectors, scores, 1.0)] == [2, 1, 0]


def clustered(n: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(n // 5, 8))[random.integers(0, n // 5, n)] + 0.3 * random.normal(size=(n, 8))


def test_an_order_goes_on_from_any_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 16)
    vectors, scores = clustered(100).astype(np.float32), np.random.default_rng(1).integers(0, 9, 100)
    samples = pl.DataFrame(
        {"sample_id": [f"{i:03d}" for i in range(100)], "reason": pl.Series([None] * 100, dtype=str)}
    )

    def order(saved: SavedOrder | None = None) -> Order:
        return score_first(vectors, scores, 0.9, saved)

    whole = list(order())
    assert 20 < len(whole) < 90
    for cut in range(len(whole) + 1):
        begun = order()
        picks = list(islice(begun, cut))
        again = order(SavedOrder.of("key", samples, picks, begun.state(), begun.standing()))
        assert np.array_equal(again.standing(), begun.standing(), equal_nan=True)
        assert np.array_equal(again.state()["too_alike"], begun.state()["too_alike"])
        assert picks + list(again) == whole


def whole_pool(n: int = 40) -> Pool:
    scores, *arrays = make_rows(3, n)
    return Pool.of(scores, *arrays)


def deita(budget: str | int, threshold: float | None = None) -> CoresetSpec:
    return CoresetSpec(strategy="deita", budget=budget, threshold=threshold)


def test_a_selection_that_ends_before_its_budget_says_so(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pool = whole_pool()
    first = select(pool, deita(1, 0.5))
    selectable = len(pool) - len(first.excluded)
    assert first.too_alike is None and first.rows == 1
    whole = select(pool, deita(selectable, 0.5))
    assert 1 < whole.rows < selectable and whole.too_alike == selectable - whole.rows
    assert select(pool, deita(whole.rows, 0.5)).too_alike is None
    assert select(pool, deita(whole.rows + 1, 0.5)).too_alike == whole.too_alike
    assert select(pool, deita("40%", 0.5)).too_alike == whole.too_alike
    in_tokens = [select(pool, deita(f"{tokens} tokens", 0.5)) for tokens in (whole.tokens - 1, whole.tokens)]
    assert [selection.too_alike for selection in in_tokens] == [None, None]
    assert select(pool, deita(f"{whole.tokens + 1} tokens", 0.5)).too_alike == whole.too_alike
    assert select(pool, deita(selectable, 1.0)).too_alike is None

    empty: list[dict[str, str]] = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    samples = pool.scores.select(
        "sample_id", messages=pl.lit(empty), n_rows=pl.lit(1), origins=pl.lit([{"source": "s", "file": "f", "row": 0}])
    )
    assert write_coreset(UPath(tmp_path), whole, samples, {"recipe": "r"})["too_alike"] == whole.too_alike
    assert "too_alike" not in write_coreset(UPath(tmp_path), first, samples, {"recipe": "r"})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 40), st.sampled_from([0.5, 0.9]), st.data())
def test_any_sequence_of_budgets_equals_fresh_runs(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, threshold: float, data: st.DataObject
) -> None:
    orders = Orders(tmp_path_factory.mktemp("orders"))
    pool = Pool.of(*make_rows(seed, n))
    first = select(pool, deita(1))
    most = pool.scores.join(first.excluded, on="sample_id", how="anti")["response_tokens"].sum()
    budget = st.one_of(
        st.integers(1, n - len(first.excluded)),
        st.integers(first.order["response_tokens"][0], most).map(lambda tokens: f"{tokens} tokens"),
    )
    for drawn_budget in data.draw(st.lists(budget, min_size=2, max_size=5)):
        fresh = select(pool, deita(drawn_budget, threshold))
        selection = select(pool, deita(drawn_budget, threshold), None, orders)
        orders.write(selection)
        assert_same(selection, fresh)
        assert selection.too_alike == fresh.too_alike
        pick_count = len(selection.saved.picks)
        reached = fresh if pick_count == fresh.rows else select(pool, deita(pick_count, threshold))
        assert (
            selection.saved.table["rank"].drop_nulls().len()
            == pick_count
            >= fresh.rows
            == min(fresh.rows, reached.rows)
        )
        # The saved table says what a fresh order of that length would.
        alone = select(pool, deita(pick_count, threshold), None, lambda key: None).saved
        assert alone.table.equals(selection.saved.table)
    assert len(set(orders.requested_keys)) == 1
