"""`quota` and `balance` of a recipe, checked as far as they can be without the pool."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

CLUSTERS = 50
"""Clusters where the recipe says no other number."""

_SHARE = re.compile(r"(?P<percent>\d+(?:\.\d{1,4})?)\s*%")


@dataclass(frozen=True)
class Amount:
    """A number of rows, or a share of the budget: one of the two is given."""

    rows: int | None = None
    share: Fraction | None = None

    @classmethod
    def parse(cls, value: Any) -> "Amount":
        """Read `100` or `30%` (four decimals at most, so that it is exact). Raises ValueError on anything else."""
        if isinstance(value, Amount):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(rows=value)
        match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or (share := Fraction(match["percent"]) / 100) > 1:
            raise ValueError(f"{value!r} is not understood: write rows (100) or a share of the budget (30%)")
        return cls(share=share)

    def most(self, rows: int) -> int:
        """As a limit from above of that many rows: a share is rounded up."""
        return (self.rows or 0) if self.share is None else -(-self.share.numerator * rows // self.share.denominator)

    def least(self, rows: int) -> int:
        """As a limit from below: a share is rounded down."""
        return (self.rows or 0) if self.share is None else self.share.numerator * rows // self.share.denominator

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.share is None else f"{float(self.share * 100):g}%"

    def as_setting(self) -> int | str:
        """As dselect.yaml has it."""
        return str(self) if self.rows is None else self.rows


AmountField = Annotated[
    Amount,
    BeforeValidator(Amount.parse, json_schema_input_type=int | str),
    PlainSerializer(Amount.as_setting, return_type=int | str),
]


class Quota(BaseModel):
    """How many rows of a source a coreset takes. A share of a budget is rounded up for max and down for min.

    A sample counts for one source: the first by name of those that hold it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    max: AmountField | None = Field(None, description="at most: rows (100) or a share of the budget (30%)")
    min: AmountField | None = Field(None, description="at least: rows (100) or a share of the budget (30%)")

    @model_validator(mode="after")
    def _check_bounds(self) -> "Quota":
        if self.max is None and self.min is None:
            raise ValueError("give `max`, `min` or both")
        if self.max is not None and self.min is not None:
            for low, high in ((self.min.rows, self.max.rows), (self.min.share, self.max.share)):
                if low is not None and high is not None and low > high:
                    raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Balance(BaseModel):
    """A budget divided over groups of samples; what a group is too small for goes to the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["source", "cluster"] = Field(
        "source", description="source: the first by name that holds a sample; cluster: k-means over the embeddings"
    )
    how: Literal["equal", "sqrt"] = Field(
        "equal", description="equal: as many rows each; sqrt: by the square root of a group's size"
    )
    clusters: int | None = Field(None, ge=2, le=10_000, description="cluster: how many; 50 by default")

    @model_validator(mode="after")
    def _check_clusters(self) -> "Balance":
        if self.clusters is not None and self.by != "cluster":
            raise ValueError("`clusters` is for `by: cluster`: leave it out")
        return self

    @property
    def cluster_count(self) -> int:
        """How many clusters, said or not."""
        return self.clusters or CLUSTERS


def _parse_balance(value: Any) -> Any:
    return {"by": value} if isinstance(value, str) else value


BalanceField = Annotated[
    Balance, BeforeValidator(_parse_balance, json_schema_input_type=Literal["source", "cluster"] | Balance)
]


def check_mixture(quota: dict[str, Quota], balance: Balance | None, budget_unit: str) -> None:
    """Raises ValueError where no pool could meet them."""
    if not quota and balance is None:
        return
    if quota and balance is not None:
        raise ValueError("give `quota` or `balance`, not both: each says alone how the budget is divided")
    if budget_unit == "tokens":
        key = "quota" if quota else "balance"
        raise ValueError(f"`{key}` counts rows: give the budget as rows (500) or as a share (10%), not in tokens")
    shares = [each.min.share for each in quota.values() if each.min is not None and each.min.share is not None]
    if sum(shares) > 1:
        raise ValueError(
            f"quota: the shares under `min` are {float(sum(shares)):.0%} together: over 100% of any budget"
        )
