"""The strategies by name. A new one is a file of its own and a line in `BUILTIN`.

Light on purpose: the settings check names against it at load, so no file of a strategy imports a heavy library at the
top.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.registry import Registry
from dselect_core.select.strategy import Option, Strategy
from dselect_core.select.top_k import top_k

BUILTIN = (
    "dselect_core.select.d3:D3",
    "dselect_core.select.top_k:MIWV",
    "dselect_core.select.mads:MADS",
    "dselect_core.select.facility_location:FACILITY_LOCATION",
    "dselect_core.select.deita:DEITA",
    "dselect_core.select.kcenter:KCENTER",
    "dselect_core.select.random_draw:RANDOM",
)
"""The strategies of this package, one line each: `module:object`."""

ENTRY_POINTS = "dselect.strategies"
"""Group of entry points by which an installed package adds strategies of its own."""

TOP_K = "topk:"
"""`topk:<column>` ranks by any column that a kind of score declares rankable."""


def strategy(name: str) -> Strategy:
    """The strategy of that name. Raises DselectError that names the nearest known one."""
    strategies, columns = all_strategies(), rankable_columns()
    if name in strategies:
        return strategies[name]
    column = name.removeprefix(TOP_K)
    if name.startswith(TOP_K) and column in columns:
        return top_k(name, column, columns[column])
    by_column = name.startswith("topk")
    names = [f"{TOP_K}{column}" for column in columns] if by_column else list(strategies)
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)[0]
    listed = f"{TOP_K}<column> takes {', '.join(columns)}" if by_column else ", ".join([*names, f"{TOP_K}<column>"])
    raise DselectError(f"unknown strategy `{name}`; did you mean `{nearest}`? Known: {listed}")


def with_options(name: str, options: Mapping[str, Any]) -> Strategy:
    """The strategy with a recipe's options. Raises DselectError for an unknown strategy or an option it lacks."""
    known = strategy(name)
    for option, value in options.items():
        if value is not None and option not in known.declared:
            takers = ", ".join(taker for taker, other in all_strategies().items() if option in other.declared)
            raise DselectError(f"`{option}` is an option of {takers}; `{name}` has no use for it: leave it out")
    return known.with_given(options)


def all_options() -> dict[str, Option]:
    """Every option that some strategy takes, by name."""
    return {name: option for known in all_strategies().values() for name, option in known.declared.items()}


def all_strategies() -> dict[str, Strategy]:
    """The strategies that have a name of their own; `topk:<column>` come beside them."""
    return _REGISTRY.all()


def register(added: Strategy) -> None:
    """Add a strategy in this process; an installed package names it as an entry point instead.

    Raises DselectError when another has the name, or another meaning of one of its options.
    """
    _REGISTRY.register(added)


def unregister(name: str) -> None:
    """Take back what `register` added."""
    _REGISTRY.unregister(name)


def _check(added: Strategy, others: Mapping[str, Strategy]) -> None:
    if added.name in others or added.name.startswith(TOP_K):
        raise DselectError(f"strategy `{added.name}` is defined twice; give one of the two another name")
    for other in others.values():
        for name, option in added.declared.items():
            if other.declared.get(name, option) != option:
                raise DselectError(f"strategy `{added.name}`: `{other.name}` has another option `{name}`; rename it")


_REGISTRY = Registry(BUILTIN, ENTRY_POINTS, Strategy, _check)
