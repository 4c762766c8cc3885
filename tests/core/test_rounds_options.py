"""d3's options in its rounds, on random small pools: each round chooses what a loop over everything does.

Each round sees scores and vectors of its own. The loop knows the definitions alone: gains by every distance, quotas by
trying every continuation, turns by Sainte-Laguë. What an option makes of a pool is tested where the option is.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.rounds.choose_round import Selectable, choose, cumulative_shares, rows_of, warm_up_rows
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.length_correction import without_length
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.select import required_kinds
from dselect_core.select.whitening import whitened
from tests.cases import CASES
from tests.core.test_select_mixtures import SOURCES, Counts, draw_quota, make_pool, sources_of

ROUNDS = 3


def as_seen(random: np.random.Generator, pool: Pool, missing: bool) -> Pool:
    """The pool by another model's scores; missing: some rows have none of it."""
    upd = random.choice([0.25, 0.5, 0.75], len(pool))
    if missing:
        upd[random.random(len(pool)) < 0.2] = np.nan
    vectors = random.integers(-1, 3, size=(len(pool), 3)).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    return Pool.of(pool.scores.with_columns(upd=pl.Series(upd)), vectors)


def usable(pool: Pool) -> list[int]:
    return np.flatnonzero(np.isfinite(pool.scores["upd"].to_numpy())).tolist()


class Loop:
    """The greedy over all rounds by its words. sizes: rows of each source that can be chosen at all."""

    def __init__(self, spec: CoresetSpec, pool: Pool, rows: list[int], budget: int) -> None:
        self.spec, self.of_row = spec, sources_of(pool)
        self.size = {source: [self.of_row[row] for row in rows].count(source) for source in SOURCES}
        quota = spec.model_dump(mode="json", exclude_none=True)["quota"]
        self.counts = Counts(quota, self.size, budget) if quota else None
        self.chosen: list[int] = []

    def is_open(self, row: int, ended: set[str]) -> bool:
        taken = {source: [self.of_row[each] for each in self.chosen].count(source) for source in SOURCES}
        if self.counts is not None:
            return self.of_row[row] in self.counts.open(tuple(taken.values()))
        if self.spec.balance is None:
            return True
        weight = {s: Fraction(self.size[s] if self.spec.balance.how == "sqrt" else 1) for s in SOURCES}
        left = [s for s in SOURCES if taken[s] < self.size[s] and s not in ended]
        turn = max(left, key=lambda s: (weight[s] / (2 * taken[s] + 1) ** 2, -SOURCES.index(s)), default=None)
        return self.of_row[row] == turn

    def first(self, rows: list[int], values: Any) -> int | None:
        """The open row of highest value among those that are left; a source without any is passed over."""
        ended: set[str] = set()
        while True:
            left = [row for row in rows if row not in self.chosen]
            found = [row for row in left if self.is_open(row, ended)]
            if found:
                return max(found, key=lambda row: (values(row), -row))
            more = {self.of_row[row] for row in left} - ended
            if self.spec.balance is None or not more:
                return None
            ended |= {source for source in SOURCES if source not in {self.of_row[row] for row in left}}

    def choose(self, pool: Pool, rows: list[int], until: int, lengths: list[int]) -> None:
        """One round. rows: that can be chosen in it."""
        assert pool.embeddings is not None
        scores, vectors = pool.scores[rows], pool.embeddings[rows]
        tokens = scores["response_tokens"].to_list()
        upd = scores["upd"].to_numpy()
        if self.spec.options.get("length_corrected"):
            upd = np.clip(without_length(upd, np.array(tokens), [self.of_row[row] for row in rows]), 0, 1)
        if self.spec.options.get("whiten"):
            vectors = whitened(vectors)
        grid = round_unit_vectors(vectors)[0].astype(np.int64)
        steps = [round(value) for value in (upd * scores["grade"].to_numpy() / SCORE_STEP).tolist()]
        at = {row: number for number, row in enumerate(rows)}
        distances = ((grid[:, None] - grid) ** 2).sum(axis=2).tolist()

        def gain(row: int) -> float:
            nearest = min([distances[at[row]][at[each]] for each in self.chosen if each in at], default=None)
            weight = steps[at[row]] / tokens[at[row]] if self.spec.options.get("per") else steps[at[row]]
            return float(weight) if nearest is None else weight * weight * nearest

        spent = sum(lengths[row] for row in self.chosen)
        while spent < until and (row := self.first(rows, gain)) is not None:
            spent += lengths[row]
            if spent > until:
                break
            self.chosen.append(row)


def recipe(random: np.random.Generator, options: dict[str, Any], n: int, kind: str) -> CoresetSpec:
    mixture: dict[str, Any] = {}
    if kind == "quota":
        mixture = {"quota": draw_quota(random, n)}
    elif kind == "balance":
        mixture = {"balance": {"by": "source", "how": str(random.choice(["equal", "sqrt"]))}}
    budget: int | str = int(random.integers(ROUNDS, n + 1))
    if kind == "tokens":
        budget = f"{random.integers(12, 4 * n)} tokens"
    warmup = None
    if random.random() < 0.7:
        by, in_budget = str(random.choice(["random", "kcenter"])), bool(random.random() < 0.7)
        warmup = {"samples": 1, "by": by, "in_budget": in_budget}
    return CoresetSpec.model_validate(
        {"strategy": "d3", "budget": budget, "rounds": ROUNDS, "warmup": warmup, **options, **mixture}
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "per token": {"per": "token"},
    "corrected": {"length_corrected": True},
    "whitened": {"whiten": True},
    "all": {"per": "token", "length_corrected": True, "whiten": True},
}


