"""What a coreset's making changed in it: who came in, who left, who stayed, and the cause of each. [ours]

One cause a sample, the first that holds:
  new row, row gone   it was not, or is no more, in the pool
  recipe              another strategy, option, seed or selection code
  held out      it shares text with an eval source now, or did before (pool/overlap.py)
  near-duplicate      it is alike to a sample that is kept now, or was before
  changed score       a score the strategy reads is another one, or was made, or is missing now
  targets             the examples of target sources are others, or their vectors
  budget              its rank lies beyond what the budget bought before, or buys now
  other rows          nothing of its own changed: others came, left or moved, and with them its rank
"""

from typing import Any

import polars as pl

from dselect_core.pool.overlap import HELD_OUT
from dselect_core.select.eligibility import NEAR_DUPLICATE
from dselect_core.select.rounding import SCORE_STEP

SCHEMA = {
    "sample_id": pl.String(),
    "change": pl.String(),  # entered, left, kept
    "cause": pl.String(),  # null for kept
    "rank_before": pl.UInt32(),
    "rank": pl.UInt32(),
}


def changes(
    before: pl.DataFrame, now: pl.DataFrame, *, same_recipe: bool, same_vectors: bool, same_targets: bool = True
) -> pl.DataFrame:
    """SCHEMA: first who entered and who stayed, by rank, then who left, by the rank they had.

    before, now: a row per sample of the pool then and now: sample_id, chosen (its rank in the coreset, or null),
    reason (null when the strategy could use it) and the strategy's own score columns, as in a kept order.
    same_vectors: the embeddings or neurons that the strategy reads have one provenance then and now. same_targets: the
    examples that it compares with are the same.
    """
    columns = [c for c in now.columns if c in before.columns and c not in ("sample_id", "chosen", "reason")]
    both = before.with_columns(was=True).join(
        now.with_columns(there=True), on="sample_id", how="full", coalesce=True, suffix="_now"
    )
    bought_before, bought_now = before["chosen"].count(), now["chosen"].count()
    other_scores = [
        (pl.col(c).cast(pl.Float64) - pl.col(f"{c}_now").cast(pl.Float64)).abs().fill_null(0) > SCORE_STEP
        for c in columns
    ]
    changed = pl.any_horizontal(
        pl.lit(not same_vectors), pl.col("reason").is_null() != pl.col("reason_now").is_null(), *other_scores
    )
    entered, left = pl.col("chosen").is_null(), pl.col("chosen_now").is_null()

    def told(reason: str) -> pl.Expr:
        """Whether the reason begins so now, and did not before, or the other way round."""
        then, at_present = (pl.col(name).str.starts_with(reason).fill_null(False) for name in ("reason", "reason_now"))
        return then != at_present

    cause = (
        pl.when(pl.col("was").is_null())
        .then(pl.lit("new row"))
        .when(pl.col("there").is_null())
        .then(pl.lit("row gone"))
        .when(pl.lit(not same_recipe))
        .then(pl.lit("recipe"))
        .when(told(HELD_OUT))
        .then(pl.lit("held out"))
        .when(told(NEAR_DUPLICATE))
        .then(pl.lit("near-duplicate"))
        .when(changed)
        .then(pl.lit("changed score"))
        .when(pl.lit(not same_targets))
        .then(pl.lit("targets"))
        .when((entered & (pl.col("chosen_now") > bought_before)) | (left & (pl.col("chosen") > bought_now)))
        .then(pl.lit("budget"))
        .otherwise(pl.lit("other rows"))
    )
    change = pl.when(left).then(pl.lit("left")).when(entered).then(pl.lit("entered")).otherwise(pl.lit("kept"))
    return (
        both.filter(~(entered & left))
        .select(
            "sample_id",
            change=change,
            cause=pl.when(entered | left).then(cause),
            rank_before=pl.col("chosen").cast(pl.UInt32),
            rank=pl.col("chosen_now").cast(pl.UInt32),
        )
        .sort("rank", "rank_before", nulls_last=True)
    )


def by_change(changes: pl.DataFrame) -> dict[str, int]:
    """{"entered": rows, "left": rows, "kept": rows}."""
    return {change: int((changes["change"] == change).sum()) for change in ("entered", "left", "kept")}


def by_cause(moved: pl.DataFrame) -> pl.DataFrame:
    """change, cause, rows: of the rows that came or left, each cause once."""
    return moved.group_by("change", "cause").len("rows").sort("change", "cause")


def counted(changes: pl.DataFrame) -> dict[str, Any]:
    """{"entered": {cause: rows}, "left": {cause: rows}, "kept": rows}."""

    def causes(change: str) -> dict[str, int]:
        counts = changes.filter(pl.col("change") == change)["cause"].value_counts().sort("cause")
        return dict(counts.iter_rows())

    return {"entered": causes("entered"), "left": causes("left"), "kept": int((changes["change"] == "kept").sum())}
