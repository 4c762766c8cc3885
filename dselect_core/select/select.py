"""Selection: a strategy's order, cut at a budget.

Samples that are held out, too short, or lack something the recipe needs, are left out, each with a reason; nothing is
imputed.
The order is made pick by pick and stopped by the budget, so a smaller budget is a prefix of a larger one. Where the
caller keeps orders, no pick is made twice: a smaller budget cuts the saved order, a larger one continues it, and the
selection is that of a fresh run, bit for bit. The price is a hash over all that the order depends on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import rankable_columns
from dselect_core.progress import Progress
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.composition import Composition, composition
from dselect_core.select.order import Order, Pick
from dselect_core.select.order_key import order_key
from dselect_core.select.prepare import Prepared, counts_tokens, prepare, response_token_counts
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, in order.

    order: sample_id, rank (UInt32, from 1), gain (Float64, null where the strategy defines none), `pass` (UInt32, only
        where the strategy counts passes), then what the strategy tells of its picks (`target`, the target example that
        took it, of `targeted`), and every score column of the pool.
    excluded: sample_id, reason; the samples that are held out, too short, or lacked what the recipe needs, by id.
    passes: passes over the pool; None where the strategy does not count them.
    tokens: response tokens of the chosen; None where the pool has no such column or one of them is null.
    composition: chosen against pool, by source and by length.
    mixture: group, candidates, chosen, least, most; None where the recipe gives neither `quota` nor `balance`.
    facts: what the order tells of how it was made (`Order.facts`); empty for most.
    too_alike: samples passed over as too similar to a chosen one, where that left the budget unfilled; None otherwise.
    saved: the order as far as it was ever made, so often beyond `order`; None unless the caller keeps orders.
    saved_changed: `saved` differs from what the caller had, and should be written.
    reused: how many of the chosen were in the caller's order; the others were picked now.
    """

    order: pl.DataFrame = field(repr=False)
    excluded: pl.DataFrame = field(repr=False)
    pool_size: int
    passes: int | None
    rows: int
    tokens: int | None
    composition: Composition = field(repr=False)
    mixture: pl.DataFrame | None = field(default=None, repr=False)
    facts: dict[str, str | int | float] = field(default_factory=dict)
    too_alike: int | None = None
    saved: SavedOrder | None = field(default=None, repr=False)
    saved_changed: bool = False
    reused: int = 0


def required_kinds(spec: CoresetSpec) -> frozenset[str]:
    """The kinds of score that a recipe needs: its strategy's, and the one that counts tokens where it counts them."""
    strategy = strategies.strategy_with_options(spec.strategy, spec.options)
    by_tokens = {rankable_columns()["response_tokens"]} if counts_tokens(spec) else set()
    by_cluster = {"embeddings"} if spec.needs_clusters and "embeddings" not in strategy.array_fields.values() else set()
    needs = strategy.needs | by_tokens | by_cluster
    return needs if spec.grade is None else spec.grade.of_needs(needs)


def select(
    pool: Pool,
    spec: CoresetSpec,
    progress: Progress | None = None,
    read_saved: Callable[[str], SavedOrder | None] | None = None,
) -> Selection:
    """Choose from `pool` as `spec` says.

    A share is counted on the whole pool, samples without scores included. From an empty pool a share selects nothing;
    rows and tokens are an error there. A token budget ends the selection before the first sample that would exceed it:
    a later, shorter sample is not taken in its place, or smaller budgets would not be prefixes of larger ones. Where a
    strategy passes over similar samples (deita), the selection may be smaller than its budget; `too_alike` says so.

    read_saved: key of the order → the order that the caller has saved under it, or None (`read_saved_order`). It is
    called once, after the budget is known to be possible. Without it nothing is hashed and nothing is saved.
    progress: called for new picks only, in rows or tokens.

    Raises DselectError: a score that the whole pool lacks, a budget larger than the pool or than what can be selected,
    a token budget smaller than the first pick, a pick that nobody graded yet (`Pool.ungraded`).
    """
    strategy = strategies.strategy_with_options(spec.strategy, spec.options)
    if len(pool) == 0 and spec.budget.unit == "percent":
        empty = pl.DataFrame(schema={"sample_id": pl.String(), "reason": pl.String()})
        return _build_selection(pool, pool, strategy, [], empty)
    prepared = prepare(pool, spec)
    samples, selectable, limit, mixture = prepared.samples, prepared.selectable, prepared.limit, prepared.mixture
    key = None
    if read_saved is not None:
        key = order_key(selectable, strategy, spec.seed, None if mixture is None else mixture.identity)
    saved = None if read_saved is None or key is None else read_saved(key)
    order = _ContinuedOrder(prepared, spec.seed, saved)
    if spec.budget.unit == "tokens":
        picks = _take_tokens(order, selectable, spec, limit, progress)
    else:
        picks = _take_rows(order, limit, progress)
    excluded = samples.select("sample_id", "reason").drop_nulls("reason")
    selection = replace(_build_selection(pool, selectable, strategy, picks, excluded), facts=order.facts)
    if mixture is not None:
        selection = replace(selection, mixture=mixture.table([pick.row for pick in picks]))
    if strategy.pick_columns is not None:
        rows = np.array([pick.row for pick in picks], dtype=np.int64)
        told = strategy.pick_columns(selectable, rows, order.state())
        columns = selection.order.columns
        at = columns.index("gain") + 1
        selection = replace(
            selection, order=selection.order.with_columns(**told).select(*columns[:at], *told, *columns[at:])
        )
    amount = selection.tokens if spec.budget.unit == "tokens" else selection.rows
    if strategy.ends_early and order.is_exhausted and amount != limit:
        if mixture is not None:
            mixture.require_met()
        selection = replace(selection, too_alike=len(selectable) - len(picks))
    if key is None:
        return selection
    new_saved = order.to_saved_order(key, samples)
    # The key does not depend on unusable samples, nor on scores below the grid; the saved table has both.
    is_changed = saved is None or not new_saved.table.equals(saved.table)
    return replace(selection, saved=new_saved, saved_changed=is_changed, reused=min(len(picks), order.saved_count))


