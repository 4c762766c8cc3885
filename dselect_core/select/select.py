"""A strategy's order, cut at a budget: the selection.

Samples that lack something the strategy needs are left out, each with a reason; nothing is imputed. The order is
generated step by step and stopped by the budget, so a smaller budget is a prefix of a larger one. Where the caller
keeps orders, what was made of one is not made again: a smaller budget cuts it, a larger one continues it, and either
way the selection is that of a fresh run, bit for bit. The price is a hash over all that the order depends on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.progress import Progress
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.eligibility import in_words, missing, reasons
from dselect_core.select.order import Order, Pick
from dselect_core.select.order_key import order_key
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategies import strategy, with_options
from dselect_core.select.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, in order.

    order: sample_id, rank (UInt32, from 1), gain (Float64, null where the strategy defines none), `pass` (UInt32, mads
        only), then every score column of the pool.
    excluded: sample_id, reason; the samples that lacked what the strategy (or a token budget) needs, by id.
    passes: coverage passes used; None unless the strategy is mads.
    tokens: response tokens of the chosen; None where the pool has no such column or one of them is null.
    too_alike: samples passed over for likeness to a chosen one, where that left the budget unfilled; None otherwise.
    saved: the order as far as it was ever made, so often beyond `order`; None unless the caller keeps orders.
    saved_changed: `saved` is not what the caller had, and should be written.
    reused: how many of the chosen come from what the caller had; the others were picked now.
    """

    order: pl.DataFrame = field(repr=False)
    excluded: pl.DataFrame = field(repr=False)
    pool_size: int
    passes: int | None
    rows: int
    tokens: int | None
    too_alike: int | None = None
    saved: SavedOrder | None = field(default=None, repr=False)
    saved_changed: bool = False
    reused: int = 0


def required_kinds(spec: CoresetSpec) -> frozenset[str]:
    """The kinds of score a recipe cannot do without: its strategy's, and `difficulty` for a budget in tokens."""
    counted = {rankable_columns()["response_tokens"]} if spec.budget.unit == "tokens" else set()
    return strategy(spec.strategy).needs | counted


def select(
    pool: Pool,
    spec: CoresetSpec,
    progress: Progress | None = None,
    saved: Callable[[str], SavedOrder | None] | None = None,
) -> Selection:
    """Choose from `pool` as `spec` says.

    A share is counted on the whole pool, samples without scores included. An empty pool gives an empty selection for a
    share; rows and tokens cannot be bought from it. Under a token budget the selection ends before the first sample
    that would exceed it: no later, shorter sample is squeezed in, or budgets would not nest. Where a strategy passes
    over what is too alike (deita), the selection may be smaller than its budget; `too_alike` says so.

    saved: called with the key of the order, it gives the one that the caller has saved, or None (`read_saved_order`).
    It is called once, when the budget is known to be possible. Left out, nothing is hashed and nothing saved.
    `progress` is told of new picks only.

    Raises DselectError: a score that is not in the pool at all, a budget larger than the pool or than what can be
    selected, a token budget below the first pick.
    """
    chosen = with_options(spec.strategy, spec.options)
    if len(pool) == 0 and spec.budget.unit == "percent":
        return _selection(pool, chosen, [], pl.DataFrame(schema={"sample_id": pl.String(), "reason": pl.String()}))
    lacking = missing(pool, chosen, by_tokens=spec.budget.unit == "tokens")
    samples = pool.scores.select("sample_id", reasons(pool, lacking), *chosen.columns)
    selectable = pool.take(samples["reason"].is_null().arg_true().to_numpy())
    limit = _limit(selectable, spec, len(pool), in_words(lacking))

    key = None if saved is None else order_key(selectable, chosen, spec.seed)
    found = None if saved is None or key is None else saved(key)
    steps = _Steps(selectable, chosen, spec.seed, found)
    if spec.budget.unit == "tokens":
        picks = _within_tokens(steps, selectable, spec, limit, progress)
    else:
        picks = _within_rows(steps, limit, progress)
    selection = _selection(selectable, chosen, picks, samples.select("sample_id", "reason").drop_nulls("reason"))
    filled = selection.tokens if spec.budget.unit == "tokens" else selection.rows
    if chosen.ends_early and steps.ended and filled != limit:
        selection = replace(selection, too_alike=len(selectable) - len(picks))
    if key is None:
        return selection
    keep = steps.keep(key, samples)
    # The key is silent about samples that cannot be used, and about scores below the grid; the saved table is not.
    changed = found is None or not keep.table.equals(found.table)
    return replace(selection, saved=keep, saved_changed=changed, reused=min(len(picks), steps.found))


