"""The closest other row of each row by dot product, from blocked matrix products over rows on the grid [ours].

The rows are integers whose dot products float32 holds exactly in any order (rounding.py). So the product alone
decides, ties are ties, and the result is the same for any BLAS, block size and number of threads. A block serves its
rows and its columns at once: looking at all pairs takes half the products, and what new rows mean to old ones is free.
"""

from dataclasses import dataclass

import numpy as np

from dselect_core.progress import Progress

# Rows and columns of a product: large enough for the machine's matrix rate, small enough to be reduced from cache.
_TILE = 1024


@dataclass
class Closest:
    """What is known so far. dot: float32 [n] (-inf: nothing); other: int64 [n], the row that it is with (n: none)."""

    grid: np.ndarray
    dot: np.ndarray
    other: np.ndarray

    @classmethod
    def of(cls, grid: np.ndarray) -> "Closest":
        """grid: float32 [n, d] of round_unit_vectors; it is not copied."""
        n = len(grid)
        return cls(grid, np.full(n, -np.inf, np.float32), np.full(n, n, np.int64))

    def hold(self, rows: np.ndarray, others: np.ndarray) -> None:
        """Set what `rows` have found already."""
        for start in range(0, len(rows), _TILE):
            own, with_ = rows[start : start + _TILE], others[start : start + _TILE]
            self.dot[own] = np.einsum("nd,nd->n", self.grid[own], self.grid[with_])
            self.other[own] = with_

    def cosine(self) -> np.ndarray:
        """float32 [n]: of each row and what it has found, on the grid; -inf where that is nothing."""
        squared = np.einsum("nd,nd->n", self.grid, self.grid).astype(np.float64)
        theirs = np.append(squared, 1.0)[self.other]
        return np.asarray((self.dot / np.sqrt(squared * theirs)).astype(np.float32))

    def compare(self, rows: np.ndarray, others: np.ndarray, vectors: np.ndarray) -> None:
        """Each of `rows` with each of `others` (both ascending), and the other way round.

        vectors: grid[others]. Of equal dot products the lowest row wins, in whatever order the pairs come.
        """
        for start in range(0, len(rows), _TILE):
            own = rows[start : start + _TILE]
            left = self.grid[own]
            for first in range(0, len(others), _TILE):
                them = others[first : first + _TILE]
                dot = left @ vectors[first : first + _TILE].T
                position = np.searchsorted(them, own)
                position[position == len(them)] = 0
                itself = np.flatnonzero(them[position] == own)
                dot[itself, position[itself]] = -np.inf
                self._offer(own, them, dot)
                self._offer(them, own, dot.T)

    def _offer(self, rows: np.ndarray, others: np.ndarray, dot: np.ndarray) -> None:
        """Most rows of a block have found better before: only those that have not are asked which one it is."""
        top = dot.max(axis=1)
        # As near is not enough where even the first of the others comes after the one that was found.
        as_near = (top == self.dot[rows]) & (others[0] < self.other[rows]) & (top > -np.inf)
        at = np.flatnonzero((top > self.dot[rows]) | as_near)
        if not len(at):
            return
        found, top, rows = others[dot[at].argmax(axis=1)], top[at], rows[at]
        better = (top > self.dot[rows]) | (found < self.other[rows])
        self.dot[rows[better]], self.other[rows[better]] = top[better], found[better]


def search(closest: Closest, rows: np.ndarray, progress: Progress | None = None) -> None:
    """Compare each of `rows` (ascending) with every row: |rows|·n dot products, n²/2 at most."""
    n = len(closest.grid)
    everything = np.arange(n)
    # From half of the rows on, all pairs, each once, are no more than those of `rows` with all.
    halved = 2 * len(rows) >= n
    rows = everything if halved else rows
    for start in range(0, len(rows), _TILE):
        own = rows[start : start + _TILE]
        first = start if halved else 0
        closest.compare(own, everything[first:], closest.grid[first:])
        if progress is not None:
            progress(start + len(own), len(rows))
