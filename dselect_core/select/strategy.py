"""What a selection strategy is: one object, defined in the strategy's own file and listed in strategies.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import polars as pl

from dselect_core.kinds import all_kinds, rankable_columns
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order
from dselect_core.select.saved_order import SavedOrder


class MakesOrder(Protocol):
    """Makes a strategy's order over a pool whose rows all have what the strategy needs.

    The order gives every row of the pool, unless the strategy `ends_early`. With `saved`, an order of the same key, it
    gives the picks that come after the saved ones. A strategy's options come as further keyword arguments.
    """

    def __call__(self, pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        """The order, from its first pick or from the first after the saved ones."""


@dataclass(frozen=True)
class Option:
    """An option that a recipe may give to a strategy; it becomes a keyword argument of the strategy's `order`.

    type, bounds: as pydantic understands them (bounds: gt, ge, lt, le). default: the value in force where the recipe
    gives none; None where the strategy then decides by itself. What follows holds where a recipe gives another value:
    columns: score columns that the strategy reads beside its own. reads_sources: the order depends on which source a
    row is of. prepares: (pool, the strategy's `ranks_by`) → the pool that the order is made from; then the value is no
    keyword argument. prepares_scores: whether that pool has other scores, and not other vectors alone, so that the
    strategy's `values` follow from it too. in_records_at_default: whether the default stands in the order's key and in
    manifests; an option that came later does not, so that older ones hold.
    """

    type: Any
    default: Any
    description: str
    bounds: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    reads_sources: bool = False
    prepares: Callable[[Pool, str], Pool] | None = None
    prepares_scores: bool = True
    in_records_at_default: bool = True


@dataclass(frozen=True)
class Strategy:
    """All there is to say of a strategy.

    description: a few words for people, shown by the schema of dselect.yaml. needs: kinds of score that it reads.
    columns: score columns that must not be null; which arrays must be there follows from `needs`. order: makes the
    order. values: pool → what the order makes of `columns`, as it compares them, float64 or int64 [n]; None where it
    reads no column. seeded: whether the order depends on the seed. options: what a recipe may set, by name. given: the
    option values that a recipe set. ends_early: the order may end before the pool does, because the rows left are too
    similar to picked ones. counts_passes: each pick has the number of the pass over the pool in which it was made.
    ranks_by: the column that says how difficult a row is, where options may replace it.
    requires: what a row must have beside values to be chosen: {in words: pool → the rows that lack it, boolean [n]}.
    by_group: its orders heed `Order.open_groups`, so that a recipe may give `quota` or `balance`.
    target_kind: the kind of score that it also reads of the target sources (`Pool.targets`); None: it reads none.
    specialise: the strategy as the option values that a recipe set make it, where they change more than its order;
    raises DselectError where they do not fit together. pick_columns: (pool, rows of the picks, state of the order after
    them) → what the coreset tells of each pick beside its gain, by column. decided_by_size: pool → what of the order
    follows from how large it is, for the order's key; None where nothing does, or not at this size.
    """

    name: str
    description: str
    needs: frozenset[str]
    columns: tuple[str, ...]
    order: MakesOrder
    values: Callable[[Pool], np.ndarray] | None = None
    seeded: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    ends_early: bool = False
    counts_passes: bool = False
    requires: Mapping[str, Callable[[Pool], np.ndarray]] = field(default_factory=dict)
    ranks_by: str = ""
    by_group: bool = False
    target_kind: str | None = None
    specialise: "Callable[[Strategy], Strategy] | None" = None
    rises_with: frozenset[str] = frozenset()
    decided_by_size: Callable[[Pool], str | None] | None = None
    pick_columns: Callable[[Pool, np.ndarray, Mapping[str, np.ndarray]], dict[str, pl.Series]] | None = None

    @property
    def option_values(self) -> dict[str, Any]:
        """Options with the value in force, as records have them. They are part of the order's key."""
        values = {name: self.given.get(name, option.default) for name, option in self.options.items()}
        changed = self._changed_options
        return {name: v for name, v in values.items() if name in changed or self.options[name].in_records_at_default}

    @property
    def columns_of_options(self) -> tuple[str, ...]:
        """Columns that it reads because of its options; the order's key has them beside `values`."""
        return tuple(dict.fromkeys(c for option in self._changed_options.values() for c in option.columns))

    @property
    def reads_sources(self) -> bool:
        """Whether its order depends on which source a row is of."""
        return any(option.reads_sources for option in self._changed_options.values())

    def takes_bounds_of(self, column: str) -> bool:
        """Whether the order can be made from upper bounds of the column: it is exact up to the first pick that has one.

        An option that works on all values of the column at once moves a row by what others have.
        """
        prepared = column == self.ranks_by and any(option.prepares for option in self._changed_options.values())
        return column in self.rises_with and not prepared

    @property
    def _changed_options(self) -> dict[str, Option]:
        """The options that have another value than the default."""
        return {
            name: option
            for name, option in self.options.items()
            if self.given.get(name, option.default) != option.default
        }

    @property
    def array_fields(self) -> dict[str, str]:
        """{kind: the field of `Pool` with its vectors}, of the kinds that the strategy reads as an array."""
        kinds = (kind for kind in all_kinds().values() if kind.name in self.needs)
        return {kind.name: kind.pool_field for kind in kinds if kind.pool_field is not None}

    def prepared(self, pool: Pool) -> Pool:
        """The pool that its order is made from, by the options that a recipe set: for who makes that order himself."""
        for option in self._changed_options.values():
            pool = pool if option.prepares is None else option.prepares(pool, self.ranks_by)
        return pool

    def with_given(self, values: Mapping[str, Any]) -> "Strategy":
        """The strategy with these option values; None leaves an option at its default.

        Raises DselectError where `specialise` does; nothing else of them is checked.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if not given:
            return self
        own = replace(self, given={**self.given, **given})
        of_order = {name: v for name, v in given.items() if name not in self.options or not self.options[name].prepares}
        order: MakesOrder = partial(self.order, **of_order)
        its_values = self.values
        for name, option in own._changed_options.items():
            if name in given and option.prepares is not None:
                order = _order_of_prepared(option.prepares, self.ranks_by, order)
                if its_values is not None and option.prepares_scores:
                    its_values = _values_of_prepared(option.prepares, self.ranks_by, its_values)
        kinds = rankable_columns() if own.columns_of_options else {}
        strategy = replace(
            own,
            order=order,
            values=its_values,
            columns=tuple(dict.fromkeys([*self.columns, *own.columns_of_options])),
            needs=self.needs | {kinds[column] for column in own.columns_of_options},
        )
        return strategy if self.specialise is None else self.specialise(strategy)


def _order_of_prepared(prepares: Callable[[Pool, str], Pool], column: str, order: MakesOrder) -> MakesOrder:
    """The order of the pool that an option makes of the given one."""

    def order_of_prepared(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        return order(prepares(pool, column), seed, saved)

    return order_of_prepared


def _values_of_prepared(
    prepares: Callable[[Pool, str], Pool], column: str, values: Callable[[Pool], np.ndarray]
) -> Callable[[Pool], np.ndarray]:
    """The values of the pool that an option makes of the given one."""

    def values_of_prepared(pool: Pool) -> np.ndarray:
        return values(prepares(pool, column))

    return values_of_prepared