class _ContinuedOrder:
    """The saved picks, then those of the strategy, which is only run when the saved ones do not suffice.

    saved_count: number of saved picks. is_exhausted: whether the order has been iterated to its end.
    """

    def __init__(self, prepared: Prepared, seed: int, saved: SavedOrder | None) -> None:
        self._mixture, self._pool, self._strategy = prepared.mixture, prepared.selectable, prepared.strategy
        self._ungraded, self._seed, self._saved = prepared.ungraded, seed, saved
        self._order: Order | None = None
        self._picks: list[Pick] = [] if saved is None else [*saved.picks]
        self.saved_count = len(self._picks)
        self.is_exhausted = False

    def __iter__(self) -> Iterator[Pick]:
        yield from self._picks[: self.saved_count]
        if self.saved_count < len(self._pool):
            self._order = self._strategy.order(self._pool, self._seed, self._saved)
            for pick in self._order if self._mixture is None else self._mixture.picks(self._order, self._picks):
                if self._ungraded[pick.row]:
                    raise DselectError(
                        f"sample {self._pool.sample_ids[pick.row]} would be chosen by the bound of its grade: have "
                        "graded what can still win (`candidates.grade_candidates`)"
                    )
                self._picks.append(pick)
                yield pick
        self.is_exhausted = True

    def state(self) -> dict[str, np.ndarray]:
        """Of the order as far as it was made."""
        if self._order is not None:
            return self._order.state()
        return {} if self._saved is None else self._saved.state

    @cached_property
    def facts(self) -> dict[str, str | int | float]:
        """Of the order. They do not depend on how many picks there are, so those of a saved one hold."""
        saved = {} if self._saved is None else self._saved.facts
        return saved if saved or self._order is None else self._order.facts()

    def to_saved_order(self, key: str, samples: pl.DataFrame) -> SavedOrder:
        """With every pick made, also the one that exceeded a token budget: a larger budget starts with it."""
        if self._order is not None:
            # With the groups, which `why` names.
            groups = {} if self._mixture is None else {"group": self._mixture.groups}
            state, standing = self._order.state() | groups, self._order.standing()
            return SavedOrder.of(key, samples, self._picks, state, standing, self.facts)
        assert self._saved is not None
        return SavedOrder.of(key, samples, self._picks, self._saved.state, self._saved.standing, self.facts)


def _take_rows(order: _ContinuedOrder, limit: int, progress: Progress | None) -> list[Pick]:
    picks: list[Pick] = []
    for pick in islice(order, limit):
        picks.append(pick)
        if progress is not None and len(picks) > order.saved_count:
            progress(len(picks) - order.saved_count, limit - order.saved_count, order.saved_count)
    return picks


def _take_tokens(
    order: _ContinuedOrder, pool: Pool, spec: CoresetSpec, limit: int, progress: Progress | None
) -> list[Pick]:
    lengths = response_token_counts(pool)
    picks: list[Pick] = []
    token_count = saved_token_count = 0
    for pick in order:
        token_count += lengths[pick.row]
        if token_count > limit:
            break
        picks.append(pick)
        if len(picks) <= order.saved_count:
            saved_token_count = token_count
        elif progress is not None:
            progress(token_count - saved_token_count, limit - saved_token_count, saved_token_count)
    if not picks:
        raise DselectError(
            f"budget {spec.budget} buys nothing: the first pick of `{spec.strategy}` alone has {token_count} response "
            f"tokens; give at least that many"
        )
    return picks


def _build_selection(
    pool: Pool, selectable: Pool, strategy: Strategy, picks: list[Pick], excluded: pl.DataFrame
) -> Selection:
    columns = {
        "rank": pl.Series(range(1, len(picks) + 1), dtype=pl.UInt32),
        "gain": pl.Series([pick.gain for pick in picks], dtype=pl.Float64),
    }
    if strategy.counts_passes:
        columns["pass"] = pl.Series([pick.cover_pass for pick in picks], dtype=pl.UInt32)
    rows = selectable.scores[np.array([pick.row for pick in picks], dtype=np.int64)]
    order = pl.concat([rows.select("sample_id"), pl.DataFrame(columns), rows.drop("sample_id")], how="horizontal")
    tokens = rows["response_tokens"] if "response_tokens" in rows.columns else None
    return Selection(
        order=order,
        excluded=excluded,
        pool_size=len(pool),
        passes=(picks[-1].cover_pass if picks else 0) if strategy.counts_passes else None,
        rows=len(picks),
        tokens=None if tokens is None or tokens.null_count() else int(tokens.sum()),
        composition=composition(pool, order),
    )
