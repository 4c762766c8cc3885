"""Rows of a grid cut into lists by k-means: what an approximate search looks through instead of all rows. [ours]

The inverted file of faiss's IndexIVFFlat (Jégou et al. 2011). Vectors and centroids are on the integer grid
(rounding.py): dot products and sums are exact there, so one set of rows has the same lists on any machine, which a
library that sums floats does not promise. The price is a k-means of our own, of four rounds over a sample.
"""

from collections.abc import Sequence

import numpy as np

from dselect_core.select.rounding import round_unit_vectors
from dselect_core.stop import raise_if_stopped

_SEED = 0
_ITERATIONS = 4
_SAMPLE_ROWS = 64  # rows per centroid that k-means reads
_BLOCK = 1024


def k_means(grid: np.ndarray, lists: int) -> np.ndarray:
    """Spherical k-means on the grid over a sample: distinct centroids, float32 [≤ lists, d].

    It is exact, hence repeatable: sums of integers are exact in float64, and argmax takes the first of equals.
    """
    random = np.random.default_rng(_SEED)
    sample = grid[random.choice(len(grid), min(len(grid), _SAMPLE_ROWS * lists), replace=False)]
    centroids = np.unique(sample[:lists], axis=0)
    for _ in range(_ITERATIONS):
        raise_if_stopped()
        for number, members in enumerate(positions_by_list(home_lists(sample, centroids), len(centroids))):
            total = sample[members].sum(axis=0, dtype=np.float64)
            if total.any():  # a centroid without members, or with opposite ones, stays as it is
                centroids[number] = round_unit_vectors(total[None])[0][0]
        # Equal centroids would make every row near one of them probe them all.
        centroids = np.unique(centroids, axis=0)
    return centroids


def home_lists(grid: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The list that each row lies in, int64 [n]: that of its nearest centroid, the first of equals."""
    return np.concatenate([(block @ centroids.T).argmax(axis=1) for block in _blocks(grid)])


def assign(rows: np.ndarray, centroids: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(list of each row; rows and lists of the pairs (row, list that it probes), by ascending row).

    A row probes the `nprobe` lists whose centroids are nearest, and those that are as near as its last one.
    """
    homes, probing_rows, probed, start = [], [], [], 0
    kth = len(centroids) - nprobe
    for block in _blocks(rows):
        dots = block @ centroids.T
        homes.append(dots.argmax(axis=1))
        row, near_list = np.nonzero(dots >= np.partition(dots, kth, axis=1)[:, kth, None])
        probing_rows.append((row + start).astype(np.int32))
        probed.append(near_list.astype(np.int32))
        start += len(block)
    return np.concatenate(homes), np.concatenate(probing_rows), np.concatenate(probed)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def positions_by_list(lists: np.ndarray, count: int) -> Sequence[np.ndarray]:
    """For each list number below `count` the positions in `lists` that hold it, ascending."""
    order = np.argsort(lists, kind="stable")
    return np.split(order, np.searchsorted(lists[order], np.arange(1, count)))
