"""Orders by one score column: MIWV (arXiv 2511.07074: keep the highest [paper]) and the `topk:<column>` baselines.

An order that is a sort keeps no state: continuing it sorts again and skips what was picked. That costs n·log n whether
one pick is made or all; a million rows take about 0.2 s.
"""

from collections.abc import Sequence

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.length_correction import LENGTH_CORRECTED
from dselect_core.select.order import Order, Pick
from dselect_core.select.rounding import round_scores
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy


def ranked_order(pool: Pool, column: str, saved: SavedOrder | None = None) -> Order:
    """Rows by `column`, highest first, ties to the lowest row; the gain is the value, rounded to the score grid."""
    values = ranked_values(pool, column)
    return SortedOrder(np.argsort(-values, kind="stable").tolist(), values, saved, pool.groups)


def ranked_values(pool: Pool, column: str) -> np.ndarray:
    """What `ranked_order` compares: float64 [n]."""
    return round_scores(pool.scores[column].to_numpy())


class SortedOrder(Order):
    """An order whose rows are known from the start.

    rows: all rows of the pool, in order. gains: float64 [n], by row; None where the method defines none. saved: the
    picks that are not given again; None: none. groups: int64 [n], as `Pool.groups`: each keeps its rows in this order.
    """

    def __init__(
        self,
        rows: Sequence[int],
        gains: np.ndarray | None,
        saved: SavedOrder | None,
        groups: np.ndarray | None = None,
    ) -> None:
        self._gains = gains
        self._has_groups = groups is not None
        self._groups = np.zeros(len(rows), dtype=np.int64) if groups is None else groups
        self._place = np.empty(len(rows), dtype=np.int64)
        self._place[np.asarray(rows, dtype=np.int64)] = np.arange(len(rows))
        # Rows by group, each group's in order; what was picked of a group is its beginning.
        by_group = np.lexsort((self._place, self._groups))
        ends = np.cumsum(np.bincount(self._groups))
        self._queues: list[np.ndarray] = np.split(by_group, ends[:-1])
        self._picked = [0] * len(self._queues)
        for pick in [] if saved is None else saved.picks:
            self._picked[self._groups[pick.row]] += 1

    def __next__(self) -> Pick:
        heads = [
            int(queue[picked])
            for group, (queue, picked) in enumerate(zip(self._queues, self._picked, strict=True))
            if picked < len(queue) and (self.open_groups is None or self.open_groups[group])
        ]
        if not heads:
            raise StopIteration
        row = min(heads, key=self._place.__getitem__)
        self._picked[self._groups[row]] += 1
        return Pick(row, None if self._gains is None else float(self._gains[row]), None)

    def state(self) -> dict[str, np.ndarray]:
        """Nothing: a sort is continued by sorting again. With groups, `place`: of each row in the sort, int64 [n]."""
        return {"place": self._place.copy()} if self._has_groups else {}

    def standing(self) -> np.ndarray:
        """As `Order.standing`: the values of the rows that are not picked."""
        if self._gains is None:
            return np.full(len(self._place), np.nan)
        standing = self._gains.copy()
        for queue, picked in zip(self._queues, self._picked, strict=True):
            standing[queue[:picked]] = np.nan
        return standing


OPTIONS = {"length_corrected": LENGTH_CORRECTED}
"""Options of every strategy that `top_k` makes."""


def top_k(name: str, column: str, kind: str, description: str = "") -> Strategy:
    """A strategy that takes the rows with the highest `column`, a column of the scores of `kind`."""

    # Every order takes a seed; a ranking does not use it.
    def order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        return ranked_order(pool, column, saved)

    def values(pool: Pool) -> np.ndarray:
        return ranked_values(pool, column)

    return Strategy(
        name,
        description or f"highest {column}",
        frozenset({kind}),
        (column,),
        order,
        values,
        options=OPTIONS,
        ranks_by=column,
        rises_with=frozenset({column}),
        by_group=True,
    )


MIWV = top_k("miwv", "miwv", "miwv", "where the model is weak: highest MIWV")
