"""Facility location against a recount of every gain from the definition, in Python's integers."""

import math
from itertools import islice

import faiss
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.select import facility_location as module
from dselect_core.select.facility_location import facility_location, nearest_rows
from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import round_unit_vectors
from dselect_core.select.saved_order import SavedOrder

# Few directions, so with ties, repeated rows and opposite ones.
small_vectors = st.integers(1, 3).flatmap(
    lambda d: st.lists(
        st.lists(st.integers(-2, 2), min_size=d, max_size=d).filter(any).map(tuple), min_size=1, max_size=12
    )
)


def as_array(vectors: list[tuple[int, ...]]) -> np.ndarray:
    return np.array(vectors, dtype=np.float32)


def similarities(vectors: list[tuple[int, ...]], neighbors: int) -> tuple[list[list[int]], list[int], int]:
    """[i][j] as integers, 0 where j is not among the nearest of i; what each row starts at; the steps that make 1."""
    scale = math.floor(4096 - math.sqrt(len(vectors[0])) / 2)
    unit = [[round(x * scale / math.sqrt(math.fsum(y * y for y in v))) for x in v] for v in vectors]
    counted, floor = [], []
    for one in unit:
        dots = [sum(a * b for a, b in zip(one, other, strict=True)) for other in unit]
        near = sorted(range(len(unit)), key=lambda j: (-dots[j], j))[:neighbors]
        counted.append([max(0, dot + scale * scale) if j in near else 0 for j, dot in enumerate(dots)])
        furthest = min(counted[-1][j] for j in near)
        mean = sum(dots) // len(dots) + scale * scale
        floor.append(min(furthest, max(0, mean + 3 * furthest) // 4) if neighbors < len(unit) else 0)
    return counted, floor, 2 * scale * scale


def served(counted: list[list[int]], floor: list[int], chosen: list[int]) -> list[int]:
    return [max([low, *(row[j] for j in chosen)]) for row, low in zip(counted, floor, strict=True)]


def gains_of(counted: list[list[int]], best: list[int]) -> list[int]:
    return [sum(max(0, row[j] - b) for row, b in zip(counted, best, strict=True)) for j in range(len(counted))]


@settings(max_examples=1_000, deadline=None)
@given(small_vectors, st.integers(1, 13))
def test_every_pick_and_how_the_others_stand(vectors: list[tuple[int, ...]], neighbors: int) -> None:
    counted, floor, one = similarities(vectors, neighbors)
    order = facility_location(as_array(vectors), neighbors)
    chosen: list[int] = []
    for _ in vectors:
        gains = gains_of(counted, served(counted, floor, chosen))
        left = [j for j in range(len(vectors)) if j not in chosen]
        expected = max(left, key=lambda j: (gains[j], -j))
        standing = [math.nan if j in chosen else gains[j] / one for j in range(len(vectors))]
        assert np.array_equal(order.standing(), standing, equal_nan=True)
        assert next(order) == (expected, gains[expected] / one, None)
        chosen.append(expected)
        assert order.state()["similarity"].tolist() == served(counted, floor, chosen)
    with pytest.raises(StopIteration):
        next(order)


def clustered(n: int, seed: int = 0, d: int = 16) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(n // 8, d))
    vectors = (centers[random.integers(0, len(centers), n)] + 0.4 * random.normal(size=(n, d))).astype(np.float32)
    vectors[random.integers(0, n, n // 10)] = vectors[random.integers(0, n, n // 10)]  # some twice
    return vectors


def resumed(vectors: np.ndarray, neighbors: int | None, order: Order, picks: list[Pick]) -> Order:
    ids = [f"{i:05d}" for i in range(len(vectors))]
    samples = pl.DataFrame({"sample_id": ids, "reason": pl.Series([None] * len(ids), dtype=pl.String)})
    return facility_location(vectors, neighbors, SavedOrder.of("key", samples, picks, order.state(), order.standing()))


@pytest.mark.parametrize("neighbors", [1, 5, 40])
def test_an_order_goes_on_from_any_cut(neighbors: int) -> None:
    vectors = clustered(40)
    whole = list(facility_location(vectors, neighbors))
    for cut in range(41):
        order = facility_location(vectors, neighbors)
        picks = list(islice(order, cut))
        again = resumed(vectors, neighbors, order, picks)
        assert np.array_equal(again.standing(), order.standing(), equal_nan=True)
        assert picks + list(again) == whole


def test_all_neighbours_are_the_exact_form(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(300)
    exact = list(facility_location(vectors))
    assert list(facility_location(vectors, 300)) == list(facility_location(vectors, 10_000)) == exact
    # The neighbours' own code, with one left out of each row and no floor: after the first pick nothing depends on it.
    grid, scale = round_unit_vectors(vectors)
    near = module._NearestSimilarities(grid, scale, 299)
    near.floor[:] = 0
    assert [p.row for p in islice(module._FacilityLocation(near, 300, scale, None), 30)] == [p.row for p in exact[:30]]
    monkeypatch.setattr(module, "EXACT_ROWS", 299)
    monkeypatch.setattr(module, "NEIGHBORS", 20)
    assert list(facility_location(vectors)) == list(facility_location(vectors, 20)) != exact


@pytest.mark.parametrize("neighbors", [None, 12])
def test_blocks_and_threads_change_nothing(neighbors: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(500, seed=1)
    expected = list(facility_location(vectors, neighbors))
    for name in ("_BLOCK", "_WIDE_BLOCK", "_SUM_BLOCK"):
        monkeypatch.setattr(module, name, 7)
    thread_count = faiss.omp_get_max_threads()
    try:
        for threads in (1, 3):
            faiss.omp_set_num_threads(threads)
            assert list(facility_location(vectors, neighbors)) == expected
    finally:
        faiss.omp_set_num_threads(thread_count)


def test_similarities_of_a_long_pool_are_summed_without_overflow() -> None:
    vectors = np.ones((3_000, 4), dtype=np.float32)
    first, second = islice(facility_location(vectors), 2)
    assert first == (0, pytest.approx(3_000, rel=1e-3), None)
    assert second == (1, 0.0, None)


@pytest.mark.parametrize("seed", range(3))
def test_tied_neighbours_are_the_lowest_rows(seed: int) -> None:
    grid, _ = round_unit_vectors(np.random.default_rng(seed).integers(-1, 2, size=(400, 3)).astype(np.float32) + 0.5)
    rows, dots = nearest_rows(grid, 9)
    products = grid.astype(np.int64) @ grid.T.astype(np.int64)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :9]
    assert np.array_equal(np.sort(rows), np.sort(expected))
    assert np.array_equal(dots, np.take_along_axis(products, rows.astype(np.int64), axis=1))


def test_few_neighbours_lose_little() -> None:
    vectors = clustered(2_000, seed=2)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def value(neighbors: int) -> float:
        rows = [pick.row for pick in islice(facility_location(vectors, neighbors), 200)]
        return float(((1 + unit @ unit[rows].T) / 2).max(axis=1).sum())

    assert value(64) > 0.9995 * value(2_000)
    assert sum(pick.gain for pick in islice(facility_location(vectors), 200)) == pytest.approx(value(2_000), rel=1e-3)