@pytest.mark.parametrize("kind", ["rows", "tokens", "quota", "balance"])
@pytest.mark.parametrize("options", OPTIONS)
def test_each_round_chooses_what_a_loop_does_with_the_option_in_force(options: str, kind: str) -> None:
    met = refused = 0
    for seed in range(CASES // 10):
        random = np.random.default_rng(seed)
        n = int(random.integers(8, 15))
        target = make_pool(random, n)
        try:
            spec = recipe(random, OPTIONS[options], n, kind)
        except ValueError as error:
            assert "is above max" in str(error) or "over 100%" in str(error)
            continue
        target = Pool.of(target.scores.with_columns(grade=pl.Series(random.choice([0.5, 1.0], n))), target.embeddings)
        pools = [as_seen(random, target, missing=kind != "quota") for _ in range(ROUNDS)]
        by_tokens = kind == "tokens"
        lengths = target.scores["response_tokens"].to_list() if by_tokens else [1] * n
        shares = cumulative_shares(int(spec.budget.value), ROUNDS)
        loop, ids = Loop(spec, target, usable(target), shares[-1]), target.sample_ids.to_list()
        try:
            base = Selectable.of(target, spec)
            in_budget = spec.warmup is not None and spec.warmup.in_budget
            warm_up = [] if spec.warmup is None else warm_up_rows(
                base, spec, base.mixture(spec, shares[-1]) if in_budget else None
            )  # fmt: skip
            chosen = warm_up if in_budget else []
            if in_budget:
                loop.chosen = [expected_warm_up(loop, target, spec)]
                assert chosen == [ids[row] for row in loop.chosen]
            for number, pool in enumerate(pools):
                spent = sum(lengths[ids.index(each)] for each in chosen)
                selectable = Selectable.of(pool, spec, base if spec.has_mixture else None)
                given = rows_of(selectable.pool, chosen)
                choice = choose(
                    selectable, spec, given, spent, max(spent, shares[number]), base.mixture(spec, shares[-1], chosen)
                )
                chosen = [*chosen, *(selectable.pool.sample_ids[pick.row] for pick in choice.picks)]
                loop.choose(pool, usable(pool), shares[number], lengths)
                assert chosen == [ids[row] for row in loop.chosen], (seed, number, spec)
        except DselectError as error:
            refused += 1
            quota_is_met = loop.counts is not None and loop.counts.horizon >= shares[-1]
            assert "are left to choose" in str(error) or "whiten" in str(error) or not quota_is_met, (seed, error)
            continue
        met += 1
        if kind == "quota":
            assert loop.counts is not None and loop.counts.horizon >= shares[-1]
            for rank in range(1, len(chosen) + 1):
                of_rank = [sources_of(target)[row] for row in loop.chosen[:rank]]
                assert loop.counts.holds(tuple(of_rank.count(source) for source in SOURCES))
    assert met >= CASES / 50, (met, refused)


def expected_warm_up(loop: Loop, target: Pool, spec: CoresetSpec) -> int:
    assert spec.warmup is not None
    ids = target.sample_ids
    if spec.warmup.by == "kcenter":
        found = loop.first(usable(target), lambda row: 0)
    else:
        found = loop.first(usable(target), lambda row: -int(digest(["warm-up", "0", ids[row]]), 16))
    assert found is not None
    return found


def test_a_warm_up_in_the_budget_keeps_to_the_quota_and_one_beside_it_does_not() -> None:
    target = make_pool(np.random.default_rng(4), 40)
    spec = CoresetSpec.model_validate(
        {"strategy": "d3", "budget": 30, "rounds": 2, "quota": {"x": {"max": 1}}, "warmup": {"samples": 12}}
    )
    base = Selectable.of(target, spec)
    of = dict(zip(target.sample_ids, sources_of(target), strict=True))
    inside = [of[each] for each in warm_up_rows(base, spec, base.mixture(spec, 30))]
    beside = [of[each] for each in warm_up_rows(base, spec)]
    assert len(inside) == len(beside) == 12
    assert inside.count("x") <= 1 < beside.count("x")


def test_clusters_are_those_of_the_target_model_in_every_round() -> None:
    random = np.random.default_rng(2)
    target = make_pool(random, 40)
    spec = CoresetSpec.model_validate(
        {"strategy": "d3", "budget": 12, "rounds": 2, "balance": {"by": "cluster", "clusters": 3}}
    )
    assert "embeddings" in required_kinds(spec)
    base = Selectable.of(target, spec)
    seen = as_seen(random, target, missing=True)
    selectable = Selectable.of(seen, spec, base)
    assert 0 < len(selectable.pool) < 40 and selectable.grouped is not None and base.grouped is not None
    rows = rows_of(base.pool, selectable.pool.sample_ids.to_list())
    assert selectable.grouped.groups.tolist() == base.grouped.groups[rows].tolist()
    mixture = base.mixture(spec, 12)
    picks = choose(selectable, spec, [], 0, 12, mixture).picks
    sizes = np.bincount(selectable.grouped.groups[[pick.row for pick in picks]], minlength=3)
    assert sizes.sum() == 12 and sizes.max() - sizes.min() <= 1


def test_what_a_round_cannot_do_is_refused_with_the_remedy() -> None:
    target = make_pool(np.random.default_rng(1), 12)
    whitened_spec = CoresetSpec.model_validate({"strategy": "d3", "budget": 4, "rounds": 2, "whiten": True})
    few = Selectable.of(target.take(np.arange(5)), whitened_spec)
    with pytest.raises(DselectError, match=r"`whiten` needs 6 rows .* leave it out, or add sources"):
        choose(few, whitened_spec, [], 0, 2)
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": 6, "rounds": 2, "quota": {"x": {"min": 9}}})
    with pytest.raises(DselectError, match="quota: "):
        Selectable.of(target, spec).mixture(spec, 6)
