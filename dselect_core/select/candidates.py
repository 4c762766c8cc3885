"""Grade only what can still win: the rows that need a grade before a recipe's coreset is certain, asked for in rounds.

A grade is at most 1. So a row that nobody graded yet has a bound of its gain, and an order made from grades and bounds
is exact up to its first pick that has a bound: that pick beats all others by a grade it may have, and all others are
known, or have bounds that lose. Where every pick up to the budget is graded, the order is that of all grades, to the
bit, whatever the other rows would have been given: the lazy greedy of Minoux (1978), with a judge in the place of a
costly gain [ours]. It holds for orders that rise with the grade (`Strategy.rises_with`: d3, deita, topk:grade); for
all other recipes that read grades every row is asked for.

A round asks side by side. What comes behind the first bound is a guess, but a good one: grades only lower the gains of
the picks, so a row that is picked by bounds is seldom behind the last one by grades. A round asks for every such row
up to the budget, of all recipes: mostly 7 to 30 rounds (up to 67 where few win), with 3% more calls than one by one at
most. The last rounds are of a few rows. With `batch` a round asks for at least so many, of those behind the budget: 32
took a quarter to a half of the rounds away for 2 to 7% more calls. Each round makes the orders again from their start.

A row that is never asked counts as one that would have got a grade. That decides where an order looks at all rows it
may choose at once (whiten, length_corrected, quota, balance): there a row whose grade would have failed may move it.
And a budget is refused only when too many rows that were asked for failed.

What is saved follows from the grades and the budget. Of 3,000 rows, d3 and deita at 10% asked for a quarter to a third
where 40% of the ratings are a 5, for 35 to 75% where 10% are or no two grades are equal; d3 at 30% for 57 to 98%;
topk:grade for a quarter, or for nearly all (benchmarks/grade_candidates.py).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.judges_spec import GRADE, GRADES
from dselect_core.select.prepare import prepare, response_token_counts
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.strategies import strategy_with_options

Grade = Callable[[pl.Series], pl.DataFrame]
"""Ids to grade, most promising first → sample_id, grade; null where the grade failed. One row for each id."""


@dataclass(frozen=True)
class Round:
    """What a round asked for.

    pool: with the grades that came. asked: rows; certain: first picks of each recipe that stand, before the round.
    """

    pool: Pool = field(repr=False)
    asked: int
    certain: tuple[int, ...]


@dataclass(frozen=True)
class Needed:
    """The rows that a recipe asks for next.

    sample_ids: without a grade, in the order of the picks; empty where the coreset is certain. certain: picks before
    the first of them.
    """

    sample_ids: pl.Series
    certain: int


def bounds_suffice(spec: CoresetSpec) -> bool:
    """Whether a recipe can do without the grades of rows that cannot win. Also where it reads none."""
    strategy = strategy_with_options(spec.strategy, spec.options)
    return GRADES not in strategy.needs or (strategy.takes_bounds_of(GRADE) and not spec.has_rounds)


def unasked(pool: Pool) -> Pool:
    """The pool where every grade that is missing counts as not asked for yet; also where it has no such column."""
    scores = pool.scores
    if GRADE not in scores.columns:
        scores = scores.with_columns(pl.lit(None, pl.Float64).alias(GRADE))
    return replace(pool, scores=scores, ungraded=scores[GRADE].is_null().to_numpy())


def needed_grades(pool: Pool, spec: CoresetSpec, at_least: int = 1) -> Needed:
    """The rows of `pool` (with `Pool.ungraded`) to be graded next for a recipe: those that it takes by their bounds.

    at_least: where some are needed, and fewer, those that come after the budget follow. Raises DselectError as `select`
    does where the recipe asks for what the pool cannot give even at best.
    """
    ungraded = np.zeros(len(pool), dtype=bool) if pool.ungraded is None else pool.ungraded
    if not ungraded.any() or GRADES not in strategy_with_options(spec.strategy, spec.options).needs:
        return Needed(pool.sample_ids.clear(), 0)
    if not bounds_suffice(spec):
        return Needed(pool.sample_ids.filter(pl.Series(ungraded)), 0)
    prepared = prepare(pool, spec)
    chosen_from = prepared.selectable
    lengths = response_token_counts(chosen_from) if spec.budget.unit == "tokens" else None
    order = prepared.strategy.order(chosen_from, spec.seed)
    needed: list[int] = []
    taken = certain = 0
    is_full = False
    for pick in order if prepared.mixture is None else prepared.mixture.picks(order, []):
        taken += 1 if lengths is None else lengths[pick.row]
        if prepared.ungraded[pick.row]:
            needed.append(pick.row)
        certain += not needed
        # The pick that goes beyond a budget in tokens ends the coreset, so it has to be certain too.
        is_full |= taken > prepared.limit or (lengths is None and taken == prepared.limit)
        if is_full and (not needed or len(needed) >= at_least or prepared.mixture is not None):
            break
    return Needed(chosen_from.sample_ids.gather(needed), certain)


def grade_candidates(
    pool: Pool,
    specs: Iterable[CoresetSpec],
    grade: Grade,
    batch: int = 1,
    on_refused: Callable[[CoresetSpec, DselectError], None] | None = None,
) -> Iterator[Round]:
    """Rounds of asking until the coreset of every recipe is certain; the pool of the last round is to be chosen from.

    pool: with `Pool.ungraded`. batch: rows that a round asks for at least, where an order has them. The first round
    yielded has asked for nothing. Raises DselectError as `needed_grades`, also between rounds: a grade that fails
    leaves a row out. on_refused: told of such a recipe instead, and nothing more is asked for it. Raises ValueError
    where `grade` answers for other rows than it was asked for.
    """
    specs = list(specs)
    asked = 0
    while True:
        needed = []
        for spec in list(specs):
            try:
                needed.append(needed_grades(pool, spec))
            except DselectError as error:
                if on_refused is None:
                    raise
                specs.remove(spec)
                on_refused(spec, error)
        yield Round(pool, asked, tuple(each.certain for each in needed))
        ids = in_turns(needed)
        if ids.is_empty():
            return
        if len(ids) < batch:
            ids = in_turns([needed_grades(pool, spec, batch) for spec in specs]).head(batch)
        pool, asked = with_grades(pool, grade(ids), ids), len(ids)


def with_grades(pool: Pool, grades: pl.DataFrame, asked: pl.Series) -> Pool:
    """The pool with new grades (sample_id, grade; null where it failed) of the rows that were asked for."""
    if sorted(grades["sample_id"]) != sorted(asked):
        raise ValueError(f"{len(asked)} rows were to be graded, and {grades.height} others came back")
    new = grades.select("sample_id", pl.col(GRADE).cast(pl.Float64).alias("new"))
    scores = pool.scores.join(new, on="sample_id", how="left", maintain_order="left")
    scores = scores.with_columns(pl.coalesce("new", GRADE).alias(GRADE)).drop("new")
    was_asked = pool.sample_ids.is_in(asked.implode()).to_numpy()
    assert pool.ungraded is not None
    return replace(pool, scores=scores, ungraded=pool.ungraded & ~was_asked)


def in_turns(needed: list[Needed]) -> pl.Series:
    """The ids that recipes need, each once: the first of each recipe, then the second of each."""
    ids = [pl.DataFrame({"sample_id": each.sample_ids}).with_row_index("turn") for each in needed]
    in_turns = pl.concat([pl.DataFrame(schema={"turn": pl.UInt32, "sample_id": pl.String}), *ids])
    return in_turns.sort("turn", maintain_order=True)["sample_id"].unique(maintain_order=True)
