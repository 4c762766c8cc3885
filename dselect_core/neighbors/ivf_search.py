"""The closest other row, nearly always: rows are compared only within the lists of the centroids near to them [ours].

An inverted-file index as faiss's IndexIVFFlat (4·√n lists by k-means, `nprobe` of them looked at; Jégou et al. 2011),
list by list instead of query by query: everybody who looks at a list is one matrix product with its members, and it
serves both sides, so a pair is missed only where neither looks at the other's list. Centroids are on the grid too:
every comparison is exact, and one set of rows has one result on any machine. Some n·√n·(4 + nprobe/2) dot products.
"""

import math

import numpy as np

from dselect_core.neighbors.exact_search import Closest
from dselect_core.progress import Progress
from dselect_core.select.rounding import round_unit_vectors

_SEED = 0
_ITERATIONS = 4
_SAMPLE = 64  # rows per centroid that k-means sees
_BLOCK = 1024


def lists_for(rows: int) -> int:
    """How many lists `rows` are cut into: 4·√n."""
    return max(1, min(rows, round(4 * math.sqrt(rows))))


def comparisons(rows: int, nprobe: int) -> int:
    """About how many dot products a search takes, lists that are longer than the mean allowed for."""
    lists = lists_for(rows)
    return rows * (lists + 2 * min(nprobe, lists) * rows // lists)


def search(closest: Closest, nprobe: int, progress: Progress | None = None) -> None:
    """Compare each row with the members of the `nprobe` lists whose centroids are nearest to it; n ≥ 1."""
    grid = closest.grid
    centroids = _k_means(grid, lists_for(len(grid)))
    home, asked, listed = _assign(grid, centroids, min(nprobe, len(centroids)))
    members, asking = _by_list(home, len(centroids)), _by_list(listed, len(centroids))
    done = 0
    for own, lookers in zip(members, asking, strict=True):
        if len(own) and len(lookers):
            closest.compare(asked[lookers], own, grid[own])
        done += len(own)
        if progress is not None and len(own):
            progress(done, len(grid))


def _k_means(grid: np.ndarray, lists: int) -> np.ndarray:
    """Spherical k-means on the grid over a sample: distinct centroids, float32 [≤ lists, d]. Exact, hence repeatable.

    Sums of integers are exact in float64, and argmax takes the first of equals.
    """
    random = np.random.default_rng(_SEED)
    sample = grid[random.choice(len(grid), min(len(grid), _SAMPLE * lists), replace=False)]
    centroids = np.unique(sample[:lists], axis=0)
    for _ in range(_ITERATIONS):
        home = np.concatenate([(part @ centroids.T).argmax(axis=1) for part in _blocks(sample)])
        for at, own in enumerate(_by_list(home, len(centroids))):
            total = sample[own].sum(axis=0, dtype=np.float64)
            if total.any():  # else nobody's, or opposites: it stays
                centroids[at] = round_unit_vectors(total[None])[0][0]
        # Equal centroids would make every row near to one look at all of them.
        centroids = np.unique(centroids, axis=0)
    return centroids


def _assign(grid: np.ndarray, centroids: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The list of each row; and the pairs (row, list it looks at), by ascending row. Lists as near as the last too."""
    home, asked, listed = [], [], []
    kth = len(centroids) - nprobe
    for number, part in enumerate(_blocks(grid)):
        dot = part @ centroids.T
        home.append(dot.argmax(axis=1))
        row, near = np.nonzero(dot >= np.partition(dot, kth, axis=1)[:, kth, None])
        asked.append((row + number * _BLOCK).astype(np.int32))
        listed.append(near.astype(np.int32))
    return np.concatenate(home), np.concatenate(asked), np.concatenate(listed)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def _by_list(lists: np.ndarray, count: int) -> list[np.ndarray]:
    """For each list the positions that hold it, ascending."""
    order = np.argsort(lists, kind="stable")
    return np.split(order, np.searchsorted(lists[order], np.arange(1, count)))
