"""The nearest other row for nearly all rows: each is compared only within the lists of its nearest centroids [ours].

This is the inverted-file index of faiss's IndexIVFFlat (Jégou et al. 2011): k-means cuts the rows into 4·√n lists, and
each row probes the `nprobe` lists whose centroids are nearest. It works list by list, not query by query: all rows that
probe a list are compared with its members in one matrix product, which updates both sides. So a pair is missed only
where neither row probes the list of the other. Centroids are on the grid too, so every comparison is exact and one set
of rows has one result on any machine. The price is about n·√n·(4 + nprobe/2) dot products.
"""

import math

import numpy as np

from dselect_core.neighbors.exact_search import NearestRows
from dselect_core.progress import Progress
from dselect_core.select.rounding import round_unit_vectors
from dselect_core.stop import raise_if_stopped

_SEED = 0
_ITERATIONS = 4
_SAMPLE_ROWS = 64  # rows per centroid that k-means reads
_BLOCK = 1024


def list_count(rows: int) -> int:
    """How many lists `rows` rows are cut into: 4·√n."""
    return max(1, min(rows, round(4 * math.sqrt(rows))))


def comparison_count(rows: int, nprobe: int) -> int:
    """About how many dot products a search takes; lists longer than the mean are allowed for."""
    lists = list_count(rows)
    return rows * (lists + 2 * min(nprobe, lists) * rows // lists)


def search(nearest_rows: NearestRows, nprobe: int, progress: Progress | None = None) -> None:
    """Compare each row with the members of the `nprobe` lists whose centroids are nearest to it; n ≥ 1."""
    grid = nearest_rows.grid
    centroids = _k_means(grid, list_count(len(grid)))
    home_lists, probing_rows, probed_lists = _assign(grid, centroids, min(nprobe, len(centroids)))
    members_of = _positions_by_list(home_lists, len(centroids))
    probes_of = _positions_by_list(probed_lists, len(centroids))
    rows_done = 0
    for members, probes in zip(members_of, probes_of, strict=True):
        if len(members) and len(probes):
            nearest_rows.compare(probing_rows[probes], members, grid[members])
        rows_done += len(members)
        if progress is not None and len(members):
            progress(rows_done, len(grid))


def _k_means(grid: np.ndarray, lists: int) -> np.ndarray:
    """Spherical k-means on the grid over a sample: distinct centroids, float32 [≤ lists, d].

    It is exact, hence repeatable: sums of integers are exact in float64, and argmax takes the first of equals.
    """
    random = np.random.default_rng(_SEED)
    sample = grid[random.choice(len(grid), min(len(grid), _SAMPLE_ROWS * lists), replace=False)]
    centroids = np.unique(sample[:lists], axis=0)
    for _ in range(_ITERATIONS):
        raise_if_stopped()
        home_lists = np.concatenate([(block @ centroids.T).argmax(axis=1) for block in _blocks(sample)])
        for number, members in enumerate(_positions_by_list(home_lists, len(centroids))):
            total = sample[members].sum(axis=0, dtype=np.float64)
            if total.any():  # a centroid without members, or with opposite ones, stays as it is
                centroids[number] = round_unit_vectors(total[None])[0][0]
        # Equal centroids would make every row near one of them probe them all.
        centroids = np.unique(centroids, axis=0)
    return centroids


def _assign(grid: np.ndarray, centroids: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(list of each row; rows and lists of the pairs (row, list it probes), by ascending row).

    A row also probes the lists that are as near as its last one.
    """
    home_lists, probing_rows, probed_lists = [], [], []
    kth = len(centroids) - nprobe
    for number, block in enumerate(_blocks(grid)):
        dots = block @ centroids.T
        home_lists.append(dots.argmax(axis=1))
        row, near_list = np.nonzero(dots >= np.partition(dots, kth, axis=1)[:, kth, None])
        probing_rows.append((row + number * _BLOCK).astype(np.int32))
        probed_lists.append(near_list.astype(np.int32))
    return np.concatenate(home_lists), np.concatenate(probing_rows), np.concatenate(probed_lists)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def _positions_by_list(lists: np.ndarray, count: int) -> list[np.ndarray]:
    """For each list number below `count` the positions in `lists` that hold it, ascending."""
    order = np.argsort(lists, kind="stable")
    return np.split(order, np.searchsorted(lists[order], np.arange(1, count)))
