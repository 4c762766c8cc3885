"""What a selection strategy is: one object, defined in the strategy's own file and listed in strategies.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order
from dselect_core.select.saved_order import SavedOrder


class MakesOrder(Protocol):
    """Makes a strategy's order over a pool in which nothing is missing that the strategy needs.

    The order gives every row of the pool, unless the strategy `ends_early`. With `saved`, an order of the same key, it
    gives those that come after the saved picks.
    """

    def __call__(self, pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        """The order, from its first pick or from the first after the saved ones."""


@dataclass(frozen=True)
class Option:
    """An option that a recipe may give to a strategy, as a keyword argument of its `order`.

    type, bounds: as pydantic understands them (bounds: gt, ge, lt, le). default: in force where the recipe gives none;
    None where the strategy then decides by itself.
    """

    type: Any
    default: Any
    description: str
    bounds: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Strategy:
    """All there is to say of a strategy.

    needs: kinds of score that it reads. columns: score columns that must not be null; vectors follow from `needs`.
    order: makes the order. values: what the order makes of `columns`, as it compares them, float64 or int64 [n]; None
    where it reads none. seeded: whether the order depends on the seed. declared: options that it takes, by name.
    given: those that a recipe gave. ends_early: the order may end before the pool does, for what is left is too alike
    to what was picked. counts_passes: each pick has the number of the pass over the pool in which it was made.
    """

    name: str
    needs: frozenset[str]
    columns: tuple[str, ...]
    order: MakesOrder
    values: Callable[[Pool], np.ndarray] | None = None
    seeded: bool = False
    declared: Mapping[str, Option] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    ends_early: bool = False
    counts_passes: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Every option with the value in force. They are part of the order's key."""
        return {name: self.given.get(name, option.default) for name, option in self.declared.items()}

    def with_given(self, options: Mapping[str, Any]) -> "Strategy":
        """The strategy with these of its options given, as they are; None leaves one at its default."""
        given = {name: value for name, value in options.items() if value is not None}
        return replace(self, order=partial(self.order, **given), given={**self.given, **given}) if given else self
