"""`grade` of a recipe: which of the settings' `graders` it reads, and how their grades become one.

One judge is taken as it is. Of several a row's grade is their mean, median or minimum, and a row that one of them did
not grade has none: a mean of those that answered would compare rows by different judges.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from dselect_core.errors import DselectError
from dselect_core.kinds import MAKER, kind_of

GRADES, GRADE = "grades", "grade"
"""The kind of score that judges make, and its column."""


def kind_of_judge(judge: str | None) -> str:
    """The kind of score that a named judge makes; None: the settings' only one, `grader`."""
    return GRADES if judge is None else f"{GRADES}{MAKER}{judge}"


class JudgesSpec(BaseModel):
    """Whose grades count, and as what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: tuple[str, ...] = Field(min_length=1, description="names of `graders`")
    by: Literal["mean", "median", "min"] = Field("mean", description="of several: the grade of a row")

    @field_validator("of")
    @classmethod
    def _each_once(cls, of: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(of)) < len(of):
            raise ValueError("name each grader once")
        return tuple(sorted(of))  # in another order it is the same recipe

    @field_validator("by")
    @classmethod
    def _of_one(cls, by: str, info: ValidationInfo) -> str:
        return "mean" if len(info.data.get("of", ())) == 1 else by  # likewise

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of score that it reads."""
        return frozenset(kind_of_judge(judge) for judge in self.of)

    def of_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Kinds of score that are needed, with those of the judges for the grades among them."""
        return needs - {GRADES} | self.kinds if GRADES in needs else needs

    def combined(self, tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """sample_id, grade: one table of the judges' tables, in the order of the first. Of one judge: all its columns.

        tables: sample_id, grade and more, in the order of `of`.
        """
        if len(tables) == 1:
            return tables[0]
        names = [str(number) for number in range(len(tables))]
        of_each = [table.select("sample_id", pl.col(GRADE).alias(n)) for n, table in zip(names, tables, strict=True)]
        table = of_each[0]
        for other in of_each[1:]:
            table = table.join(other, on="sample_id", how="full", coalesce=True, maintain_order="left_right")
        by = {
            "mean": pl.mean_horizontal(names),
            "median": pl.concat_list(names).list.median(),
            "min": pl.min_horizontal(names),
        }
        is_whole = pl.all_horizontal(pl.col(names).is_not_null())
        return table.select("sample_id", pl.when(is_whole).then(by[self.by]).alias(GRADE))


def _named(value: Any) -> Any:
    return {"of": [value]} if isinstance(value, str) else {"of": value} if isinstance(value, list) else value


JudgesField = Annotated[JudgesSpec, BeforeValidator(_named, json_schema_input_type=str | list[str] | JudgesSpec)]
"""`a`, `[a, b]` (their mean) or `{of: [a, b], by: median}`."""


def require_single_column(spec: JudgesSpec | None, column: str) -> None:
    """Raises DselectError where a column that several judges have is asked for: only their grades become one."""
    of_grades = [each.name for each in kind_of(GRADES).columns]
    if spec is not None and len(spec.of) > 1 and column in of_grades and column != GRADE:
        raise DselectError(f"`{column}` is one judge's: name one in `grade`, and not {', '.join(spec.of)}")
