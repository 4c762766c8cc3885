"""A strategy's order, cut at a budget: the selection.

Samples that lack something the strategy needs are left out, each with a reason; nothing is imputed. The order is
generated step by step and stopped by the budget, so a smaller budget is a prefix of a larger one.
"""

from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import polars as pl

from dselect_core.config import CoresetSpec
from dselect_core.errors import DselectError
from dselect_core.progress import Progress
from dselect_core.select.grid import usable_vectors
from dselect_core.select.pool import Pick, Pool
from dselect_core.select.strategies import SCORE_COLUMNS, Strategy, strategy

_KIND_OF_ARRAY = {"embedding": "embeddings", "active neurons": "activations"}


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, in order.

    order: sample_id, rank (UInt32, from 1), gain (Float64, null where the strategy defines none), `pass` (UInt32, mads
        only), then every score column of the pool.
    excluded: sample_id, reason; the samples that lacked what the strategy (or a token budget) needs, by id.
    passes: coverage passes used; None unless the strategy is mads.
    tokens: response tokens of the chosen; None where the pool has no such column or one of them is null.
    """

    order: pl.DataFrame = field(repr=False)
    excluded: pl.DataFrame = field(repr=False)
    pool_size: int
    passes: int | None
    rows: int
    tokens: int | None


def needs(spec: CoresetSpec) -> frozenset[str]:
    """The kinds of score a recipe cannot do without: its strategy's, and `difficulty` for a budget in tokens."""
    counted = {SCORE_COLUMNS["response_tokens"]} if spec.budget.unit == "tokens" else set()
    return strategy(spec.strategy).needs | counted


def select(pool: Pool, spec: CoresetSpec, progress: Progress | None = None) -> Selection:
    """Choose from `pool` as `spec` says.

    A share is counted on the whole pool, samples without scores included. An empty pool gives an empty selection for a
    share; rows and tokens cannot be bought from it. Under a token budget the selection ends before the first sample
    that would exceed it: no later, shorter sample is squeezed in, or budgets would not nest.
    Raises DselectError: a score that is not in the pool at all, a budget larger than the pool or than what can be
    selected, a token budget below the first pick.
    """
    chosen = strategy(spec.strategy)
    if len(pool) == 0 and spec.budget.unit == "percent":
        return _selection(pool, chosen, [], _excluded(pool, {}))
    missing = _missing(pool, chosen, by_tokens=spec.budget.unit == "tokens")
    lacking = np.logical_or.reduce([np.zeros(len(pool), dtype=bool), *missing.values()])
    selectable = pool.take(np.flatnonzero(~lacking))
    if spec.budget.unit == "tokens":
        picks = _within_tokens(selectable, chosen, spec, len(pool), _lack(missing), progress)
    else:
        picks = _within_rows(selectable, chosen, spec, len(pool), _lack(missing), progress)
    return _selection(selectable, chosen, picks, _excluded(pool, missing))


def _missing(pool: Pool, chosen: Strategy, by_tokens: bool) -> dict[str, np.ndarray]:
    """For each thing needed: boolean [n], where it is missing. Raises DselectError if the pool has none of it."""
    columns = [*chosen.columns]
    if by_tokens and "response_tokens" not in columns:
        columns.append("response_tokens")
    missing: dict[str, np.ndarray] = {}
    for column in columns:
        if column not in pool.scores.columns:
            raise DselectError(
                f"the pool has no column `{column}`, which `{chosen.name}` or its budget needs: "
                f"make the {SCORE_COLUMNS[column]} scores first"
            )
        # NaN and infinity are no scores either, and one NaN would win or lose every comparison.
        missing[column] = ~pool.scores[column].cast(pl.Float64).is_finite().fill_null(False).to_numpy()
    arrays = {"embedding": pool.embeddings, "active neurons": pool.neurons}
    for name, array in arrays.items():
        if _KIND_OF_ARRAY[name] not in chosen.needs:
            continue
        if array is None:
            raise DselectError(f"the pool has no {_KIND_OF_ARRAY[name]}, which `{chosen.name}` needs: make them first")
        if name == "embedding":
            missing[name] = ~usable_vectors(array)
        else:
            missing[name] = np.zeros(len(pool), dtype=bool) if pool.has_neurons is None else ~pool.has_neurons
    return missing


