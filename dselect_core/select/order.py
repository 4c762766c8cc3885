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
    """

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
