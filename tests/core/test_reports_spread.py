"""How a coreset lies in its pool, against brute force."""

import numpy as np
import pytest

from dselect_core.reports.spread import Spread


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_coverage_is_the_mean_distance_to_the_nearest_of_the_first_rows() -> None:
    spread = Spread(unit(40, 0), unit(17, 1), unit(13, 2))
    rows, ours, drawn = spread.coverage()
    assert rows[0] == 1
    assert rows[-1] == 13  # as far as both go
    for taken, told in ((spread.chosen, ours), (spread.drawn, drawn)):
        for at, distance in zip(rows, told, strict=True):
            nearest = [min(1 - float(row @ other) for other in taken[:at]) for row in spread.pool]
            assert distance == pytest.approx(np.mean(nearest), abs=1e-5)


def test_the_map_keeps_the_two_directions_in_which_the_pool_is_widest() -> None:
    pool = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32) * [0.01, 3.0, 0.02, 1.0]
    spread = Spread(pool.astype(np.float32), pool[:5].astype(np.float32), pool[:5].astype(np.float32))
    points, chosen = spread.map()
    centered = pool - pool.mean(axis=0)
    for direction, column in ((0, 1), (1, 3)):
        assert abs(np.corrcoef(points[:, direction], centered[:, column])[0, 1]) > 0.99
    assert np.allclose(points[:5], chosen, atol=1e-4)
    assert np.array_equal(points, spread.map()[0])
