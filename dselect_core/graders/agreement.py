"""How far two lists of grades of the same rows agree: by rank, by level, and where they do not.

Rank correlation is Spearman's: the correlation of the ranks, ties sharing their mean rank. A grade's level is the
nearest of the five ratings, which of a rating is itself; so exact agreement and agreement within one level are defined
for probabilities and rewards too. Where two grades are not of the same scale, levels say little, and ranks more.
"""

from dataclasses import dataclass, field

import polars as pl

LEVELS = 5


@dataclass(frozen=True)
class Agreement:
    """Of the rows that both graded.

    rows: their number. spearman: -1 to 1; None where one of the two gave all rows one grade. exact, within_one: shares
    of rows whose levels are equal, or next to one another; None without rows. mean_difference: of the second's grade
    and the first's. confusion: `first` (1 to 5), and a column a level of the second, `1` to `5`: rows.
    apart: sample_id, first, second, of the rows whose grades are furthest apart, those first; ties by id.
    """

    rows: int
    spearman: float | None
    exact: float | None
    within_one: float | None
    mean_difference: float | None
    confusion: pl.DataFrame = field(repr=False)
    apart: pl.DataFrame = field(repr=False)


def level(grade: str) -> pl.Expr:
    """The level of a column of grades, Int64 1 to 5; of a rating the rating: its grade is (rating - 1) / 4."""
    return (pl.col(grade) * (LEVELS - 1)).round().cast(pl.Int64) + 1


def agreement(grades: pl.DataFrame, most_apart: int = 10) -> Agreement:
    """grades: sample_id, first, second; rows that lack one of the two do not count."""
    both = grades.select("sample_id", "first", "second").drop_nulls()
    levels = both.select(first=level("first"), second=level("second"))
    gap = (levels["first"] - levels["second"]).abs()
    spearman = both.select(pl.corr("first", "second", method="spearman")).item() if both.height > 1 else None
    difference = (pl.col("first") - pl.col("second")).abs()
    return Agreement(
        both.height,
        None if spearman is None or spearman != spearman else float(spearman),
        _share(gap == 0),
        _share(gap <= 1),
        None if both.is_empty() else float((both["second"] - both["first"]).mean()),  # type: ignore[arg-type]
        _confusion(levels),
        both.filter(difference > 0).sort(difference, "sample_id", descending=[True, False]).head(most_apart),
    )


def _share(holds: pl.Series) -> float | None:
    return None if holds.is_empty() else float(holds.sum()) / len(holds)


def _confusion(levels: pl.DataFrame) -> pl.DataFrame:
    all_levels = pl.DataFrame({"first": range(1, LEVELS + 1)}, schema={"first": pl.Int64})
    counts = [
        ((pl.col("second") == level) & pl.col("first").is_not_null()).sum().cast(pl.Int64).alias(str(level))
        for level in range(1, LEVELS + 1)
    ]
    return (
        all_levels.join(levels.group_by("first").agg(counts), on="first", how="left", maintain_order="left")
        .fill_null(0)
        .select("first", *(str(level) for level in range(1, LEVELS + 1)))
    )
