"""Budgets: how much of an order a coreset takes.

A budget is a number of rows (`500`), a share of the pool (`10%`) or a number of response tokens (`200000 tokens`). It
only cuts an order, so the coreset of a smaller budget is a prefix of that of a larger one.
"""

import re
from dataclasses import dataclass
from typing import Literal

from dselect_core.errors import DselectError

_FORM = re.compile(r"(?P<value>[-+]?\d[\d_,]*(?:\.\d+)?)\s*(?P<unit>%|rows?|tokens?)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """`value` is rows, percent of the pool (0–100] or response tokens, by `unit`."""

    unit: Literal["rows", "percent", "tokens"]
    value: float

    @classmethod
    def parse(cls, text: str | int | float) -> "Budget":
        """Read `500`, `500 rows`, `10%`, `200000 tokens`. Raises DselectError on anything else."""
        match = _FORM.fullmatch(str(text).strip())
        if isinstance(text, bool) or match is None:
            raise DselectError(
                f"budget {text!r} is not understood: write rows (500), a share (10%) or response tokens (200000 tokens)"
            )
        value = float(match["value"].replace("_", "").replace(",", ""))
        if value <= 0:
            raise DselectError(f"budget {text!r} must be above zero")
        unit = (match["unit"] or "rows").lower()
        if unit == "%":
            if value > 100:
                raise DselectError(f"budget {text!r} is over 100%: the pool has no more than all of its rows")
            return cls("percent", value)
        if value != int(value):
            raise DselectError(
                f"budget {text!r} must be a whole number of {unit}; for a share of the pool write {value}%"
            )
        return cls("tokens" if unit.startswith("token") else "rows", value)

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.unit == "percent" else f"{int(self.value)} {self.unit}"

    def rows(self, pool: int) -> int | None:
        """Rows that this budget takes from a pool of `pool` samples; None for a token budget.

        A share is `⌊ratio·n⌋` [paper: MIWV, arXiv 2511.07074], but at least one row [ours].
        """
        if self.unit == "tokens":
            return None
        if self.unit == "percent":
            return max(1, int(pool * self.value / 100 + 1e-9))
        return int(self.value)
