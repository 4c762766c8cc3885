"""Cosines of many rows to few examples: each example's nearest rows, and each row's nearest example.

Vectors are on the grid (rounding.py), so a matrix product gives exact integers whatever its blocks and threads. The
product is made block by block and never kept whole. In each block float32 cosines find the few pairs that can matter,
with a margin above their error; those are compared by a cosine in float64, which takes one product, one square root and
one division of exact integers and so is the same on any machine. Equal cosines go to the lower row, or example.

Rows are compared with all examples, or only with those that probe the list of a row (`ProbedLists`). The second misses
some near rows, but what it finds has the cosine that it has, and the same lists come out on any machine.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dselect_core.select.inverted_lists import assign, home_lists, k_means, positions_by_list
from dselect_core.select.rounding import NORM_LIMIT, round_unit_vectors

_BLOCK = 4_096  # rows multiplied at a time: bounds the memory, changes no value
_GROUP = 512  # examples multiplied at a time: the same
_FEWEST_LISTS = 16
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

    @property
    def grids(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the examples on the grid."""
        return self._rows, self._examples

    def nearest_rows(
        self, examples: np.ndarray, length: int, is_taken: np.ndarray, lists: "ProbedLists | None" = None
    ) -> list[Nearest]:
        """For each of `examples` (int64, numbers of examples) its `length` nearest rows that are not taken.

        is_taken: boolean [n]. lists: then only of the rows in the lists that it probes. Fewer rows where fewer are
        left. Memory: 12 bytes for each row of each list, and a block.
        """
        found: list[Nearest] = []
        for start in range(0, len(examples), _GROUP):
            group = examples[start : start + _GROUP]
            compared = _all_rows(len(group), is_taken) if lists is None else lists.compared(group, is_taken)
            found += self._nearest_rows(group, length, len(is_taken), compared)
        return found

    def _nearest_rows(
        self, examples: np.ndarray, length: int, n: int, compared: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> list[Nearest]:
        """compared: which rows (ascending, _BLOCK at most) with which of the examples (positions, ascending)."""
        count, room = len(examples), min(length, n) + _BLOCK
        vectors = self._examples[examples]
        rows, similarities = np.empty((count, room), dtype=np.int32), np.empty((count, room))
        filled = np.zeros(count, dtype=np.int64)
        floors = np.full(count, -np.inf)  # of a full list: its lowest cosine, which later rows must reach
        inverse_lengths = (1 / np.sqrt(self._row_squares)).astype(np.float32)
        lengths = np.sqrt(self._example_squares[examples])
        for free, of in compared:
            consecutive = free[-1] - free[0] + 1 == len(free)
            dots = vectors[of] @ (self._rows[free[0] : free[-1] + 1] if consecutive else self._rows[free]).T
            cosines = dots * inverse_lengths[free]
            hits = np.flatnonzero(cosines >= (floors[of] * lengths[of]).astype(np.float32)[:, None] - _MARGIN)
            at, column = np.divmod(hits, len(free))
            at = of[at]
            exact = self._exact(dots.ravel()[hits], free[column], examples[at])
            reaches = exact >= floors[at]
            at, hit_rows, exact = at[reaches], free[column[reaches]], exact[reaches]
            counts = np.bincount(at, minlength=count)
            for full in np.flatnonzero(filled + counts > room):
                kept = _highest(similarities[full, : filled[full]], rows[full, : filled[full]], length)
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


class ProbedLists:
    """The rows of `Similarities` in inverted lists (inverted_lists.py), and which of them each example probes.

    lists: how many; nprobe: how many each example probes, those whose centroids are nearest. With about q^(2/3) lists,
    and twice the root of that probed, cutting the rows into lists costs half as much as looking through them.
    """

    def __init__(self, similarities: Similarities) -> None:
        rows, examples = similarities.grids
        centroids = k_means(rows, list_count(len(rows), len(examples)))
        self.lists = len(centroids)
        self.nprobe = min(self.lists, round(2 * math.sqrt(self.lists)))
        self._members = positions_by_list(home_lists(rows, centroids), self.lists)
        _, probing, probed = assign(examples, centroids, self.nprobe)
        self._probes = np.zeros((self.lists, len(examples)), dtype=bool)
        self._probes[probed, probing] = True

    def compared(self, examples: np.ndarray, is_taken: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `_nearest_rows` asks for it: list by list."""
        for members, probes in zip(self._members, self._probes, strict=True):
            of = np.flatnonzero(probes[examples])
            free = members[~is_taken[members]] if len(of) else members[:0]
            for start in range(0, len(free), _BLOCK):
                yield free[start : start + _BLOCK], of


def list_count(rows: int, examples: int) -> int:
    """How many lists so many rows are cut into for so many examples."""
    return max(1, min(rows, max(_FEWEST_LISTS, round(math.pow(examples, 2 / 3)))))


def _all_rows(examples: int, is_taken: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(is_taken), _BLOCK):
        free = start + np.flatnonzero(~is_taken[start : start + _BLOCK])
        if len(free):
            yield free, np.arange(examples)


def _highest(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` highest of more values, ascending; equal ones go to the lowest rows."""
    lowest = np.partition(values, -count)[-count]
    is_kept = values > lowest
    ties = np.flatnonzero(values == lowest)
    is_kept[ties[np.argsort(rows[ties])[: count - np.count_nonzero(is_kept)]]] = True
    return np.flatnonzero(is_kept)


def _sorted(rows: np.ndarray, similarities: np.ndarray, length: int) -> Nearest:
    """The first `length` by similarity; ties go to the lower row."""
    order = np.lexsort((rows, -similarities))[:length]
    return Nearest(rows[order], similarities[order])
