"""What a coreset consists of beside what the pool does: sources and lengths, and a warning where it collapsed. [ours]

A strategy that ranks by one score may fill its whole budget from one source, or with answers of one word, and no score
shows it. So every selection says both, and three thresholds below say when it is a warning.

A sample counts for one source: the first by name of those that hold it, so that the rows of all sources add up. Lengths
are response tokens, where the pool has them counted. The pool is what may be chosen: without what is held out.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.select.candidate_pool import Pool

FEWEST_ROWS = 30
"""Smaller selections are never called collapsed: a random draw of a few rows may be of one source by chance."""
MOST_OF_CHOSEN, FEW_OF_POOL = 0.9, 0.5
"""A source collapses a selection where more than the first share of the chosen is of it, and less than the second of
the pool. Half of the pool in nine tenths of a random draw of 30 rows: once in 4 million draws."""
LENGTH_FACTOR = 10
"""Lengths collapse a selection where its median is this many times below the pool's, and MOST_OF_CHOSEN of it are
below the pool's median, as half of the pool is; above, likewise."""

QUARTILES = ("q1", "median", "q3")


@dataclass(frozen=True)
class Composition:
    """Chosen against pool.

    by_source: source, pool, pool_share, chosen, chosen_share (shares of rows, in [0, 1]), and pool_tokens,
        chosen_tokens (response tokens) where they are counted; by name. None where the pool has no sources.
    lengths: of ("pool", "chosen"), q1, median and q3 of the response tokens; None where none is counted.
    collapsed: what is wrong, in words; empty where nothing is.
    """

    by_source: pl.DataFrame | None
    lengths: pl.DataFrame | None
    collapsed: list[str]

    def as_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {
            "sources": None if self.by_source is None else self.by_source.to_dicts(),
            "response_tokens": None
            if self.lengths is None
            else {row.pop("of"): row for row in self.lengths.iter_rows(named=True)},
            "collapsed": self.collapsed,
        }


def composition(pool: Pool, chosen: pl.DataFrame) -> Composition:
    """Of the rows `chosen`, whose columns are those of the pool."""
    may_be_chosen = pool.scores if pool.held_out is None else pool.scores.filter(pool.held_out.is_null())
    by_source, lengths = _by_source(may_be_chosen, chosen), _lengths(may_be_chosen, chosen)
    is_large = len(chosen) >= FEWEST_ROWS
    collapsed = [*_on_a_source(by_source), *_on_a_length(lengths, chosen)] if is_large else []
    return Composition(by_source, lengths, collapsed)


def first_source() -> pl.Expr:
    """The source that a sample counts for: the first by name of the column `sources`, lists as the corpus index has."""
    return pl.col("sources").list.sort().list.first()


def _by_source(pool: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame | None:
    if not isinstance(pool.schema.get("sources"), pl.List):
        return None
    is_counted = _is_counted(pool)
    tokens = [pl.col("response_tokens").cast(pl.Int64).sum().alias("tokens")] if is_counted else []

    def counts(frame: pl.DataFrame, name: str) -> pl.DataFrame:
        counted = frame.group_by(source=first_source()).agg(pl.len().cast(pl.Int64).alias("rows"), *tokens)
        return counted.rename({"rows": name} | {column: f"{name}_{column}" for column in counted.columns[2:]})

    both = counts(pool, "pool").join(counts(chosen, "chosen"), on="source", how="left").fill_null(0).sort("source")
    shares = [(pl.col(of) / pl.max_horizontal(pl.col(of).sum(), 1)).alias(f"{of}_share") for of in ("pool", "chosen")]
    columns = ["pool", "pool_share", "chosen", "chosen_share", *(["pool_tokens", "chosen_tokens"] * is_counted)]
    return both.with_columns(shares).select("source", *columns)


def _lengths(pool: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame | None:
    if not _is_counted(pool):
        return None
    column = pl.col("response_tokens").cast(pl.Float64)
    quartiles = [column.quantile(at).alias(name) for at, name in zip((0.25, 0.5, 0.75), QUARTILES, strict=True)]
    return pl.concat(
        [frame.select(pl.lit(of).alias("of"), *quartiles) for of, frame in (("pool", pool), ("chosen", chosen))]
    )


def _is_counted(pool: pl.DataFrame) -> bool:
    return "response_tokens" in pool.columns and pool["response_tokens"].count() > 0


def _on_a_source(by_source: pl.DataFrame | None) -> list[str]:
    if by_source is None:
        return []
    found = by_source.filter((pl.col("chosen_share") > MOST_OF_CHOSEN) & (pl.col("pool_share") < FEW_OF_POOL))
    return [
        f"{chosen:.0%} of the chosen rows are of source {source}, which is {pool:.0%} of the pool"
        for source, chosen, pool in found.select("source", "chosen_share", "pool_share").iter_rows()
    ]


def _on_a_length(lengths: pl.DataFrame | None, chosen: pl.DataFrame) -> list[str]:
    if lengths is None or lengths.null_count().sum_horizontal()[0]:
        return []
    pool, median = lengths["median"]
    tokens = chosen["response_tokens"].drop_nulls()
    if median * LENGTH_FACTOR < pool:
        word, beyond = "shorter", tokens < pool
    elif median > pool * LENGTH_FACTOR:
        word, beyond = "longer", tokens > pool
    else:
        return []
    if beyond.sum() <= MOST_OF_CHOSEN * len(tokens):
        return []
    return [
        f"the chosen responses are far {word} than the pool's: a median of {median:g} tokens against {pool:g}, and "
        f"{MOST_OF_CHOSEN:.0%} of them or more are {word} than the pool's median"
    ]
