"""Orders by one score column: MIWV (arXiv 2511.07074: keep the highest [paper]) and the `topk:<column>` baselines.

An order that is a sort keeps no state: continuing it sorts again and skips what was picked. That costs n·log n whether
one pick is made or all; a million rows take about 0.2 s.
"""

from collections.abc import Sequence

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import round_scores
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy


def ranked_order(pool: Pool, column: str, saved: SavedOrder | None = None) -> Order:
    """Rows by `column`, highest first, ties to the lowest row; the gain is the value, rounded to the score grid."""
    values = ranked_values(pool, column)
    return SortedOrder(np.argsort(-values, kind="stable").tolist(), values, saved)


def ranked_values(pool: Pool, column: str) -> np.ndarray:
    """What `ranked_order` compares: float64 [n]."""
    return round_scores(pool.scores[column].to_numpy())


class SortedOrder(Order):
    """An order whose rows are known from the start.

    rows: all rows of the pool, in order. gains: float64 [n], by row; None where the method defines none. saved: the
    picks that are not given again; None: none.
    """

    def __init__(self, rows: Sequence[int], gains: np.ndarray | None, saved: SavedOrder | None) -> None:
        self._rows = rows
        self._gains = gains
        self._pick_count = 0 if saved is None else len(saved.picks)

    def __next__(self) -> Pick:
        if self._pick_count == len(self._rows):
            raise StopIteration
        row = self._rows[self._pick_count]
        self._pick_count += 1
        return Pick(row, None if self._gains is None else float(self._gains[row]), None)

    def state(self) -> dict[str, np.ndarray]:
        """Nothing: a sort is continued by sorting again."""
        return {}

    def standing(self) -> np.ndarray:
        """As `Order.standing`: the values of the rows that are not picked."""
        if self._gains is None:
            return np.full(len(self._rows), np.nan)
        standing = self._gains.copy()
        standing[self._rows[: self._pick_count]] = np.nan
        return standing


def top_k(name: str, column: str, kind: str, description: str = "") -> Strategy:
    """A strategy that takes the rows with the highest `column`, a column of the scores of `kind`."""

    # Every order takes a seed; a ranking does not use it.
    def order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        return ranked_order(pool, column, saved)

    def values(pool: Pool) -> np.ndarray:
        return ranked_values(pool, column)

    return Strategy(name, description or f"highest {column}", frozenset({kind}), (column,), order, values)


MIWV = top_k("miwv", "miwv", "miwv", "where the model is weak: highest MIWV")