def _within_rows(
    pool: Pool, chosen: Strategy, spec: CoresetSpec, whole: int, lack: str, progress: Progress | None
) -> list[Pick]:
    limit = spec.budget.rows(whole)
    assert limit is not None
    if limit > whole:
        raise DselectError(f"budget {spec.budget} is larger than the pool of {whole} samples: lower it, or add sources")
    if limit > len(pool):
        share = f" is {limit} rows, which" if spec.budget.unit == "percent" else ""
        raise DselectError(
            f"budget {spec.budget}{share} is larger than the {len(pool)} of {whole} samples that `{chosen.name}` can "
            f"choose from{lack}: lower the budget, or have the missing scores made"
        )
    picks: list[Pick] = []
    for pick in islice(chosen.order(pool, spec.seed), limit):
        picks.append(pick)
        if progress is not None:
            progress(len(picks), limit)
    return picks


def _within_tokens(
    pool: Pool, chosen: Strategy, spec: CoresetSpec, whole: int, lack: str, progress: Progress | None
) -> list[Pick]:
    limit = int(spec.budget.value)
    lengths = pool.scores["response_tokens"].cast(pl.Int64).to_list()
    if limit > sum(lengths):
        raise DselectError(
            f"budget {spec.budget} is larger than all {sum(lengths)} response tokens of the {len(pool)} samples (of "
            f"{whole} in the pool) that `{chosen.name}` can choose from{lack}: lower it, or add sources"
        )
    picks: list[Pick] = []
    used = 0
    for pick in chosen.order(pool, spec.seed):
        used += lengths[pick.row]
        if used > limit:
            break
        picks.append(pick)
        if progress is not None:
            progress(used, limit)
    if not picks:
        raise DselectError(
            f"budget {spec.budget} buys nothing: the first pick of `{chosen.name}` alone has {used} response tokens; "
            f"give at least that many"
        )
    return picks


def _lack(missing: dict[str, np.ndarray]) -> str:
    counts = [f"{int(rows.sum())} lack {name}" for name, rows in missing.items() if rows.any()]
    return f" ({', '.join(counts)})" if counts else ""


def _excluded(pool: Pool, missing: dict[str, np.ndarray]) -> pl.DataFrame:
    reasons = [pl.when(pl.lit(pl.Series(rows))).then(pl.lit(f"no {name}")) for name, rows in missing.items()]
    reason = pl.concat_str(reasons, separator=", ", ignore_nulls=True) if reasons else pl.lit("")
    return pool.scores.select("sample_id", reason.alias("reason").cast(pl.String)).filter(pl.col("reason") != "")


def _selection(pool: Pool, chosen: Strategy, picks: list[Pick], excluded: pl.DataFrame) -> Selection:
    in_passes = chosen.name == "mads"
    steps = pl.DataFrame(
        {
            "rank": pl.Series(range(1, len(picks) + 1), dtype=pl.UInt32),
            "gain": pl.Series([pick.gain for pick in picks], dtype=pl.Float64),
            "pass": pl.Series([pick.cover_pass for pick in picks], dtype=pl.UInt32),
        }
    )
    rows = pool.scores[np.array([pick.row for pick in picks], dtype=np.int64)]
    order = pl.concat([rows.select("sample_id"), steps if in_passes else steps.drop("pass")], how="horizontal")
    order = pl.concat([order, rows.drop("sample_id")], how="horizontal")
    tokens = rows["response_tokens"] if "response_tokens" in rows.columns else None
    return Selection(
        order=order,
        excluded=excluded,
        pool_size=len(pool) + len(excluded),
        passes=(picks[-1].cover_pass if picks else 0) if in_passes else None,
        rows=len(picks),
        tokens=None if tokens is None or tokens.null_count() else int(tokens.sum()),
    )
