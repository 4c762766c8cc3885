"""Objects that are looked up by name: those of this package, of installed packages, and of this process.

Those of this package are listed as `module:object` strings and loaded on first use, so a room can list what stands in
the rooms above it without importing them. Installed packages name theirs as entry points.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Generic, Protocol, TypeVar

from dselect_core.errors import DselectError


class Named(Protocol):
    """What a registry can hold."""

    @property
    def name(self) -> str:
        """The name it is looked up by."""


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """builtin: `module:object` strings; group: of entry points; expected: the class of the objects.

    check: (object, those that are there already) → raises DselectError when it cannot stand beside them.
    """

    def __init__(
        self, builtin: Sequence[str], group: str, expected: type[T], check: Callable[[T, Mapping[str, T]], None]
    ) -> None:
        self._builtin = builtin
        self._group = group
        self._expected = expected
        self._check = check
        self._installed: dict[str, T] | None = None
        self._registered: dict[str, T] = {}

    def all(self) -> dict[str, T]:
        """Every object by its name: of this package, then of installed packages, then registered here."""
        if self._installed is None:
            installed: dict[str, T] = {}
            for place in (*self._builtin, *_entry_points().get(self._group, ())):
                item = resolve_name(place)
                if not isinstance(item, self._expected):
                    raise DselectError(f"{place}: a {type(item).__name__}, and not a {self._expected.__name__}")
                self._add(item, installed)
            self._installed = installed
        return {**self._installed, **self._registered}

    def register(self, item: T) -> None:
        """Add an object in this process. Raises DselectError when it clashes with another."""
        self._check(item, self.all())
        self._registered[item.name] = item

    def unregister(self, name: str) -> None:
        """Take back what `register` added."""
        del self._registered[name]

    def _add(self, item: T, others: dict[str, T]) -> None:
        self._check(item, others)
        others[item.name] = item


@cache
def _entry_points() -> dict[str, list[str]]:
    """{group: places} of what installed packages name. To look for one group takes as long as to look for all."""
    found = entry_points()
    return {group: [point.value for point in found.select(group=group)] for group in found.groups if "dselect" in group}
