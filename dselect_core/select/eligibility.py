"""Which samples are held out, or lack something that a strategy or a token budget needs. Nothing is imputed."""

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.strategy import Strategy

# What one row of an array of `Pool` is called in reasons and messages. Saved orders have these words.
_ROW_OF_ARRAY = {"embeddings": "embedding", "neurons": "active neurons"}


def rows_missing_inputs(pool: Pool, strategy: Strategy, by_tokens: bool) -> dict[str, np.ndarray]:
    """{score column, "embedding" or "active neurons": boolean [n], the rows that lack it}, of all that is needed.

    by_tokens: the budget is in response tokens, so their number is needed too. Raises DselectError where the whole pool
    lacks an input, naming what makes it.
    """
    columns = [*strategy.columns]
    if by_tokens and "response_tokens" not in columns:
        columns.append("response_tokens")
    missing_rows: dict[str, np.ndarray] = {}
    for column in columns:
        if column not in pool.scores.columns:
            raise DselectError(
                f"the pool has no column `{column}`, which `{strategy.name}` or its budget needs: "
                f"make the {rankable_columns()[column]} scores first"
            )
        # NaN and infinity are no scores either: one NaN would win or lose every comparison.
        missing_rows[column] = ~pool.scores[column].cast(pl.Float64).is_finite().fill_null(False).to_numpy()
    for kind, array in strategy.array_fields.items():
        if getattr(pool, array) is None:
            raise DselectError(f"the pool has no {kind}, which `{strategy.name}` needs: make them first")
        missing_rows[_ROW_OF_ARRAY[array]] = ~pool.has_array(array)
    for required, rows_lacking in strategy.requires.items():
        missing_rows[required] = rows_lacking(pool)
    return missing_rows


def count_missing(pool: Pool, missing_rows: dict[str, np.ndarray]) -> str:
    """For a message: ` (3 held out, 2 lack upd, 1 lack embedding)`; empty where every row can be chosen."""
    held_out = 0 if pool.held_out is None else len(pool.held_out) - pool.held_out.null_count()
    counts = [f"{held_out} held out"] if held_out else []
    counts += [f"{int(rows.sum())} lack {name}" for name, rows in missing_rows.items() if rows.any()]
    return f" ({', '.join(counts)})" if counts else ""


def exclusion_reasons(pool: Pool, missing_rows: dict[str, np.ndarray]) -> pl.Series:
    """String [n], why it is held out, else `no upd, no grade`; null for a sample that can be chosen."""
    missing = _missing_reasons(pool, missing_rows)
    if pool.held_out is None:
        return missing
    return pl.select(reason=pl.coalesce(pool.held_out.cast(pl.String), missing))["reason"]


def _missing_reasons(pool: Pool, missing_rows: dict[str, np.ndarray]) -> pl.Series:
    reasons = [pl.when(pl.lit(pl.Series(rows))).then(pl.lit(f"no {name}")) for name, rows in missing_rows.items()]
    if not reasons:
        return pl.Series("reason", [None] * len(pool), dtype=pl.String)
    joined = pl.concat_str(reasons, separator=", ", ignore_nulls=True)
    return pool.scores.select(reason=pl.when(joined != "").then(joined))["reason"]
