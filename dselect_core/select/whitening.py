"""Vectors without their common directions: the option `whiten`. [ours, after BERT-whitening, arXiv 2103.15316]

    x' = (S + r·I)^(-1/2) · (x - mean),     r = RIDGE · trace(S) / d

Mean-pooled states of a language model point nearly the same way: a few directions that all rows share decide every
cosine. Whitening centres them and gives each direction the same variance. The symmetric root is the one that moves the
vectors least, and it is the same whatever basis the eigenvectors come in; the ridge keeps directions that hold next to
nothing from becoming as large as any.

The transform is fitted on the rows that can be chosen, in one pass over them. What this trades off: one new row moves
all vectors a little, so an order is made anew; in return nothing has to be pinned beside the model, and the same rows
give the same order whatever came before them. Sums are BLAS's, so a tie may fall otherwise on another CPU.
"""

from dataclasses import replace

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.strategy import Option

RIDGE = 1e-3
"""Of the mean variance of a direction."""
ROWS_PER_DIRECTION = 2
"""With fewer rows than directions all whitened rows are equally far apart, so that nothing is left to choose by."""

_BLOCK = 16_384  # rows worked on at a time: bounds the memory


def whitened(vectors: np.ndarray) -> np.ndarray:
    """`vectors` [n, d], finite, whitened by their own mean and covariance: float32 [n, d]; in float64 until then.

    Raises DselectError where n is below ROWS_PER_DIRECTION · d, or where all rows are equal.
    """
    n, width = vectors.shape
    if n < ROWS_PER_DIRECTION * width:
        raise DselectError(
            f"`whiten` needs {ROWS_PER_DIRECTION * width} rows for vectors of {width} numbers, and only {n} can be "
            "chosen: leave it out, or add sources"
        )
    blocks = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
    mean = sum((vectors[rows].sum(axis=0, dtype=np.float64) for rows in blocks), np.zeros(width)) / n
    products = np.zeros((width, width))
    for rows in blocks:
        centred = vectors[rows] - mean
        products += centred.T @ centred
    variances, directions = np.linalg.eigh(products / n)
    ridge = RIDGE * float(variances.sum()) / width
    if ridge <= 0:
        raise DselectError("`whiten` has nothing to go by: all vectors are equal; leave it out")
    root = (directions / np.sqrt(np.maximum(variances, 0) + ridge)) @ directions.T
    found = np.empty((n, width), dtype=np.float32)
    for rows in blocks:
        found[rows] = (vectors[rows] - mean) @ root
    return found


def whiten(pool: Pool, column: str) -> Pool:
    """The pool with its embeddings whitened; `column` is not read. Raises as `whitened`, or where a row is the mean."""
    assert pool.embeddings is not None
    found = whitened(pool.embeddings)
    at_mean = np.flatnonzero(~found.any(axis=1))
    if len(at_mean):
        raise DselectError(
            f"sample {pool.sample_ids[int(at_mean[0])]}: its vector is the mean of all, so `whiten` leaves it no "
            "direction; leave `whiten` out"
        )
    return replace(pool, embeddings=found)


WHITEN = Option(
    bool,
    False,
    "d3, kcenter, facility-location: distances count in embeddings without the directions that all rows share",
    in_records_at_default=False,
    prepares=whiten,
    prepares_scores=False,
)
