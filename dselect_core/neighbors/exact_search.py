"""The nearest other row of each row by dot product, from blocked matrix products over rows on the grid [ours].

The rows are integers whose dot products float32 holds exactly in any order of summation (rounding.py). So ties are
exact, and the result is the same for any BLAS, block size and number of threads. Each block of products updates its
rows and its columns at once: all pairs take half the products, and comparing new rows with old ones updates both.
"""

from dataclasses import dataclass

import numpy as np

from dselect_core.progress import Progress

# Rows and columns of a product: large enough for the machine's matrix rate, small enough to be reduced from cache.
_TILE = 1024


@dataclass
class NearestRows:
    """For each of n rows the nearest other row found so far; comparisons update it in place.

    grid: float32 [n, d], of `round_unit_vectors`. dot: float32 [n], the largest dot product so far; -inf where there is
    none. nearest: int64 [n], the row with that dot product; n where there is none.
    """

    grid: np.ndarray
    dot: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, grid: np.ndarray) -> "NearestRows":
        """No row has a nearest one yet. grid: float32 [n, d] of `round_unit_vectors`; it is not copied."""
        n = len(grid)
        return cls(grid, np.full(n, -np.inf, np.float32), np.full(n, n, np.int64))

    def set_nearest(self, rows: np.ndarray, nearest: np.ndarray) -> None:
        """Start `rows` (int64 [m]) with a nearest row each (int64 [m]) from an earlier search."""
        for start in range(0, len(rows), _TILE):
            block, nearest_block = rows[start : start + _TILE], nearest[start : start + _TILE]
            self.dot[block] = np.einsum("nd,nd->n", self.grid[block], self.grid[nearest_block])
            self.nearest[block] = nearest_block

    def cosine(self) -> np.ndarray:
        """float32 [n]: the cosine of each row and its nearest one, on the grid; -inf where it has none."""
        squared_lengths = np.einsum("nd,nd->n", self.grid, self.grid).astype(np.float64)
        squared_lengths_of_nearest = np.append(squared_lengths, 1.0)[self.nearest]
        return np.asarray((self.dot / np.sqrt(squared_lengths * squared_lengths_of_nearest)).astype(np.float32))

    def compare(self, rows: np.ndarray, others: np.ndarray, vectors: np.ndarray) -> None:
        """Compare each of `rows` with each of `others`, and update both sides.

        rows, others: int64, ascending, either may hold rows of the other. vectors: grid[others]. Of equal dot products
        the lowest row wins, in whatever order the pairs come.
        """
        for start in range(0, len(rows), _TILE):
            row_block = rows[start : start + _TILE]
            row_vectors = self.grid[row_block]
            for other_start in range(0, len(others), _TILE):
                other_block = others[other_start : other_start + _TILE]
                dots = row_vectors @ vectors[other_start : other_start + _TILE].T
                position = np.searchsorted(other_block, row_block)
                position[position == len(other_block)] = 0
                in_both = np.flatnonzero(other_block[position] == row_block)
                dots[in_both, position[in_both]] = -np.inf  # a row is not its own neighbour
                self._update(row_block, other_block, dots)
                self._update(other_block, row_block, dots.T)

    def _update(self, rows: np.ndarray, others: np.ndarray, dots: np.ndarray) -> None:
        """Take over what `dots` [rows, others] improves. The argmax is taken only of the few rows that can improve."""
        largest = dots.max(axis=1)
        # An equal product improves nothing where even the first of the others comes after the nearest row so far.
        may_win_tie = (largest == self.dot[rows]) & (others[0] < self.nearest[rows]) & (largest > -np.inf)
        candidates = np.flatnonzero((largest > self.dot[rows]) | may_win_tie)
        if not len(candidates):
            return
        nearest, largest, rows = others[dots[candidates].argmax(axis=1)], largest[candidates], rows[candidates]
        better = (largest > self.dot[rows]) | (nearest < self.nearest[rows])
        self.dot[rows[better]], self.nearest[rows[better]] = largest[better], nearest[better]


def search(nearest_rows: NearestRows, rows: np.ndarray, progress: Progress | None = None) -> None:
    """Compare each of `rows` (int64, ascending) with every row: |rows|·n dot products, n²/2 at most."""
    n = len(nearest_rows.grid)
    all_rows = np.arange(n)
    # Once half of the rows are searched, all pairs, each once, are no more products than `rows` with all.
    all_pairs = 2 * len(rows) >= n
    rows = all_rows if all_pairs else rows
    for start in range(0, len(rows), _TILE):
        block = rows[start : start + _TILE]
        first_other = start if all_pairs else 0
        nearest_rows.compare(block, all_rows[first_other:], nearest_rows.grid[first_other:])
        if progress is not None:
            progress(start + len(block), len(rows))
