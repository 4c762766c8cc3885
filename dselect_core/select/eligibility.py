"""Which samples are held out, too short, or lack something that a strategy or a recipe needs. Nothing is imputed."""

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.strategy import Strategy

NEAR_DUPLICATE = "near-duplicate of a sample that is kept"
"""How the reason begins that a sample is not chosen for; `(id: how alike)` follows."""

# What one row of an array of `Pool` is called in reasons and messages. Saved orders have these words.
_ROW_OF_ARRAY = {
    "embeddings": "embedding",
    "neurons": "active neurons",
    "weighted_embeddings": "weighted embedding",
}


def rows_missing_inputs(
    pool: Pool, strategy: Strategy, counts_tokens: bool, clusters: bool = False
) -> dict[str, np.ndarray]:
    """{score column, "embedding" or "active neurons": boolean [n], the rows that lack it}, of all that is needed.

    counts_tokens: the recipe counts response tokens (a budget in tokens, `min_response_tokens`), so their number is
    needed too. clusters: it divides the rows over clusters of their embeddings, so those are. Raises DselectError where
    the whole pool lacks an input, naming what makes it.
    """
    columns = [*strategy.columns]
    if counts_tokens and "response_tokens" not in columns:
        columns.append("response_tokens")
    missing_rows: dict[str, np.ndarray] = {}
    for column in columns:
        if column not in pool.scores.columns:
            raise DselectError(
                f"the pool has no column `{column}`, which `{strategy.name}` or its recipe needs: "
                f"make the {rankable_columns()[column]} scores first"
            )
        # NaN and infinity are no scores either: one NaN would win or lose every comparison.
        missing_rows[column] = ~pool.scores[column].cast(pl.Float64).is_finite().fill_null(False).to_numpy()
    arrays = strategy.array_fields
    if clusters and "embeddings" not in arrays.values():
        arrays["embeddings"] = "embeddings"
    for kind, array in arrays.items():
        if getattr(pool, array) is None:
            raise DselectError(f"the pool has no {kind}, which `{strategy.name}` needs: make them first")
        missing_rows[_ROW_OF_ARRAY[array]] = ~pool.has_array(array)
    for required, rows_lacking in strategy.requires.items():
        missing_rows[required] = rows_lacking(pool)
    if strategy.target_kind is not None and pool.targets is None:
        raise DselectError(
            f"`{strategy.name}` has no examples to be near to: add a source with `role: target`, and have its "
            f"{strategy.target_kind} made"
        )
    return missing_rows


def count_missing(pool: Pool, missing_rows: dict[str, np.ndarray], min_response_tokens: int | None) -> str:
    """For a message: ` (3 held out, 4 near-duplicates, 2 lack upd)`; empty where every row can be chosen."""
    reasons = pl.Series([], dtype=pl.String) if pool.held_out is None else pool.held_out.cast(pl.String).drop_nulls()
    near_duplicates = int(reasons.str.starts_with(NEAR_DUPLICATE).sum())
    held_out = len(reasons) - near_duplicates
    counts = [f"{held_out} held out"] if held_out else []
    counts += [f"{near_duplicates} near-duplicates"] if near_duplicates else []
    counts += [f"{int(rows.sum())} lack {name}" for name, rows in missing_rows.items() if rows.any()]
    if min_response_tokens is not None and (short := int(_is_short(pool, min_response_tokens).sum())):
        counts.append(f"{short} have fewer than {min_response_tokens} response tokens")
    return f" ({', '.join(counts)})" if counts else ""


def exclusion_reasons(
    pool: Pool, missing_rows: dict[str, np.ndarray], min_response_tokens: int | None = None
) -> pl.Series:
    """String [n], why it is held out, else `no upd, no grade`, else that it is short; null where it can be chosen."""
    reasons = [_missing_reasons(pool, missing_rows)]
    if pool.held_out is not None:
        reasons.insert(0, pool.held_out.cast(pl.String))
    if min_response_tokens is not None:
        told = pl.lit(f"fewer than {min_response_tokens} response tokens (min_response_tokens)")
        reasons.append(pl.select(pl.when(pl.lit(_is_short(pool, min_response_tokens))).then(told)).to_series())
    return pl.select(reason=pl.coalesce(reasons))["reason"]


def _is_short(pool: Pool, min_response_tokens: int) -> pl.Series:
    return (pool.scores["response_tokens"] < min_response_tokens).fill_null(False)


def _missing_reasons(pool: Pool, missing_rows: dict[str, np.ndarray]) -> pl.Series:
    reasons = [pl.when(pl.lit(pl.Series(rows))).then(pl.lit(f"no {name}")) for name, rows in missing_rows.items()]
    if not reasons:
        return pl.Series("reason", [None] * len(pool), dtype=pl.String)
    joined = pl.concat_str(reasons, separator=", ", ignore_nulls=True)
    return pool.scores.select(reason=pl.when(joined != "").then(joined))["reason"]
