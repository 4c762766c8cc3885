"""How the rows that are not picked stand, after every pick, against a computation from scratch."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.farthest_first import farthest_first
from dselect_core.select.mads import max_coverage
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.strategies import strategy
from tests.core.test_select_d3 import small_cases


@settings(deadline=None)
@given(small_cases)
def test_d3_is_weight_times_distance(case: list[tuple[list[int], int]]) -> None:
    vectors, weights = [v for v, _ in case], [w for _, w in case]
    scale = math.floor(4096 - math.sqrt(len(vectors[0])) / 2)
    unit = [[round(x * scale / math.sqrt(math.fsum(y * y for y in v))) for x in v] for v in vectors]
    order = farthest_first(np.array(vectors, dtype=np.float32), np.array(weights))
    assert np.isnan(order.standing()).all()
    chosen: list[int] = []
    while len(chosen) < len(case):
        standing = order.standing()
        pick = next(order)
        if chosen:
            assert pick.gain == standing[pick.row] == np.nanmax(standing)
        chosen.append(pick.row)
        nearest = [min(sum((a - b) ** 2 for a, b in zip(u, unit[j], strict=True)) for j in chosen) for u in unit]
        assert order.state()["nearest"].tolist() == nearest
        expected = [
            math.nan if i in chosen else w * SCORE_STEP * math.sqrt(m) / scale
            for i, (w, m) in enumerate(zip(weights, nearest, strict=True))
        ]
        assert order.standing().tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(st.integers(0, 7), min_size=m, max_size=m, unique=True), min_size=1, max_size=14)
    )
)
def test_mads_is_what_the_pass_of_the_last_pick_has_not_covered(neurons: list[list[int]]) -> None:
    order = max_coverage(np.array(neurons, dtype=np.uint32))
    assert order.standing().tolist() == [len(neurons[0])] * len(neurons)
    picks = []
    while len(picks) < len(neurons):
        standing = order.standing()
        picks.append(next(order))
        if not picks[1:] or picks[-1].cover_pass == picks[-2].cover_pass:
            assert picks[-1].gain == standing[picks[-1].row] == np.nanmax(standing)
        else:  # nothing was left to gain: a pass was opened
            assert np.nanmax(standing) == 0
        covered = {u for pick in picks if pick.cover_pass == picks[-1].cover_pass for u in neurons[pick.row]}
        taken = {pick.row for pick in picks}
        expected = [math.nan if i in taken else len(set(row) - covered) for i, row in enumerate(neurons)]
        assert np.array_equal(order.standing(), expected, equal_nan=True)


def test_ranked_is_the_rounded_value_and_random_has_none() -> None:
    pool = Pool.of(pl.DataFrame({"sample_id": list("abc"), "loss": [1.0 + 1e-6, 3.0, 2.0]}))
    order = strategy("topk:loss").order(pool, 0)
    assert order.standing().tolist() == [1.0, 3.0, 2.0]
    next(order)
    assert np.array_equal(order.standing(), [1.0, math.nan, 2.0], equal_nan=True)
    order = strategy("random").order(pool, 0)
    next(order)
    assert np.isnan(order.standing()).all() and len(order.standing()) == 3
