"""What a strategy makes of a pool: an order, pick by pick."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Pick(NamedTuple):
    """One step of an order. `gain` is null where the method defines none (see each strategy)."""

    row: int
    gain: float | None
    cover_pass: int | None


class Order(Iterator[Pick]):
    """A pool's rows, each at most once, made pick by pick. It may be stopped at any pick, asked, and gone on with.

    Both questions are about exactly the picks given out so far, and asking changes none that follow. So an order may
    not run ahead of its consumer: what a pick changes is worked out at the latest when it is asked for.
    """

    @abstractmethod
    def __next__(self) -> Pick: ...

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """By name, one value per row: with the picks, all that continuing takes. Empty where the picks are enough."""

    @abstractmethod
    def standing(self) -> np.ndarray:
        """float64 [n]: the gain each row would have were it picked next; NaN where it was, or never can be, picked, and
        where none is defined.

        With the picks this says how near a row came that was not chosen. An order that does not know every gain gives
        the least bound it has from above; its state then has `seen`, less than the picks made where it is a bound.
        """
