"""Mixtures: which groups of samples the next pick of an order may come from. [ours]

A quota (quotas.py) bounds the rows of a source, `balance` (balance.py) divides them over all groups. Neither filters
a finished order: the strategy's greedy runs with some groups closed, so a row that is passed over is no centre, covers
nothing, and can come in later. The price: an order under a mixture is an order of its own, made and saved by itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from dselect_core.select.order import Order, Pick


class Mixture(ABC):
    """Which groups are open.

    names: of the groups. groups: int64 [n], the group of each row that can be chosen; sizes: int64, how many each has.
    rows: int64, taken of each so far.
    """

    def __init__(self, names: Sequence[str], groups: np.ndarray) -> None:
        self.names, self.groups = list(names), groups
        self.sizes = np.bincount(groups, minlength=len(names))
        self.rows = np.zeros(len(names), dtype=np.int64)
        self._is_exhausted = self.sizes == 0

    @property
    @abstractmethod
    def identity(self) -> str:
        """All that decides beside `groups`: part of the order's key."""

    @abstractmethod
    def open_groups(self) -> np.ndarray:
        """Boolean [groups]: those that the next row may be of."""

    def picks(self, order: Order, made: Sequence[Pick], groups: np.ndarray | None = None) -> Iterator[Pick]:
        """The picks of `order` under the mixture, after those that were made.

        groups: of the rows that the order counts, where these are not all that the mixture was made of.
        """
        groups = self.groups if groups is None else groups
        for pick in made:
            self.take(int(groups[pick.row]))
        while (open_groups := self.open_groups()).any():
            order.open_groups = open_groups
            found = next(order, None)
            if found is None:
                self.exhaust(open_groups)
                continue
            self.take(int(groups[found.row]))
            yield found

    def take(self, group: int) -> None:
        """Count a row."""
        self.rows[group] += 1
        self._is_exhausted[group] |= self.rows[group] >= self.sizes[group]

    def exhaust(self, groups: np.ndarray) -> None:
        """The strategy has no row of these groups (boolean) to give any more, though not all were taken."""
        self._is_exhausted |= groups

    @abstractmethod
    def require_met(self) -> None:
        """Raises DselectError where the order ended before its budget, and what the recipe asks does not hold."""

    @abstractmethod
    def limits(self, rows: int) -> tuple[list[int | None], list[int | None]]:
        """(most, least) rows of each group at a budget of `rows`; None where there is no limit."""

    def table(self, chosen: Sequence[int]) -> pl.DataFrame:
        """group, candidates, chosen, least, most: of the chosen rows."""
        most, least = self.limits(len(chosen))
        rows = np.bincount(self.groups[np.array(chosen, dtype=np.int64)], minlength=len(self.names))
        return pl.DataFrame(
            {"group": self.names, "candidates": self.sizes, "chosen": rows, "least": least, "most": most},
            schema={"group": pl.String(), **dict.fromkeys(("candidates", "chosen", "least", "most"), pl.Int64())},
        )
