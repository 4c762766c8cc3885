"""The lazy engine with few active rows, so each case takes many rounds, against a loop that computes everything."""

import os
import subprocess
import sys
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.select.farthest_first import MAX_WEIGHT_STEPS, FarthestFirst, Sizes, farthest_first
from dselect_core.select.order import Pick
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.saved_order import SavedOrder
from tests.cases import CASES
from tests.core.test_select_d3 import small_cases

tiny = st.builds(Sizes, active=st.integers(1, 5), picks=st.integers(1, 4), shortlist=st.integers(1, 8))


def loop(vectors: np.ndarray, weights: np.ndarray) -> tuple[list[int], list[float | None], np.ndarray]:
    """Rows, gains, and int64 [k, n]: every w²·m² after each pick, all from int64 distances between all pairs."""
    grid, scale = round_unit_vectors(vectors)
    whole = grid.astype(np.int64)
    lengths = (whole * whole).sum(axis=1)
    distances = lengths[:, None] + lengths - 2 * whole @ whole.T
    rows, gains = [int(np.argmax(weights))], [None]
    after = [weights**2 * distances[rows[0]]]
    while len(rows) < len(vectors):
        left = after[-1].copy()
        left[rows] = -1
        rows.append(int(np.argmax(left)))
        gains.append(float(np.sqrt(left[rows[-1]]) * SCORE_STEP / scale))
        after.append(np.minimum(after[-1], weights**2 * distances[rows[-1]]))
    return rows, gains, np.array(after)


