"""Grading only what can still win: the coreset of all grades, whatever the rows that were not asked for would have got.

Held against `select` over the pool where every row is graded, and against a greedy by brute force.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.errors import DselectError
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.candidates import Round, bounds_suffice, grade_candidates, needed_grades
from dselect_core.select.d3 import D3
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.rounding import SCORE_STEP
from dselect_core.select.select import select
from tests.cases import CASES
from tests.core.test_select_d3 import reference

GRADES = [0.05, 0.25, 0.5, 0.75, 1.0]
SOURCES = ["x", "y", "z"]


def graded_pool(random: np.random.Generator, n: int, failing: float) -> Pool:
    """Few distinct values, so many ties and equal vectors; some rows are held out, lack upd, or fail their grade."""
    grades: list[float | None] = [None if random.random() < failing else float(random.choice(GRADES)) for _ in range(n)]
    rows = pl.DataFrame(
        {
            "sample_id": [f"{i:03d}" for i in range(n)],
            "sources": [[str(random.choice(SOURCES))] for _ in range(n)],
            "upd": [None if random.random() < 0.1 else float(random.choice([0.0, 0.25, 0.5, 0.8])) for _ in range(n)],
            "grade": pl.Series(grades, dtype=pl.Float64),
            "response_tokens": random.integers(1, 9, n),
        }
    )
    vectors = random.integers(-1, 3, size=(n, 2)).astype(np.float32)
    vectors[~vectors.any(axis=1)] = 1
    held_out = pl.Series([None if random.random() < 0.9 else "held out" for _ in range(n)], dtype=pl.String)
    return Pool.of(rows, vectors, held_out=held_out)


def forget(pool: Pool, ungraded: np.ndarray) -> Pool:
    """The pool where nobody asked yet for the grades of some rows."""
    known = pl.when(pl.lit(pl.Series(~ungraded))).then(pl.col("grade"))
    return replace(pool, scores=pool.scores.with_columns(known.alias("grade")), ungraded=ungraded)


class Judge:
    """Answers from a pool that is graded, and keeps what it was asked."""

    def __init__(self, pool: Pool) -> None:
        self._grades = pool.scores.select("sample_id", "grade")
        self.asked: list[str] = []

    def __call__(self, ids: pl.Series) -> pl.DataFrame:
        self.asked += ids.to_list()
        return self._grades.join(pl.DataFrame({"sample_id": ids}), on="sample_id", how="semi").reverse()


def graded_rounds(pool: Pool, specs: list[CoresetSpec], batch: int = 1) -> tuple[list[Round], Judge]:
    """All that are asked for where nothing is graded yet, of a pool that has the answers."""
    judge = Judge(pool)
    return list(grade_candidates(forget(pool, np.ones(len(pool), bool)), specs, judge, batch)), judge


@st.composite
def recipes(draw: st.DrawFn, n: int, *, over_all: bool) -> CoresetSpec:
    """over_all: also with what looks at all rows at once."""
    strategy = draw(st.sampled_from(["d3", "deita", "topk:grade"]))
    more: dict[str, Any] = {}
    budget = draw(st.sampled_from([1, 2, n // 3, n // 2, "10%", "40%", "5 tokens", "20 tokens"]))
    if strategy == "d3":
        more["per"] = draw(st.sampled_from([None, "token"]))
    if strategy == "deita":
        more["threshold"] = draw(st.sampled_from([0.5, 0.9, 1.0]))
    if draw(st.booleans()):
        more["min_response_tokens"] = 3
    if over_all:
        if strategy != "topk:grade":
            more["length_corrected"] = draw(st.booleans())
        if strategy == "d3":
            more["whiten"] = draw(st.booleans())
        mixtures = [{}, {"quota": {"x": {"max": "40%"}, "y": {"min": 1}}}, {"balance": "source"}]
        more |= {} if "tokens" in str(budget) else draw(st.sampled_from(mixtures))
    return CoresetSpec.model_validate({"strategy": strategy, "budget": budget or 1, **more})


def chosen(pool: Pool, spec: CoresetSpec) -> pl.DataFrame | None:
    """None where the recipe is refused."""
    try:
        return select(pool, spec).order
    except DselectError:
        return None


@given(st.data(), st.integers(0, 2**32), st.integers(4, 40), st.booleans())
@settings(max_examples=CASES // 2, deadline=None)  # each is up to three recipes, ordered once a round
def test_the_coreset_is_that_of_all_grades(data: st.DataObject, seed: int, n: int, over_all: bool) -> None:
    random = np.random.default_rng(seed)
    pool = graded_pool(random, n, failing=0.0 if over_all else 0.15)
    specs = [data.draw(recipes(n, over_all=over_all)) for _ in range(data.draw(st.integers(1, 3)))]
    specs = [spec for spec in specs if chosen(pool, spec) is not None]
    judge, known = Judge(pool), random.random(n) < random.choice([0.0, 0.3])
    rounds = list(grade_candidates(forget(pool, ~known), specs, judge, data.draw(st.sampled_from([1, 5]))))
    for spec in specs:
        found, expected = select(rounds[-1].pool, spec), select(pool, spec)
        assert found.order.equals(expected.order)
        assert found.tokens == expected.tokens
        # A row that was never asked for counts as graded, so it may count as passed over where its grade would fail.
        assert found.too_alike == expected.too_alike or (
            not over_all and (found.too_alike or 0) >= (expected.too_alike or 0)
        )
    assert len(set(judge.asked)) == len(judge.asked) == sum(each.asked for each in rounds)
    could = pool.scores.filter(
        pl.lit(pl.Series(~known)) & pl.col("upd").is_not_null() & pl.lit(pool.held_out).is_null()
        if all(spec.strategy != "topk:grade" for spec in specs)
        else pl.lit(pl.Series(~known)) & pl.lit(pool.held_out).is_null()
    )
    assert set(judge.asked) <= set(could["sample_id"])


@given(st.data(), st.integers(0, 2**32), st.integers(1, 20))
@settings(max_examples=CASES, deadline=None)
def test_what_cannot_be_chosen_by_all_grades_is_refused(data: st.DataObject, seed: int, n: int) -> None:
    """And what is refused at best, with bounds, is refused by all grades.

    But deita may end early without having asked for the rows whose grades would fail, so that there are enough.
    """
    pool = graded_pool(np.random.default_rng(seed), n, failing=0.5)
    spec = data.draw(recipes(n, over_all=False))
    try:
        rounds, _ = graded_rounds(pool, [spec])
    except DselectError:
        assert chosen(pool, spec) is None
    else:
        expected, found = chosen(pool, spec), chosen(rounds[-1].pool, spec)
        assert expected is not None or found is None or spec.strategy == "deita"
        assert expected is None or expected.equals(found)


@given(st.integers(0, 2**32), st.integers(2, 12))
@settings(max_examples=CASES, deadline=None)
def test_equals_brute_force(seed: int, n: int) -> None:
    """The greedy as written, in whole numbers, of the rows that have all."""
    random = np.random.default_rng(seed)
    pool = graded_pool(random, n, failing=0.1)
    reads = pool.scores.with_columns(vector=pl.Series(pool.embeddings.tolist()))  # type: ignore[union-attr]
    usable = reads.filter(pl.lit(pool.held_out).is_null()).drop_nulls(["upd", "grade"])
    if usable.is_empty():
        return
    steps = [round(upd * grade / SCORE_STEP) for upd, grade in usable.select("upd", "grade").iter_rows()]
    budget = int(random.integers(1, usable.height + 1))
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": budget})
    rounds, _ = graded_rounds(pool, [spec])
    expected = [usable["sample_id"][row] for row, _ in reference(usable["vector"].to_list(), steps)[:budget]]
    assert select(rounds[-1].pool, spec).order["sample_id"].to_list() == expected


@pytest.mark.parametrize("strategy", ["d3", "deita"])
def test_most_rows_of_a_large_pool_are_never_asked_for(strategy: str) -> None:
    random = np.random.default_rng(1)
    n = 2000
    scores = pl.DataFrame(
        {"sample_id": [f"{i:04d}" for i in range(n)], "upd": random.random(n), "grade": random.choice(GRADES[2:], n)}
    )
    pool = Pool.of(scores, random.normal(size=(n, 8)).astype(np.float32))
    spec = CoresetSpec.model_validate({"strategy": strategy, "budget": "5%"})
    rounds, judge = graded_rounds(pool, [spec])
    assert select(rounds[-1].pool, spec).order.equals(select(pool, spec).order)
    assert len(judge.asked) < n / 5
    assert [each.certain for each in rounds][-1] == (100,)
    # Several recipes share what was asked: a smaller budget asks for nothing more.
    smaller = CoresetSpec.model_validate({"strategy": strategy, "budget": "2%"})
    assert needed_grades(rounds[-1].pool, smaller).sample_ids.is_empty()
    # Asking for more at once takes fewer rounds, and what it asks for beyond is little.
    at_once, more = graded_rounds(pool, [spec], batch=32)
    assert len(at_once) < len(rounds) and len(judge.asked) < len(more.asked) < len(judge.asked) + 32 * len(at_once)


def small_pool(upd: list[float], grade: list[float | None], tokens: list[int]) -> Pool:
    scores = {"sample_id": list("abcdef")[: len(upd)], "upd": upd, "grade": grade, "response_tokens": tokens}
    return Pool.of(pl.DataFrame(scores, schema_overrides={"grade": pl.Float64}), np.eye(len(upd), dtype=np.float32))


def test_a_row_that_a_known_one_beats_by_its_bound_is_not_asked_for() -> None:
    pool = replace(small_pool([0.8, 0.3, 0.5], [0.5, None, None], [1, 1, 1]), ungraded=np.array([False, True, True]))
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": 1})
    assert needed_grades(pool, spec).sample_ids.to_list() == ["c"]
    asked: list[str] = []

    def answer(ids: pl.Series) -> pl.DataFrame:
        asked.extend(ids)
        return pl.DataFrame({"sample_id": ids, "grade": [0.75]})

    *_, last = grade_candidates(pool, [spec], answer)
    assert asked == ["c"] and select(last.pool, spec).order["sample_id"].to_list() == ["a"]
    with pytest.raises(DselectError, match="sample c would be chosen by the bound of its grade"):
        select(pool, spec)


def test_the_pick_that_ends_a_budget_in_tokens_has_to_be_certain() -> None:
    """By its bound a long row ends the budget; its grade is bad, and a short one comes in its place."""
    pool = small_pool([0.9, 0.8, 0.7], [1.0, 0.05, 1.0], [2, 9, 2])
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": "5 tokens"})
    unknown = forget(pool, np.array([False, True, False]))
    with pytest.raises(DselectError, match="sample b would be chosen"):
        select(unknown, spec)
    *_, last = grade_candidates(unknown, [spec], Judge(pool))
    assert select(last.pool, spec).order["sample_id"].to_list() == ["a", "c"]


def test_a_failed_grade_leaves_the_row_out_and_another_is_asked_for() -> None:
    pool = small_pool([0.9, 0.8, 0.7, 0.1], [None, 1.0, 1.0, 1.0], [1, 1, 1, 1])
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": 2})
    rounds, judge = graded_rounds(pool, [spec])
    assert judge.asked == ["a", "b", "c"] and [each.asked for each in rounds] == [0, 2, 1]
    excluded = select(rounds[-1].pool, spec).excluded
    assert excluded.rows() == [("a", "no grade")]


@pytest.mark.parametrize(
    "recipe",
    [
        {"strategy": "topk:reward", "budget": 1},
        {"strategy": "topk:grade", "budget": 1, "length_corrected": True},
        {"strategy": "d3", "budget": 2, "rounds": 2},
        {"strategy": "undeclared", "budget": 1},
    ],
    ids=lambda recipe: f"{recipe['strategy']}-{len(recipe)}",
)
def test_where_a_bound_is_of_no_use_every_row_is_asked_for(recipe: dict[str, Any]) -> None:
    strategies.register(replace(D3, name="undeclared", rises_with=frozenset()))
    try:
        pool = small_pool([0.9, 0.8, 0.7, 0.1], [1.0, 1.0, 1.0, None], [1, 1, 1, 1])
        unknown = forget(pool, np.array([False, True, True, True]))
        spec = CoresetSpec.model_validate(recipe)
        assert not bounds_suffice(spec)
        assert needed_grades(unknown, spec).sample_ids.to_list() == ["b", "c", "d"]
        if not spec.has_rounds:
            with pytest.raises(DselectError, match="3 of 4 samples are not graded"):
                select(unknown, spec)
    finally:
        strategies.unregister("undeclared")


def test_recipes_that_read_no_grade_ask_for_none() -> None:
    pool = forget(small_pool([0.9, 0.8], [1.0, 1.0], [1, 1]), np.array([True, True]))
    spec = CoresetSpec.model_validate({"strategy": "kcenter", "budget": 1})
    assert bounds_suffice(spec) and needed_grades(pool, spec).sample_ids.is_empty()
    assert select(pool, spec).rows == 1


def test_answers_for_other_rows_are_refused() -> None:
    pool = forget(small_pool([0.9, 0.8], [1.0, 1.0], [1, 1]), np.array([True, True]))
    spec = CoresetSpec.model_validate({"strategy": "d3", "budget": 1})
    with pytest.raises(ValueError, match="1 rows were to be graded"):
        list(grade_candidates(pool, [spec], lambda ids: pl.DataFrame({"sample_id": ["zz"], "grade": [1.0]})))
