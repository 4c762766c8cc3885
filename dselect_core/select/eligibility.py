"""What samples lack of the things a strategy, or a token budget, needs. They are left out; nothing is imputed."""

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.rounding import usable_vectors
from dselect_core.select.strategy import Strategy

_KIND_OF_ARRAY = {"embedding": "embeddings", "active neurons": "activations"}


def missing(pool: Pool, chosen: Strategy, by_tokens: bool) -> dict[str, np.ndarray]:
    """For each thing needed: boolean [n], where it is missing. Raises DselectError if the pool has none of it."""
    columns = [*chosen.columns]
    if by_tokens and "response_tokens" not in columns:
        columns.append("response_tokens")
    lacking: dict[str, np.ndarray] = {}
    for column in columns:
        if column not in pool.scores.columns:
            raise DselectError(
                f"the pool has no column `{column}`, which `{chosen.name}` or its budget needs: "
                f"make the {rankable_columns()[column]} scores first"
            )
        # NaN and infinity are no scores either, and one NaN would win or lose every comparison.
        lacking[column] = ~pool.scores[column].cast(pl.Float64).is_finite().fill_null(False).to_numpy()
    arrays = {"embedding": pool.embeddings, "active neurons": pool.neurons}
    for name, array in arrays.items():
        if _KIND_OF_ARRAY[name] not in chosen.needs:
            continue
        if array is None:
            raise DselectError(f"the pool has no {_KIND_OF_ARRAY[name]}, which `{chosen.name}` needs: make them first")
        if name == "embedding":
            lacking[name] = ~usable_vectors(array)
        else:
            lacking[name] = np.zeros(len(pool), dtype=bool) if pool.has_neurons is None else ~pool.has_neurons
    return lacking


def in_words(lacking: dict[str, np.ndarray]) -> str:
    """For a message: ` (2 lack upd, 1 lack embedding)`, or nothing."""
    counts = [f"{int(rows.sum())} lack {name}" for name, rows in lacking.items() if rows.any()]
    return f" ({', '.join(counts)})" if counts else ""


def reasons(pool: Pool, lacking: dict[str, np.ndarray]) -> pl.Series:
    """String [n], `no upd, no grade`; null for a sample that lacks nothing."""
    told = [pl.when(pl.lit(pl.Series(rows))).then(pl.lit(f"no {name}")) for name, rows in lacking.items()]
    if not told:
        return pl.Series("reason", [None] * len(pool), dtype=pl.String)
    joined = pl.concat_str(told, separator=", ", ignore_nulls=True)
    return pool.scores.select(reason=pl.when(joined != "").then(joined))["reason"]