def random_case(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Few directions and weights, zero among them (ties, duplicates); or as good as none equal."""
    random = np.random.default_rng(seed)
    if seed % 3 == 0:
        return random.normal(size=(n, 12)).astype(np.float32), random.integers(1, MAX_WEIGHT_STEPS + 1, n)
    vectors = random.integers(-2, 3, size=(n, 3)).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    return vectors, random.choice([0, 1, 2, 65_536] if seed % 3 == 1 else [65_536], n)


def assert_same(picks: list[Pick], rows: list[int], gains: list[float | None]) -> None:
    assert [pick.row for pick in picks] == rows
    assert picks[0].gain is None
    assert [pick.gain for pick in picks[1:]] == pytest.approx(gains[1:], rel=1e-12)


@settings(max_examples=CASES, deadline=None)
@given(small_cases, tiny)
def test_small_cases_with_ties_duplicates_and_zero_weights(case: list[tuple[list[int], int]], sizes: Sizes) -> None:
    vectors, weights = np.array([v for v, _ in case], dtype=np.float32), np.array([w for _, w in case])
    rows, gains, _ = loop(vectors, weights)
    assert_same(list(farthest_first(vectors, weights, None, sizes)), rows, gains)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 150), tiny)
def test_many_rounds(seed: int, n: int, sizes: Sizes) -> None:
    vectors, weights = random_case(seed, n)
    rows, gains, _ = loop(vectors, weights)
    order = farthest_first(vectors, weights, None, sizes)
    assert_same(list(order), rows, gains)
    if seed % 3 == 0:
        assert order.round_count > n / 2 / sizes.active  # the case is what it should be


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), tiny)
def test_stopped_at_every_pick_it_goes_on_as_if_it_had_not(seed: int, n: int, sizes: Sizes) -> None:
    vectors, weights = random_case(seed, n)
    samples = pl.DataFrame({"sample_id": [f"{i:04}" for i in range(n)], "reason": [None] * n})
    whole = farthest_first(vectors, weights, None, sizes)
    saved, picks = None, []
    for _ in range(n):
        order = farthest_first(vectors, weights, saved, sizes)
        picks.append(next(order))
        assert picks[-1] == next(whole)
        saved = SavedOrder.of("key", samples, picks, order.state(), order.standing())
        # What is saved of an order that was stopped after each pick is that of one that never was.
        assert saved.table.equals(SavedOrder.of("key", samples, picks, whole.state(), whole.standing()).table)
    fresh = farthest_first(vectors, weights, None, sizes)
    assert list(fresh) == picks  # never asked for its state
    assert all(np.array_equal(values, whole.state()[name]) for name, values in fresh.state().items())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), tiny)
def test_standing_is_a_bound_between_the_gain_and_that_of_the_last_pick(seed: int, n: int, sizes: Sizes) -> None:
    vectors, weights = random_case(seed, n)
    _, scale = round_unit_vectors(vectors)
    rows, _, after = loop(vectors, weights)
    samples = pl.DataFrame({"sample_id": [f"{i:04}" for i in range(n)], "reason": [None] * n})
    order = farthest_first(vectors, weights, None, sizes)
    picks = []
    for pick_count in range(1, n + 1):
        picks.append(next(order))
        standing = order.standing()
        exact = np.sqrt(after[pick_count - 1]) * SCORE_STEP / scale
        left = np.setdiff1d(np.arange(n), rows[:pick_count])
        assert np.isnan(standing[rows[:pick_count]]).all()
        assert (standing[left] >= exact[left] * (1 - 1e-12)).all()
        if pick_count > 1:
            assert (standing[left] <= picks[-1].gain).all()
        saved = SavedOrder.of("key", samples, picks, order.state(), standing)
        is_exact = ~saved.table.select(saved.is_bound.fill_null(False)).to_series().to_numpy()[left]
        assert standing[left][is_exact] == pytest.approx(exact[left][is_exact], rel=1e-12)


def test_where_all_rows_are_active_every_gain_is_known() -> None:
    vectors, weights = random_case(3, 300)
    order = farthest_first(vectors, weights)
    rows, _, after = loop(vectors, weights)
    for pick_count in range(1, 40):
        next(order)
        assert (order.state()["seen"] == pick_count).all()
    exact = np.sqrt(after[38]) * SCORE_STEP / round_unit_vectors(vectors)[1]
    left = np.setdiff1d(np.arange(300), rows[:39])
    assert order.standing()[left] == pytest.approx(exact[left], rel=1e-12)


def loop_after(vectors: np.ndarray, weights: np.ndarray, given: list[int]) -> tuple[list[int], list[float]]:
    """Rows and gains of the picks after `given`: every distance to every centre, each time."""
    grid, scale = round_unit_vectors(vectors)
    whole = grid.astype(np.int64)
    rows, gains = list(given), []
    while len(rows) < len(vectors):
        nearest = ((whole[:, None, :] - whole[rows][None]) ** 2).sum(axis=2).min(axis=1)
        left = weights**2 * nearest
        left[rows] = -1
        rows.append(int(np.argmax(left)))
        gains.append(float(np.sqrt(left[rows[-1]]) * SCORE_STEP / scale))
    return rows[len(given) :], gains


@settings(max_examples=CASES, deadline=None)
@given(small_cases, tiny, st.randoms(use_true_random=False))
def test_given_rows_stand_as_centres(case: list[tuple[list[int], int]], sizes: Sizes, random: Random) -> None:
    vectors, weights = np.array([v for v, _ in case], dtype=np.float32), np.array([w for _, w in case])
    centres = random.sample(range(len(case)), random.randint(1, len(case)))
    rows, gains = loop_after(vectors, weights, centres)
    picks = list(farthest_first(vectors, weights, None, sizes, centres))
    assert [pick.row for pick in picks] == rows
    assert [pick.gain for pick in picks] == pytest.approx(gains, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 60), tiny)
def test_with_given_rows_it_goes_on_from_what_was_saved(seed: int, n: int, sizes: Sizes) -> None:
    vectors, weights = random_case(seed, n)
    centres = np.random.default_rng(seed).permutation(n)[: n // 3 + 1].tolist()
    samples = pl.DataFrame({"sample_id": [f"{i:04}" for i in range(n)], "reason": [None] * n})
    whole = farthest_first(vectors, weights, None, sizes, centres)
    saved, picks = None, []
    for _ in range(n - len(centres)):
        order = farthest_first(vectors, weights, saved, sizes, centres)
        picks.append(next(order))
        assert picks[-1] == next(whole)
        saved = SavedOrder.of("key", samples, picks, order.state(), order.standing())
    assert np.isnan(whole.standing()).all()


def clustered() -> FarthestFirst:
    random = np.random.default_rng(5)
    vectors = random.normal(size=(60, 48))[random.integers(0, 60, 6000)] + 0.5 * random.normal(size=(6000, 48))
    return farthest_first(vectors.astype(np.float32), random.integers(1, 65_536, 6000), None, Sizes(active=256))


def test_it_computes_far_fewer_distances_than_a_loop() -> None:
    order = clustered()
    for _ in range(600):
        next(order)
    assert order.distance_count < 0.25 * 6000 * 600


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_order_does_not_depend_on_threads(threads: str) -> None:
    code = (
        "from itertools import islice; from tests.core.test_select_farthest_first import clustered as c; "
        "print(*[pick.row for pick in islice(c(), 600)])"
    )
    environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    order = clustered()
    assert [int(row) for row in run.stdout.split()] == [next(order).row for _ in range(600)]