class _Steps:
    """The saved picks, then the strategy's own, begun only when those do not suffice. Remembers every pick."""

    def __init__(self, pool: Pool, chosen: Strategy, seed: int, saved: SavedOrder | None) -> None:
        self._pool, self._chosen, self._seed, self._kept = pool, chosen, seed, saved
        self._order: Order | None = None
        self._made: list[Pick] = [] if saved is None else [*saved.picks]
        self.found = len(self._made)
        self.ended = False

    def __iter__(self) -> Iterator[Pick]:
        yield from self._made[: self.found]
        if self.found < len(self._pool):
            self._order = self._chosen.order(self._pool, self._seed, self._kept)
            for pick in self._order:
                self._made.append(pick)
                yield pick
        self.ended = True

    def keep(self, key: str, samples: pl.DataFrame) -> SavedOrder:
        """With every pick made, so with the one that ended a token budget: a larger budget begins with it."""
        if self._order is not None:
            return SavedOrder.of(key, samples, self._made, self._order.state(), self._order.standing())
        assert self._kept is not None
        return SavedOrder.of(key, samples, self._made, self._kept.state, self._kept.standing)


def _limit(pool: Pool, spec: CoresetSpec, whole: int, lack: str) -> int:
    """The budget in rows or in response tokens, if `pool`, the selectable of `whole` samples, can fill it at all."""
    if spec.budget.unit == "tokens":
        limit, held = int(spec.budget.value), sum(_lengths(pool))
        if limit > held:
            raise DselectError(
                f"budget {spec.budget} is larger than all {held} response tokens of the {len(pool)} samples (of "
                f"{whole} in the pool) that `{spec.strategy}` can choose from{lack}: lower it, or add sources"
            )
        return limit
    rows = spec.budget.rows(whole)
    assert rows is not None
    if rows > whole:
        raise DselectError(f"budget {spec.budget} is larger than the pool of {whole} samples: lower it, or add sources")
    if rows > len(pool):
        share = f" is {rows} rows, which" if spec.budget.unit == "percent" else ""
        raise DselectError(
            f"budget {spec.budget}{share} is larger than the {len(pool)} of {whole} samples that `{spec.strategy}` can "
            f"choose from{lack}: lower the budget, or have the missing scores made"
        )
    return rows


def _lengths(pool: Pool) -> list[int]:
    return pool.scores["response_tokens"].cast(pl.Int64).to_list()


def _within_rows(steps: _Steps, limit: int, progress: Progress | None) -> list[Pick]:
    picks: list[Pick] = []
    for pick in islice(steps, limit):
        picks.append(pick)
        if progress is not None and len(picks) > steps.found:
            progress(len(picks) - steps.found, limit - steps.found, steps.found)
    return picks


def _within_tokens(steps: _Steps, pool: Pool, spec: CoresetSpec, limit: int, progress: Progress | None) -> list[Pick]:
    lengths = _lengths(pool)
    picks: list[Pick] = []
    used = reused = 0
    for pick in steps:
        used += lengths[pick.row]
        if used > limit:
            break
        picks.append(pick)
        if len(picks) <= steps.found:
            reused = used
        elif progress is not None:
            progress(used - reused, limit - reused, reused)
    if not picks:
        raise DselectError(
            f"budget {spec.budget} buys nothing: the first pick of `{spec.strategy}` alone has {used} response tokens; "
            f"give at least that many"
        )
    return picks


def _selection(pool: Pool, chosen: Strategy, picks: list[Pick], excluded: pl.DataFrame) -> Selection:
    in_passes = chosen.counts_passes
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
