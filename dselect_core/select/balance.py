"""`balance`: the rows of a coreset divided over all groups. [ours]

The p-th row is of the group for which `weight / (2·rows + 1)` is highest (the method of Sainte-Laguë; ties to the first
by name), among those that have rows left: what a group is too small for goes to the others. The weight is one, so that
the groups take turns, or the square root of the group's size. Unlike shares that are rounded by largest remainder, no
group loses a row as the budget grows, so budgets nest.
"""

from collections.abc import Sequence

import numpy as np

from dselect_core.select.mixture import Mixture
from dselect_core.select.mixture_spec import Balance


class Balanced(Mixture):
    """The budget divided over the groups, by turns."""

    def __init__(self, names: Sequence[str], groups: np.ndarray, balance: Balance) -> None:
        super().__init__(names, groups)
        self._weights = [1] * len(names) if balance.how == "equal" else self.sizes.tolist()
        self._balance = balance

    @property
    def identity(self) -> str:
        """As `Mixture.identity`."""
        return f"balance {self._balance.how} over {', '.join(self.names)}"

    def open_groups(self) -> np.ndarray:
        """The one whose turn it is. Squares are compared, in whole numbers."""
        is_open = np.zeros(len(self.names), dtype=bool)
        best: tuple[int, int, int] | None = None
        for group in np.flatnonzero(~self._is_exhausted).tolist():
            weight, divisor = self._weights[group], (2 * int(self.rows[group]) + 1) ** 2
            if best is None or weight * best[1] > best[0] * divisor:
                best = (weight, divisor, group)
        if best is not None:
            is_open[best[2]] = True
        return is_open

    def require_met(self) -> None:
        """It always holds: a group without rows leaves its share to the others."""

    def limits(self, rows: int) -> tuple[list[int | None], list[int | None]]:
        """There are none."""
        return [None] * len(self.names), [None] * len(self.names)
