"""The strategies by name. A new one is a file of its own and a line in `BUILTIN`.

No file of a strategy imports a heavy library at the top: the settings check names against this registry when they load.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.registry import Registry
from dselect_core.select.strategy import Option, Strategy
from dselect_core.select.top_k import OPTIONS as OPTIONS_OF_TOP_K
from dselect_core.select.top_k import top_k

BUILTIN = (
    "dselect_core.select.d3:D3",
    "dselect_core.select.top_k:MIWV",
    "dselect_core.select.ifd:IFD",
    "dselect_core.select.mads:MADS",
    "dselect_core.select.facility_location:FACILITY_LOCATION",
    "dselect_core.select.deita:DEITA",
    "dselect_core.select.targeted:TARGETED",
    "dselect_core.select.kcenter:KCENTER",
    "dselect_core.select.random_draw:RANDOM",
)
"""The strategies of this package, one line each: `module:object`."""

ENTRY_POINTS = "dselect.strategies"
"""Group of entry points by which an installed package adds strategies of its own."""

TOP_K = "topk:"
"""`topk:<column>` ranks by any column that a kind of score declares rankable."""


def strategy(name: str) -> Strategy:
    """The strategy of that name. Raises DselectError that names the nearest known one.

    `topk:<column>` strategies are made on demand, so a kind of score that is registered later can be ranked by too.
    """
    strategies, columns = all_strategies(), rankable_columns()
    if name in strategies:
        return strategies[name]
    column = name.removeprefix(TOP_K)
    if name.startswith(TOP_K) and column in columns:
        return top_k(name, column, columns[column])
    by_column = name.startswith(TOP_K.removesuffix(":"))
    names = [f"{TOP_K}{column}" for column in columns] if by_column else list(strategies)
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)[0]
    listed = f"{TOP_K}<column> takes {', '.join(columns)}" if by_column else ", ".join([*names, f"{TOP_K}<column>"])
    raise DselectError(f"unknown strategy `{name}`; did you mean `{nearest}`? Known: {listed}")


def strategy_with_options(name: str, values: Mapping[str, Any]) -> Strategy:
    """The strategy with a recipe's option values.

    Raises DselectError for an unknown strategy, or for an option that the strategy does not have.
    """
    plain = strategy(name)
    for option, value in values.items():
        if value is not None and option not in plain.options:
            takers = [other.name for other in all_strategies().values() if option in other.options]
            takers += [f"{TOP_K}<column>"] if option in OPTIONS_OF_TOP_K else []
            told = ", ".join(takers)
            raise DselectError(f"`{option}` is an option of {told}; `{name}` has no use for it: leave it out")
    return plain.with_given(values)


def all_options() -> dict[str, Option]:
    """Every option that some strategy takes, by name."""
    return {name: option for each in all_strategies().values() for name, option in each.options.items()}


def all_strategies() -> dict[str, Strategy]:
    """The strategies with a name of their own; those of `topk:<column>` come beside them."""
    return _REGISTRY.all()


def register(strategy: Strategy) -> None:
    """Add a strategy in this process; an installed package names it as an entry point instead.

    Raises DselectError when another strategy has the name, or another meaning of one of its options.
    """
    _REGISTRY.register(strategy)


def unregister(name: str) -> None:
    """Remove what `register` added. Raises KeyError where it added no such strategy."""
    _REGISTRY.unregister(name)


def _check(new: Strategy, others: Mapping[str, Strategy]) -> None:
    if new.name in others or new.name.startswith(TOP_K):
        raise DselectError(f"strategy `{new.name}` is defined twice; give one of the two another name")
    for other in others.values():
        for name, option in new.options.items():
            if other.options.get(name, option) != option:
                raise DselectError(f"strategy `{new.name}`: `{other.name}` has another option `{name}`; rename it")


_REGISTRY = Registry(BUILTIN, ENTRY_POINTS, Strategy, _check)
