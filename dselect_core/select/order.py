"""An order: a strategy's ranking of a pool, made pick by pick."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Pick(NamedTuple):
    """One step of an order.

    row: of the pool. gain: what the pick adds, as the strategy defines it; None where it defines none. cover_pass: the
    pass over the pool, from 1; None unless the strategy counts passes.
    """

    row: int
    gain: float | None
    cover_pass: int | None


class Order(Iterator[Pick]):
    """The rows of a pool, each at most once, made pick by pick. It can be stopped at any pick, asked, and continued.

    `state` and `standing` describe exactly the picks given out so far, and calling them changes no later pick. So an
    order that runs ahead of its consumer must hide what it has worked out in advance.

    open_groups: boolean [groups], set before each pick where the pool has groups (`Pool.groups`): those that the pick
    may be of. Then the pick is the best row of them by the strategy's own measure, given the picks so far, and there is
    none (StopIteration) where they have no row left; with other groups open there may be again.
    """

    open_groups: np.ndarray | None = None

    @abstractmethod
    def __next__(self) -> Pick: ...

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """{name: one value per row}: with the picks, all that continuing needs. Empty where the picks are enough."""

    @abstractmethod
    def standing(self) -> np.ndarray:
        """float64 [n]: the gain each row would have as the next pick. NaN for picked rows, for rows that can never be
        picked, and where the strategy defines no gain.

        It shows how near a row came that was not picked. An order that does not know every gain gives the lowest upper
        bound it has; its state then has `seen`, and a row's value is a bound where `seen` is less than the number of
        picks.
        """

    def facts(self) -> dict[str, str | int | float]:
        """What else the order tells of how it was made, by name; it follows from the pool alone. Nothing by default."""
        return {}


def open_rows(groups: np.ndarray | None, open_groups: np.ndarray | None) -> np.ndarray | None:
    """Boolean [n]: the rows whose group is open; None where all are."""
    if groups is None or open_groups is None or open_groups.all():
        return None
    return np.asarray(open_groups[groups])
