"""The strategies by name, and what each needs. Light on purpose: the settings check names against it at load."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.select.baselines import kcenter_order, random_order
from dselect_core.select.d3 import d3_order, d3_weight_steps
from dselect_core.select.deita import THRESHOLD, deita_order
from dselect_core.select.facility_location import facility_location_order
from dselect_core.select.mads import mads_order
from dselect_core.select.order import Order, Pool
from dselect_core.select.saved_order import Kept
from dselect_core.select.top_k import ranked_order, ranked_values

SCORE_COLUMNS: dict[str, str] = rankable_columns()
"""Columns that can be ranked by, each with the kind of score that brings it."""


class MakesOrder(Protocol):
    def __call__(self, pool: Pool, seed: int, kept: Kept | None = None) -> Order: ...


@dataclass(frozen=True)
class Strategy:
    """`order(pool, seed, kept)` gives the rows of a pool in which nothing the strategy needs is missing: every one of
    them, unless `ends_early`.

    With `kept`, an order of the same key, it gives those that come after the kept picks.

    needs: kinds of score, among embeddings, difficulty, grades, activations, miwv.
    columns: score columns that must not be null. Embeddings and neurons follow from `needs`.
    values: what the order makes of `columns`, as it compares them, [n]; None where it reads none.
    seeded: whether the order depends on the seed.
    options: the recipe's options it takes, each with the value in force. They are part of the order's key.
    ends_early: the order may end before the pool does, for what is left is too alike to what was picked.
    """

    name: str
    needs: frozenset[str]
    columns: tuple[str, ...]
    order: MakesOrder
    values: Callable[[Pool], np.ndarray] | None = None
    seeded: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    ends_early: bool = False

    def with_options(self, given: Mapping[str, Any]) -> "Strategy":
        """With what a recipe says of its options; None: the strategy's own. Raises DselectError for one not taken."""
        said = {name: value for name, value in given.items() if value is not None}
        for name in said:
            if name not in self.options:
                takers = ", ".join(known.name for known in STRATEGIES.values() if name in known.options)
                raise DselectError(f"`{name}` is an option of {takers}; `{self.name}` has no use for it: leave it out")
        return replace(self, order=partial(self.order, **said), options={**self.options, **said}) if said else self


def _ranked(name: str, column: str) -> Strategy:
    # `seed` is what every order takes; a ranking has no use for it.
    def order(pool: Pool, seed: int, kept: Kept | None = None) -> Order:
        return ranked_order(pool, column, kept)

    def values(pool: Pool) -> np.ndarray:
        return ranked_values(pool, column)

    return Strategy(name, frozenset({SCORE_COLUMNS[column]}), (column,), order, values)


_NAMED = (
    Strategy("d3", frozenset({"embeddings", "difficulty", "grades"}), ("upd", "grade"), d3_order, d3_weight_steps),
    _ranked("miwv", "miwv"),
    Strategy("mads", frozenset({"activations"}), (), mads_order),
    Strategy(
        "facility-location",
        frozenset({"embeddings"}),
        (),
        facility_location_order,
        options={"neighbors": None},
    ),
    Strategy(
        "deita",
        frozenset({"embeddings", "difficulty", "grades"}),
        ("upd", "grade"),
        deita_order,
        d3_weight_steps,
        options={"threshold": THRESHOLD},
        ends_early=True,
    ),
    Strategy("kcenter", frozenset({"embeddings"}), (), kcenter_order),
    Strategy("random", frozenset(), (), random_order, seeded=True),
)
STRATEGIES: dict[str, Strategy] = {
    known.name: known for known in (*_NAMED, *(_ranked(f"topk:{column}", column) for column in SCORE_COLUMNS))
}


def strategy(name: str) -> Strategy:
    """The strategy of that name. Raises DselectError that names the nearest known one."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    ranked = name.startswith("topk")
    known = [other for other in STRATEGIES if other.startswith("topk:") == ranked]
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
    listed = f"topk:<column> takes {', '.join(SCORE_COLUMNS)}" if ranked else ", ".join([*known, "topk:<column>"])
    raise DselectError(f"unknown strategy `{name}`; did you mean `{nearest}`? Known: {listed}")
