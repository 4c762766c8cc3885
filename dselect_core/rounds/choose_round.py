"""Whom a round chooses: the weighted coreset given what is already chosen, up to the round's share of the budget.

The options of d3 hold in each round for what that round sees: `whiten` is fitted on its embeddings of all rows that it
could choose, `length_corrected` on its difficulty, and `per: token` divides its weights. `quota` and `balance` count
over all that is chosen so far, so they hold at every rank of the coreset and not only inside a round. Which group a row
is of is settled once, by the target model's scores; clusters by each round's own embeddings would be other clusters in
each round, and counting over them would mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.d3 import d3_order
from dselect_core.select.eligibility import count_missing, exclusion_reasons, rows_missing_inputs
from dselect_core.select.mixture import Mixture
from dselect_core.select.order import Order, Pick
from dselect_core.select.prepare import counts_tokens
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.recipe_mixture import Grouped, group_rows, mixture_of
from dselect_core.select.strategies import strategy_with_options
from dselect_core.select.top_k import SortedOrder


@dataclass(frozen=True, eq=False)
class Selectable:
    """What of a pool d3 can choose. pool: those rows alone; reasons: String [n], why the others cannot.

    missing: for a message, how many lack what. grouped: the groups of its rows, which the pool has too; None where the
    recipe has no mixture.
    """

    pool: Pool
    reasons: pl.Series
    missing: str
    grouped: Grouped | None = None

    @classmethod
    def of(cls, pool: Pool, spec: CoresetSpec, target: "Selectable | None" = None) -> "Selectable":
        """target: by the target model's scores, of the same samples; needed where these divide the rows over groups.

        Then a row that lacks something by the target model cannot be chosen: it has no group. Raises DselectError where
        the whole pool lacks what d3 needs.
        """
        strategy, shortest = strategy_with_options(spec.strategy, spec.options), spec.min_response_tokens
        missing_rows = rows_missing_inputs(pool, strategy, counts_tokens(spec), spec.needs_clusters)
        reasons = exclusion_reasons(pool, missing_rows, shortest)
        missing = count_missing(pool, missing_rows, shortest)
        if target is not None:
            reasons = pl.select(reason=pl.coalesce(target.reasons, reasons))["reason"]
        usable = pool.take(reasons.is_null().arg_true().to_numpy())
        if not spec.has_mixture:
            return cls(usable, reasons, missing)
        grouped = group_rows(spec, usable) if target is None else target.groups_of(usable)
        return cls(replace(usable, groups=grouped.groups), reasons, missing, grouped)

    def groups_of(self, pool: Pool) -> Grouped:
        """The groups of rows that it has too."""
        assert self.grouped is not None
        rows = self.pool.sample_ids.search_sorted(pool.sample_ids).to_numpy()
        return Grouped(self.grouped.names, self.grouped.groups[rows])

    def mixture(self, spec: CoresetSpec, budget_rows: int, taken: Sequence[str] = ()) -> Mixture | None:
        """The mixture of a recipe over its rows, after some were taken (ids); None where it has none.

        Raises DselectError where the quotas cannot be met.
        """
        if self.grouped is None:
            return None
        mixture = mixture_of(spec, self.grouped, budget_rows)
        for row in rows_of(self.pool, taken):
            mixture.take(int(self.grouped.groups[row]))
        return mixture

    def lengths(self) -> list[int]:
        """Response tokens of its rows."""
        return self.pool.scores["response_tokens"].cast(pl.Int64).to_list()


def cumulative_shares(amount: int, rounds: int) -> list[int]:
    """How much of a budget is spent by the end of each round: equal shares, the first rounds have one more.

    Raises DselectError where a share would be nothing.
    """
    share, more = divmod(amount, rounds)
    if share == 0:
        raise DselectError(
            f"a budget of {amount} is less than one for each of {rounds} rounds: raise it, or lower them"
        )
    return list(accumulate(share + (number < more) for number in range(rounds)))


def budget_amount(spec: CoresetSpec, pool_size: int) -> int:
    """The budget in rows, or in response tokens where it is in tokens."""
    rows = spec.budget.rows(pool_size)
    return int(spec.budget.value) if rows is None else rows


def warm_up_rows(selectable: Selectable, spec: CoresetSpec, mixture: Mixture | None = None) -> list[str]:
    """Ids of the warm-up rows, in their order. selectable: by the target model's scores.

    random: the smallest seeded hashes, so that a new row moves the set only where it comes into it; kcenter: the greedy
    k-center over the target model's embeddings, whitened where the recipe says so. mixture: which they keep to, as the
    first rows of the coreset; None where they are no part of it. Raises DselectError where there are too few rows.
    """
    warmup, pool = spec.warmup, selectable.pool
    assert warmup is not None
    ids = pool.sample_ids.to_list()
    if warmup.samples > len(ids):
        raise DselectError(
            f"a warm-up of {warmup.samples} rows is larger than the {len(ids)} that d3 can choose from"
            f"{selectable.missing}: lower `warmup.samples`, or add sources"
        )
    order: Order
    if warmup.by == "kcenter":
        order = strategy_with_options("kcenter", {"whiten": spec.options.get("whiten")}).order(pool, spec.seed)
    else:
        hashes = [digest(["warm-up", str(spec.seed), sample_id]) for sample_id in ids]
        order = SortedOrder(sorted(range(len(ids)), key=hashes.__getitem__), None, None, pool.groups)
    picks = list(islice(order if mixture is None else mixture.picks(order, []), warmup.samples))
    if mixture is not None and len(picks) < warmup.samples:
        mixture.require_met()
    return [ids[pick.row] for pick in picks]


@dataclass(frozen=True, eq=False)
class Choice:
    """What a round chose. Arrays have a row per selectable row.

    picks: in their order, with their gains; standing: the gain of each other row as the next pick, NaN where picked or
    given, and where nothing is chosen yet; is_bound: where it is an upper bound.
    """

    picks: list[Pick]
    standing: np.ndarray
    is_bound: np.ndarray


def choose(
    selectable: Selectable,
    spec: CoresetSpec,
    given: Sequence[int],
    spent: int,
    until: int,
    mixture: Mixture | None = None,
) -> Choice:
    """The picks that raise what is spent to `until`.

    given: rows of the selectable pool that stand as centres; spent: rows or tokens of all that was chosen before;
    mixture: over the target model's selectable rows, which has taken all of that. A budget in tokens ends before the
    first pick that would exceed it; what it leaves is for the next round. Raises DselectError where the rows end before
    the budget does, or where an option cannot work on what there is.
    """
    by_tokens = spec.budget.unit == "tokens"
    lengths = selectable.lengths() if by_tokens else [1] * len(selectable.pool)
    left = sum(lengths) - sum(lengths[row] for row in given)
    if spent + left < until:
        unit = "response tokens" if by_tokens else "rows"
        raise DselectError(
            f"only {left} {unit} are left to choose, and {until - spent} are wanted{selectable.missing}: lower the "
            "budget, or have the missing scores made"
        )
    strategy = strategy_with_options(spec.strategy, spec.options)
    pool, per = strategy.prepared(selectable.pool), strategy.given.get("per")
    order = d3_order(pool, spec.seed, per=per, given=given)
    coming = order if mixture is None else mixture.picks(order, [], pool.groups)
    picks: list[Pick] = []
    while spent < until and (pick := next(coming, None)) is not None:
        spent += lengths[pick.row]
        if spent > until:
            # The order has that pick now: what stands is asked of one that has not.
            order = d3_order(pool, spec.seed, per=per, given=[*given, *(pick.row for pick in picks)])
            break
        picks.append(pick)
    if mixture is not None and spent < until:
        mixture.require_met()
    standing, centres = order.standing(), len(given) + len(picks)
    is_bound = (order.state()["seen"] < centres) & (standing > 0) if centres else np.zeros(len(pool), dtype=bool)
    return Choice(picks, standing, is_bound)


def rows_of(pool: Pool, ids: Sequence[str]) -> list[int]:
    """The rows of these samples, in their order, without those that the pool does not have."""
    at = {sample_id: row for row, sample_id in enumerate(pool.sample_ids)}
    return [at[sample_id] for sample_id in ids if sample_id in at]
