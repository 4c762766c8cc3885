"""What a recipe chooses from, and up to where: the samples that it may choose, its budget, its mixture.

Nothing is ordered here, so whoever needs an order of a recipe (select.py, candidates.py) begins from the same things.
A sample that nobody graded yet (`Pool.ungraded`) counts with the most that its grade can be, an upper bound.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import kind_of
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.eligibility import count_missing, exclusion_reasons, rows_missing_inputs
from dselect_core.select.judges_spec import GRADE, GRADES
from dselect_core.select.mixture import Mixture
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.recipe_mixture import make_mixture
from dselect_core.select.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe over a pool.

    samples: sample_id, reason (why it cannot be chosen; null where it can), then the strategy's score columns as the
        pool has them; a row per sample of the pool, by id.
    selectable: the pool of those that can be chosen, with the groups of the mixture, and the bound for a grade that is
        not there yet. ungraded: boolean [n], its rows that have such a bound.
    limit: the budget in rows or in response tokens.
    """

    strategy: Strategy
    samples: pl.DataFrame = field(repr=False)
    selectable: Pool
    ungraded: np.ndarray = field(repr=False)
    limit: int
    mixture: Mixture | None


def counts_tokens(spec: CoresetSpec) -> bool:
    """Whether a recipe counts response tokens: its budget is in them, or it leaves out short responses."""
    return spec.budget.unit == "tokens" or spec.min_response_tokens is not None


def prepare(pool: Pool, spec: CoresetSpec) -> Prepared:
    """What `spec` chooses from of `pool`.

    Raises DselectError: a score that the whole pool lacks, a budget that cannot be filled, quotas that cannot be met, a
    sample that is not graded yet where the strategy has no use for a bound of its grade.
    """
    strategy = strategies.strategy_with_options(spec.strategy, spec.options)
    bounded, ungraded = _with_bounds(pool, strategy)
    missing_rows = rows_missing_inputs(bounded, strategy, counts_tokens(spec), spec.needs_clusters)
    shortest = spec.min_response_tokens
    samples = pool.scores.select("sample_id", exclusion_reasons(bounded, missing_rows, shortest), *strategy.columns)
    rows = samples["reason"].is_null().arg_true().to_numpy()
    selectable = bounded.take(rows)
    limit = _find_limit(selectable, spec, len(pool), count_missing(bounded, missing_rows, shortest))
    mixture = make_mixture(spec, selectable, spec.budget.rows(len(pool)))
    if mixture is not None:
        if not strategy.by_group:
            raise DselectError(
                f"`{spec.strategy}` cannot keep to `quota` or `balance`: its orders do not look at groups"
            )
        selectable = replace(selectable, groups=mixture.groups)
    return Prepared(strategy, samples, selectable, ungraded[rows], limit, mixture)


def response_token_counts(pool: Pool) -> list[int]:
    """Of each row."""
    return pool.scores["response_tokens"].cast(pl.Int64).to_list()


def _with_bounds(pool: Pool, strategy: Strategy) -> tuple[Pool, np.ndarray]:
    """The pool with the most that a grade can be where nobody graded yet; boolean [n], the rows where that is so."""
    none = np.zeros(len(pool), dtype=bool)
    if pool.ungraded is None or GRADES not in strategy.needs or not pool.ungraded.any():
        return pool, none
    if not strategy.takes_bounds_of(GRADE):
        raise DselectError(
            f"{int(pool.ungraded.sum())} of {len(pool)} samples are not graded, and `{strategy.name}` with these "
            "options has no use for a bound of a grade: have them graded first"
        )
    grades = next(column for column in kind_of(GRADES).columns if column.name == GRADE)
    assert grades.value_range is not None
    bound = pl.when(pl.lit(pl.Series(pool.ungraded))).then(grades.value_range[1]).otherwise(pl.col(GRADE))
    return replace(pool, scores=pool.scores.with_columns(bound.alias(GRADE))), pool.ungraded


def _find_limit(selectable: Pool, spec: CoresetSpec, pool_size: int, missing_counts: str) -> int:
    """The budget in rows or in response tokens. Raises DselectError where the selectable samples cannot fill it."""
    if spec.budget.unit == "tokens":
        limit, token_count = int(spec.budget.value), sum(response_token_counts(selectable))
        if limit > token_count:
            raise DselectError(
                f"budget {spec.budget} is larger than all {token_count} response tokens of the {len(selectable)} "
                f"samples (of {pool_size} in the pool) that `{spec.strategy}` can choose from{missing_counts}: "
                "lower it, or add sources"
            )
        return limit
    rows = spec.budget.rows(pool_size)
    assert rows is not None
    if rows > pool_size:
        raise DselectError(
            f"budget {spec.budget} is larger than the pool of {pool_size} samples: lower it, or add sources"
        )
    if rows > len(selectable):
        share = f" is {rows} rows, which" if spec.budget.unit == "percent" else ""
        raise DselectError(
            f"budget {spec.budget}{share} is larger than the {len(selectable)} of {pool_size} samples that "
            f"`{spec.strategy}` can choose from{missing_counts}: lower the budget, or have the missing scores made"
        )
    return rows
