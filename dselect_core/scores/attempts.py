"""How often a row was tried in vain, kept in the reason of its null: `… (tried 3 times)`.

So the count travels with the row through compactions and into `dselect why`, and stores of older versions have it too:
a failure without a count was the first. A failure that was not the row's (an outage) counts for nothing, nor does one
whose cause the settings have taken away.
"""

import polars as pl

from dselect_core.kinds import NOT_TRIED, Kind, Settings

_TRIED = r" \(tried (\d+) times\)$"


def attempts(kind: Kind, settings: Settings) -> pl.Expr:
    """Attempts that failed and count, UInt32, of rows of the kind; 0 where there is a value."""
    reason = pl.col(kind.reason_column)
    counted = reason.str.extract(_TRIED).cast(pl.UInt32)
    first = pl.when(reason.str.starts_with(NOT_TRIED)).then(0).otherwise(1).cast(pl.UInt32)
    counts = pl.col(kind.value).is_null() & ~kind.is_overcome(settings).fill_null(False)
    return pl.when(counts).then(pl.coalesce(counted, first)).otherwise(0).cast(pl.UInt32)


def count_attempts(frame: pl.DataFrame, kind: Kind, earlier: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """New rows of the kind, with the attempt added to those that failed before.

    earlier: sample_id, attempts, of the rows before this attempt.
    """
    reason = pl.col(kind.reason_column)
    total = pl.col("attempts").fill_null(0) + attempts(kind, settings)
    told = pl.format("{} (tried {} times)", reason, total)
    is_counted = pl.col(kind.value).is_null() & ((total > 1) | (pl.col("attempts").fill_null(0) > 0))
    with_earlier = frame.join(earlier, on="sample_id", how="left", maintain_order="left")
    return with_earlier.with_columns(pl.when(is_counted).then(told).otherwise(reason).alias(kind.reason_column)).drop(
        "attempts"
    )
