"""The grids that selection rounds to, so that one set of tables has one order on any machine [ours].

Everything after the rounding is exact: scores are multiples of 2^-16, and unit vectors are integers whose dot products
float32 holds exactly. The grid cannot hide noise between two scoring runs: a value near the middle of two steps still
rounds either way. Such noise may swap near-ties in an order; the chosen set hardly changes.
"""

import math

import numpy as np

SCORE_STEP = 2.0**-16
"""Scores are rounded to this step: about ten times the noise between batch sizes, far below any real difference."""

NORM_LIMIT = 4096
"""Longest rounded vector: products of two such, and their partial sums, stay within 4096² = 2^24, exact in float32."""

_BLOCK = 512  # rows worked on at a time, so that they stay in the cache; changes no value


def round_scores(values: np.ndarray) -> np.ndarray:
    """`values` [n] rounded to multiples of SCORE_STEP, float64; half-way cases go to the even step, zero is +0.0."""
    # The sum turns -0.0 into 0.0: they are equal but have other bytes, and the key of an order hashes bytes.
    return np.asarray(np.rint(values.astype(np.float64) / SCORE_STEP) * SCORE_STEP + 0.0)


def usable_vectors(vectors: np.ndarray) -> np.ndarray:
    """Boolean [n]: rows of `vectors` [n, d] that have a direction, i.e. all finite and not all zero."""
    usable = np.empty(len(vectors), dtype=bool)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        usable[start : start + _BLOCK] = np.isfinite(block).all(axis=1) & block.any(axis=1)
    return usable


def round_unit_vectors(vectors: np.ndarray) -> tuple[np.ndarray, int]:
    """Unit vectors times a scale, rounded to integers: (float32 [n, d] of integers, the scale).

    `vectors` [n, d] must be usable (see `usable_vectors`). The scale, close to 2^12, depends on d alone: rounding adds
    at most √d/2 to a length, so 4096 - √d/2 keeps every row within NORM_LIMIT. By Cauchy-Schwarz no partial sum of a
    dot product exceeds 2^24, hence float32 gives the same integer for any BLAS, blocking and number of threads.
    """
    n, width = vectors.shape
    scale = math.floor(NORM_LIMIT - math.sqrt(width) / 2)
    grid = np.empty((n, width), dtype=np.float32)
    row_buffer, column_buffer = np.empty((_BLOCK, width)), np.empty((width, _BLOCK))
    for start in range(0, n, _BLOCK):
        block = vectors[start : start + _BLOCK]
        scaled, columns = row_buffer[: len(block)], column_buffer[:, : len(block)]
        columns[:] = block.T
        np.multiply(columns, columns, out=columns)
        squared_length = np.zeros(len(block))
        # Column by column: elementwise sums have one order; the order inside a row reduction depends on the CPU.
        for column in columns:
            squared_length += column
        np.multiply(block, scale, out=scaled, dtype=np.float64)
        scaled /= np.sqrt(squared_length)[:, None]
        grid[start : start + _BLOCK] = np.rint(scaled, out=scaled)
    return grid, scale
