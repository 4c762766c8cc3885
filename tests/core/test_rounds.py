"""What a round chooses, on random small pools, against a loop that computes everything; shares and warm-up rows."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.api import choose as choose_in_memory
from dselect_core.errors import DselectError
from dselect_core.rounds.choose_round import Selectable, choose, cumulative_shares, warm_up_rows
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from tests.cases import CASES

ROWS = st.lists(
    st.tuples(
        st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any),
        st.sampled_from([0.0, 0.25, 0.5, 1.0, None]),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=12,
)
Rows = list[tuple[list[int], float | None, int]]


def pool_of(rows: Rows) -> Pool:
    """Rows without a grade cannot be chosen."""
    return Pool.of(
        pl.DataFrame(
            {
                "sample_id": [f"{i:03}" for i in range(len(rows))],
                "upd": [0.5] * len(rows),
                "grade": pl.Series([grade for _, grade, _ in rows], dtype=pl.Float64),
                "response_tokens": [tokens for _, _, tokens in rows],
            }
        ),
        np.array([vector for vector, _, _ in rows], dtype=np.float32),
    )


def spec_of(**keys: object) -> CoresetSpec:
    return CoresetSpec.model_validate({"strategy": "d3", "budget": 1, "rounds": 2} | keys)


def loop(rows: Rows, before: list[int], spent: int, until: int, by_tokens: bool) -> list[int]:
    """Rows of the pool in the order they are picked after `before`."""
    grid = round_unit_vectors(np.array([vector for vector, _, _ in rows], dtype=np.float32))[0].astype(np.int64)
    weights = [None if grade is None else round(0.5 * grade / SCORE_STEP) for _, grade, _ in rows]
    centres, picked = [row for row in before if weights[row] is not None], list[int]()
    while spent < until:
        free = [row for row, weight in enumerate(weights) if weight is not None and row not in [*before, *picked]]
        gains = [
            (weights[row] or 0) ** 2
            * min([int(((grid[row] - grid[c]) ** 2).sum()) for c in [*centres, *picked]] or [1])
            for row in free
        ]
        best = free[int(np.argmax(gains))]
        spent += rows[best][2] if by_tokens else 1
        if spent > until:
            break
        picked.append(best)
    return picked


@settings(max_examples=CASES, deadline=None)
@given(ROWS, st.data(), st.booleans())
def test_a_round_chooses_what_a_loop_over_all_distances_does(rows: Rows, data: st.DataObject, by_tokens: bool) -> None:
    usable = [row for row, (_, grade, _) in enumerate(rows) if grade is not None]
    if not usable:
        return
    before = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True, max_size=len(rows)))
    spent = sum(rows[row][2] if by_tokens else 1 for row in before)
    left = sum(rows[row][2] if by_tokens else 1 for row in usable if row not in before)
    until = spent + data.draw(st.integers(0, left))
    spec = spec_of(budget="9 tokens") if by_tokens else spec_of()
    selectable = Selectable.of(pool_of(rows), spec)
    given_rows = [usable.index(row) for row in before if row in usable]
    choice = choose(selectable, spec, given_rows, spent, until)
    assert [usable[pick.row] for pick in choice.picks] == loop(rows, before, spent, until, by_tokens)
    taken = [*given_rows, *(pick.row for pick in choice.picks)]
    assert np.isnan(choice.standing[taken]).all()
    if taken:
        others = np.setdiff1d(np.arange(len(usable)), taken)
        assert not np.isnan(choice.standing[others]).any()
    with pytest.raises(DselectError, match="are left to choose"):
        choose(selectable, spec, given_rows, spent, spent + left + 1)


@given(st.integers(1, 500), st.integers(1, 10))
def test_shares_are_equal_and_the_first_are_larger(amount: int, rounds: int) -> None:
    if amount < rounds:
        with pytest.raises(DselectError, match="less than one for each"):
            cumulative_shares(amount, rounds)
        return
    until = cumulative_shares(amount, rounds)
    shares = [share - before for share, before in zip(until, [0, *until], strict=False)]
    assert (until[-1], max(shares) - min(shares) <= 1) == (amount, True)
    assert shares == sorted(shares, reverse=True)


def test_a_new_row_moves_a_random_warm_up_only_where_it_comes_into_it() -> None:
    rows: Rows = [([1, 0, 0], 1.0, 1)] * 40
    spec = spec_of(warmup={"samples": 5})
    before = warm_up_rows(Selectable.of(pool_of(rows[:-1]), spec), spec)
    after = warm_up_rows(Selectable.of(pool_of(rows), spec), spec)
    assert after == before or ("039" in after and len(set(before) - set(after)) == 1)
    assert warm_up_rows(Selectable.of(pool_of(rows), spec), spec_of(warmup={"samples": 5}, seed=1)) != after
    with pytest.raises(DselectError, match="a warm-up of 50 rows is larger than the 40"):
        warm_up_rows(Selectable.of(pool_of(rows), spec), spec_of(warmup={"samples": 50}))


def test_a_k_center_warm_up_is_the_start_of_k_center() -> None:
    rows: Rows = [([x, y, 1], 1.0, 1) for x in (-2, 0, 2) for y in (-2, 0, 2)]
    spec = spec_of(warmup={"samples": 4, "by": "kcenter"})
    selectable = Selectable.of(pool_of(rows), spec)
    of_kcenter = choose_in_memory(pool_of(rows), "kcenter", 4).order["sample_id"].to_list()
    assert warm_up_rows(selectable, spec) == of_kcenter


def test_in_memory_rounds_are_refused_with_the_remedy() -> None:
    with pytest.raises(DselectError, match=r"dselect\.yaml"):
        choose_in_memory(pool_of([([1, 0, 0], 1.0, 1)] * 3), "d3", 2, rounds=2)
