"""Clusters of samples by their embeddings: spherical k-means, the same on any machine. [ours]

Vectors and centres are on the integer grid (rounding.py). Dot products are exact there, and sums of integers are exact
in float64, so neither the BLAS nor its threads decide which of two centres is nearer; a library's k-means sums floats,
and its clusters would move with the machine. The price: a few more lines than a call, and n·k·d a round.
"""

import numpy as np

from dselect_core.fingerprint import digest
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.rounding import round_unit_vectors

ROUNDS = 25
"""Rounds at most; it ends before where no row changes its cluster."""

_BLOCK = 4_096  # rows at a time: bounds the memory, changes no value


def cluster_rows(pool: Pool, clusters: int) -> np.ndarray:
    """int64 [n], in [0, clusters): the centre of largest cosine to each row, ties to the first centre.

    All rows must have an embedding. The first centres are those of k-means++ (Arthur and Vassilvitskii, 2007), drawn by
    hashes: the first row by sample id, then rows by their squared distance to the nearest centre, as long as there are
    rows that differ. A centre without rows stays where it is.
    """
    assert pool.embeddings is not None
    grid, _ = round_unit_vectors(pool.embeddings)
    centres = grid[_first_centres(grid, clusters)]
    labels = np.full(len(grid), -1, dtype=np.int64)
    for _ in range(ROUNDS):
        nearest = _nearest(grid, centres)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        centres = _means(grid, labels, centres)
    return labels


def _first_centres(grid: np.ndarray, count: int) -> list[int]:
    rows = [0][: len(grid)]
    lengths = np.einsum("ij,ij->i", grid, grid).astype(np.int64)
    distances = np.full(len(grid), np.iinfo(np.int64).max)
    while rows and len(rows) < count:
        dots = (grid @ grid[rows[-1]]).astype(np.int64)
        np.minimum(distances, lengths + lengths[rows[-1]] - 2 * dots, out=distances)
        up_to = np.cumsum(distances)
        if not up_to[-1]:
            break
        drawn = int(digest(["clusters", str(len(rows))]), 16) % int(up_to[-1])
        rows.append(int(np.searchsorted(up_to, drawn, side="right")))
    return rows


def _nearest(grid: np.ndarray, centres: np.ndarray) -> np.ndarray:
    nearest = np.empty(len(grid), dtype=np.int64)
    # Rounded centres differ in length by a little; dividing by it makes the comparison one of cosines.
    lengths = np.sqrt(np.einsum("ij,ij->i", centres, centres, dtype=np.float64))
    for start in range(0, len(grid), _BLOCK):
        dots = grid[start : start + _BLOCK] @ centres.T
        nearest[start : start + _BLOCK] = np.argmax(dots / lengths, axis=1)
    return nearest


def _means(grid: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    means = centres.astype(np.float64)
    by_label = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(centres)))
    for label, rows in enumerate(np.split(by_label, ends[:-1])):
        total = grid[rows].sum(axis=0, dtype=np.float64)
        if total.any():
            means[label] = total
    return round_unit_vectors(means)[0]
