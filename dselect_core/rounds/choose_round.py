"""Whom a round chooses: the weighted coreset given what is already chosen, up to the round's share of the budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.d3 import D3, d3_weight_steps
from dselect_core.select.eligibility import count_missing, exclusion_reasons, rows_missing_inputs
from dselect_core.select.farthest_first import farthest_first
from dselect_core.select.kcenter import kcenter_order
from dselect_core.select.order import Pick
from dselect_core.select.prepare import counts_tokens
from dselect_core.select.recipe import CoresetSpec


@dataclass(frozen=True, eq=False)
class Selectable:
    """What of a pool d3 can choose. pool: those rows alone; reasons: String [n], why the others cannot.

    missing: for a message, how many lack what.
    """

    pool: Pool
    reasons: pl.Series
    missing: str

    @classmethod
    def of(cls, pool: Pool, spec: CoresetSpec) -> "Selectable":
        """Raises DselectError where the whole pool lacks what d3 needs."""
        missing_rows, shortest = rows_missing_inputs(pool, D3, counts_tokens(spec)), spec.min_response_tokens
        reasons = exclusion_reasons(pool, missing_rows, shortest)
        missing = count_missing(pool, missing_rows, shortest)
        return cls(pool.take(reasons.is_null().arg_true().to_numpy()), reasons, missing)

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


def warm_up_rows(selectable: Selectable, spec: CoresetSpec) -> list[str]:
    """Ids of the warm-up rows, in their order. selectable: by the target model's scores.

    random: the smallest seeded hashes, so that a new row moves the set only where it comes into it; kcenter: the greedy
    k-center over the target model's embeddings. Raises DselectError where there are too few rows.
    """
    warmup, ids = spec.warmup, selectable.pool.sample_ids.to_list()
    assert warmup is not None
    if warmup.samples > len(ids):
        raise DselectError(
            f"a warm-up of {warmup.samples} rows is larger than the {len(ids)} that d3 can choose from"
            f"{selectable.missing}: lower `warmup.samples`, or add sources"
        )
    if warmup.by == "kcenter":
        order = kcenter_order(selectable.pool, spec.seed)
        return [ids[pick.row] for pick in islice(order, warmup.samples)]
    return sorted(ids, key=lambda sample_id: digest(["warm-up", str(spec.seed), sample_id]))[: warmup.samples]


@dataclass(frozen=True, eq=False)
class Choice:
    """What a round chose. Arrays have a row per selectable row.

    picks: in their order, with their gains; standing: the gain of each other row as the next pick, NaN where picked or
    given, and where nothing is chosen yet; is_bound: where it is an upper bound.
    """

    picks: list[Pick]
    standing: np.ndarray
    is_bound: np.ndarray


def choose(selectable: Selectable, given: Sequence[int], spent: int, until: int, by_tokens: bool) -> Choice:
    """The picks that raise what is spent to `until`.

    given: rows of the selectable pool that stand as centres; spent: rows or tokens of all that was chosen before. A
    budget in tokens ends before the first pick that would exceed it; what it leaves is for the next round. Raises
    DselectError where the rows end before the budget does.
    """
    pool, lengths = selectable.pool, selectable.lengths() if by_tokens else [1] * len(selectable.pool)
    assert pool.embeddings is not None
    left = sum(lengths) - sum(lengths[row] for row in given)
    if spent + left < until:
        unit = "response tokens" if by_tokens else "rows"
        raise DselectError(
            f"only {left} {unit} are left to choose, and {until - spent} are wanted{selectable.missing}: lower the "
            "budget, or have the missing scores made"
        )
    weights = d3_weight_steps(pool)
    order = farthest_first(pool.embeddings, weights, given=given)
    picks: list[Pick] = []
    while spent < until and (pick := next(order, None)) is not None:
        spent += lengths[pick.row]
        if spent > until:
            # The order has that pick now: what stands is asked of one that has not.
            order = farthest_first(pool.embeddings, weights, given=[*given, *(pick.row for pick in picks)])
            break
        picks.append(pick)
    standing, centres = order.standing(), len(given) + len(picks)
    is_bound = (order.state()["seen"] < centres) & (standing > 0) if centres else np.zeros(len(pool), dtype=bool)
    return Choice(picks, standing, is_bound)


def rows_of(pool: Pool, ids: Sequence[str]) -> list[int]:
    """The rows of these samples, in their order, without those that the pool does not have."""
    at = {sample_id: row for row, sample_id in enumerate(pool.sample_ids)}
    return [at[sample_id] for sample_id in ids if sample_id in at]
