"""d3 and kcenter against a brute force in whole numbers, and the exactness of the grid they stand on."""

import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect_core.errors import DselectError
from dselect_core.select import rounding as grid_module
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.farthest_first import MAX_WEIGHT_STEPS, farthest_first
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import NORM_LIMIT, SCORE_STEP, round_unit_vectors
from dselect_core.select.select import select


def reference(vectors: list[list[float]], weight_steps: list[int]) -> list[tuple[int, float | None]]:
    """methods.md D3.4 as written, every distance from scratch, in Python integers."""
    scale = math.floor(4096 - math.sqrt(len(vectors[0])) / 2)
    unit = [[round(x * scale / math.sqrt(math.fsum(y * y for y in v))) for x in v] for v in vectors]
    left = list(range(len(vectors)))
    chosen = [max(left, key=lambda i: (weight_steps[i], -i))]
    picks: list[tuple[int, float | None]] = [(chosen[0], None)]
    left.remove(chosen[0])
    while left:

        def squared_gain(i: int) -> int:
            return weight_steps[i] ** 2 * min(
                sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True)) for j in chosen
            )

        best = max(left, key=lambda i: (squared_gain(i), -i))
        picks.append((best, math.sqrt(squared_gain(best)) * SCORE_STEP / scale))
        chosen.append(best)
        left.remove(best)
    return picks


def assert_same(picks: list[tuple[int, float | None]], expected: list[tuple[int, float | None]]) -> None:
    assert [row for row, _ in picks] == [row for row, _ in expected]
    assert picks[0][1] is None and expected[0][1] is None
    assert [gain for _, gain in picks[1:]] == pytest.approx([gain for _, gain in expected[1:]], rel=1e-12)


def run(vectors: np.ndarray, weight_steps: np.ndarray) -> list[tuple[int, float | None]]:
    return [(pick.row, pick.gain) for pick in farthest_first(vectors, weight_steps)]


# Few values, so that duplicates, parallel vectors and equal weighted distances are common.
small_cases = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.tuples(
            st.lists(st.integers(-2, 2), min_size=width, max_size=width).filter(any),
            st.sampled_from([0, 1, 2, 3, 65_536, MAX_WEIGHT_STEPS]),
        ),
        min_size=1,
        max_size=9,
    )
)


@given(small_cases)
def test_equals_brute_force_with_ties_and_duplicates(case: list[tuple[list[int], int]]) -> None:
    vectors, weights = [v for v, _ in case], [w for _, w in case]
    assert_same(run(np.array(vectors, dtype=np.float32), np.array(weights)), reference(vectors, weights))


@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force_on_ordinary_vectors(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(40, 24)).astype(np.float32)
    weights = random.integers(1, 2**16, size=40)
    picks = run(vectors, weights)
    assert_same(picks, reference(vectors.astype(float).tolist(), weights.tolist()))
    gains = [gain for _, gain in picks if gain is not None]
    assert all(earlier >= later for earlier, later in pairwise(gains))


def test_equal_weighted_distances_are_a_tie_whatever_their_square_roots() -> None:
    # From e, one vector lies at √2 and the other at 3/4 of that, both exactly on the grid of 1,000 dimensions (scale
    # 4080, a multiple of 16). Weights 3u and 4u make them equal, though float products of the roots often differ.
    vectors = np.zeros((3, 1000), dtype=np.float32)
    vectors[0, 999] = 1
    vectors[1, :13] = [7, 14, *[1] * 11]
    vectors[2, 0] = 1
    for u in range(1, 2000, 7):
        for tied in (np.array([3 * u, 4 * u]), np.array([4 * u, 3 * u])):
            order = [0, 1, 2] if tied[0] == 3 * u else [1, 0, 2]
            picks = run(vectors[order], np.array([*tied, MAX_WEIGHT_STEPS]))
            assert [row for row, _ in picks] == [2, 0, 1]


@given(small_cases)
def test_with_all_weights_one_it_is_kcenter_exactly(case: list[tuple[list[int], int]]) -> None:
    scores = pl.DataFrame({"sample_id": [f"{i:032x}" for i in range(len(case))]}).with_columns(upd=1.0, grade=1.0)
    pool = Pool.of(scores, embeddings=np.array([v for v, _ in case], dtype=np.float32))
    weighted = select(pool, CoresetSpec(strategy="d3", budget="100%")).order
    assert weighted.equals(select(pool, CoresetSpec(strategy="kcenter", budget="100%")).order)
    assert weighted["sample_id"].to_list() == [f"{i:032x}" for i, _ in reference([v for v, _ in case], [1] * len(case))]


@pytest.mark.parametrize("width", [1, 3, 192, 384, 1024, 4096])
def test_dot_products_of_the_grid_are_exact_in_float32(width: int) -> None:
    random = np.random.default_rng(width)
    vectors = random.normal(size=(200, width)).astype(np.float32)
    vectors[0], vectors[1] = 1.0, -1.0  # equal entries: the most that rounding can add to a length
    vectors[2:4] = np.eye(1, width)  # one entry: the largest component
    grid, scale = round_unit_vectors(vectors)
    whole = grid.astype(np.int64)
    assert NORM_LIMIT - 1 - math.sqrt(width) / 2 < scale <= NORM_LIMIT
    assert (np.sqrt((whole * whole).sum(axis=1)) <= NORM_LIMIT).all()
    exact = whole @ whole.T
    assert (grid @ grid.T == exact).all()  # one blocking of the BLAS
    assert all((grid @ row == wanted).all() for row, wanted in zip(grid, exact, strict=True))  # another
    assert (np.cumsum(grid * grid[0], axis=1)[:, -1] == exact[0]).all()  # none


def test_the_grid_does_not_depend_on_length_or_block(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)
    whole, _ = round_unit_vectors(vectors)
    assert (round_unit_vectors(vectors * np.float32(2**20))[0] == whole).all()
    monkeypatch.setattr(grid_module, "_BLOCK", 7)
    assert (round_unit_vectors(vectors)[0] == whole).all()


@pytest.mark.parametrize(("upd", "grade"), [(-0.1, 0.5), (3.0, 2.0)])
def test_weights_out_of_range_are_named(upd: float, grade: float) -> None:
    scores = pl.DataFrame({"sample_id": ["a", "b"], "upd": [0.5, upd], "grade": [1.0, grade]})
    with pytest.raises(DselectError, match=r"sample b: upd · grade is .* but upd and grade lie in \[0, 1\]"):
        select(Pool.of(scores, embeddings=np.eye(2, dtype=np.float32)), CoresetSpec(strategy="d3", budget=1))
