"""Cosines of many rows to few examples: each example's nearest rows, and each row's nearest example, exactly.

Vectors are on the grid (rounding.py), so a matrix product gives exact integers whatever its blocks and threads. The
product is made block by block and never kept whole. In each block float32 cosines find the few pairs that can matter,
with a margin above their error; those are compared by a cosine in float64, which takes one product, one square root and
one division of exact integers and so is the same on any machine. Equal cosines go to the lower row, or example.
"""

from typing import NamedTuple

import numpy as np

from dselect_core.select.rounding import NORM_LIMIT, round_unit_vectors

_BLOCK = 4_096  # rows multiplied at a time: bounds the memory, changes no value
_GROUP = 512  # examples multiplied at a time: the same
_MARGIN = np.float32(NORM_LIMIT * 2.0**-20)  # above the error of a float32 cosine times NORM_LIMIT


class Nearest(NamedTuple):
    """The nearest rows of one example, nearest first. rows: int32; similarities: float64, their cosines."""

    rows: np.ndarray
    similarities: np.ndarray


class Similarities:
    """Cosines of rows, float [n, d], and examples, float [q, d]; both usable (`rounding.usable_vectors`)."""

    def __init__(self, rows: np.ndarray, examples: np.ndarray) -> None:
        self._rows, _ = round_unit_vectors(rows)
        self._examples, _ = round_unit_vectors(examples)
        # At most 2^24, so exact.
        self._row_squares = np.einsum("ij,ij->i", self._rows, self._rows).astype(np.float64)
        self._example_squares = np.einsum("ij,ij->i", self._examples, self._examples).astype(np.float64)

    def nearest_rows(self, examples: np.ndarray, length: int, is_taken: np.ndarray) -> list[Nearest]:
        """For each of `examples` (int64, numbers of examples) its `length` nearest rows that are not taken.

        is_taken: boolean [n]. Fewer rows where fewer are left. Memory: 12 bytes for each row of each list, and a block.
        """
        found: list[Nearest] = []
        for start in range(0, len(examples), _GROUP):
            found += self._nearest_rows(examples[start : start + _GROUP], length, is_taken)
        return found

    def _nearest_rows(self, examples: np.ndarray, length: int, is_taken: np.ndarray) -> list[Nearest]:
        count, room = len(examples), min(length, len(is_taken)) + _BLOCK
        vectors = self._examples[examples]
        rows, similarities = np.empty((count, room), dtype=np.int32), np.empty((count, room))
        filled = np.zeros(count, dtype=np.int64)
        floors = np.full(count, -np.inf)  # of a full list: its lowest cosine, which later rows must exceed
        inverse_lengths = (1 / np.sqrt(self._row_squares)).astype(np.float32)
        lengths = np.sqrt(self._example_squares[examples])
        for start in range(0, len(is_taken), _BLOCK):
            block = slice(start, start + _BLOCK)
            free = start + np.flatnonzero(~is_taken[block])
            dots = vectors @ (self._rows[block] if len(free) == len(is_taken[block]) else self._rows[free]).T
            cosines = dots * inverse_lengths[free]
            hits = np.flatnonzero(cosines >= (floors * lengths).astype(np.float32)[:, None] - _MARGIN)
            at, column = np.divmod(hits, max(1, len(free)))
            exact = self._exact(dots.ravel()[hits], free[column], examples[at])
            above = exact > floors[at]
            at, hit_rows, exact = at[above], free[column[above]], exact[above]
            counts = np.bincount(at, minlength=count)
            for full in np.flatnonzero(filled + counts > room):
                kept = _highest(similarities[full, : filled[full]], length)
                rows[full, :length], similarities[full, :length] = rows[full, kept], similarities[full, kept]
                filled[full], floors[full] = length, similarities[full, :length].min()
            place = filled[at] + np.arange(len(at)) - (np.cumsum(counts) - counts)[at]
            rows[at, place], similarities[at, place] = hit_rows, exact
            filled += counts
        return [_sorted(rows[at, : filled[at]], similarities[at, : filled[at]], length) for at in range(count)]

    def nearest_examples(self) -> tuple[np.ndarray, np.ndarray]:
        """For each row its nearest example, int64 [n], and their cosine, float64 [n]."""
        n, q = len(self._rows), len(self._examples)
        example, similarity = np.empty(n, dtype=np.int64), np.empty(n)
        inverse_lengths = (1 / np.sqrt(self._example_squares)).astype(np.float32)
        size = max(1, min(_BLOCK, _BLOCK * _GROUP // q))
        for start in range(0, n, size):
            dots = self._rows[start : start + size] @ self._examples.T
            cosines = dots * inverse_lengths
            hits = np.flatnonzero(cosines >= cosines.max(axis=1)[:, None] - _MARGIN)
            row, at = np.divmod(hits, q)
            exact = self._exact(dots.ravel()[hits], start + row, at)
            # By cosine inside each row; the sort is stable, so the lowest of equal examples stays the first.
            by_cosine = np.lexsort((-exact, row))
            first = by_cosine[np.flatnonzero(np.diff(row, prepend=-1))]
            example[start : start + size], similarity[start : start + size] = at[first], exact[first]
        return example, similarity

    def to_example(self, example: int) -> np.ndarray:
        """Cosines of all rows to one example, float64 [n]."""
        rows = np.arange(len(self._rows))
        return self._exact(self._rows @ self._examples[example], rows, np.full(len(rows), example))

    def _exact(self, dots: np.ndarray, rows: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """float64; the product of two squared lengths is below 2^53, so only the root and the quotient are rounded."""
        squares = self._row_squares[rows] * self._example_squares[examples]
        return np.asarray(dots.astype(np.float64) / np.sqrt(squares))


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` highest of more values, ascending; equal ones go to the first."""
    lowest = np.partition(values, -count)[-count]
    is_kept = values > lowest
    ties = np.flatnonzero(values == lowest)
    is_kept[ties[: count - np.count_nonzero(is_kept)]] = True
    return np.flatnonzero(is_kept)


def _sorted(rows: np.ndarray, similarities: np.ndarray, length: int) -> Nearest:
    """The first `length` by similarity; rows are ascending, and the sort is stable, so ties go to the lower row."""
    order = np.argsort(-similarities, kind="stable")[:length]
    return Nearest(rows[order], similarities[order])
