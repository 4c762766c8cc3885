"""How far two lists of grades agree, against scipy and counts by hand; and one grade of several judges'."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

import dselect_core as ds
from dselect_core.graders.agreement import agreement
from dselect_core.select.judges_spec import JudgesSpec
from dselect_core.settings.settings import Settings


def frame(first: list[float | None], second: list[float | None]) -> pl.DataFrame:
    ids = [f"{number:03}" for number in range(len(first))]
    schema = {"sample_id": pl.String, "first": pl.Float64, "second": pl.Float64}
    return pl.DataFrame({"sample_id": ids, "first": first, "second": second}, schema=schema)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_scipy_s_with_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    first = random.integers(0, 5, 60) / 4
    second = np.clip(first + random.integers(-1, 2, 60) / 4, 0, 1) if seed % 2 else random.random(60)
    found = agreement(frame(list(first), list(second)))
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert found.mean_difference == pytest.approx((second - first).mean())


def test_levels_are_ratings_and_what_is_apart_comes_first() -> None:
    # Ratings 1 1 3 5 4 of the first (1 is clipped to 0.05), 2 1 3 1 5 of the second, and a row that one lacks.
    found = agreement(frame([0.05, 0.05, 0.5, 1.0, 0.75, 1.0], [0.25, 0.05, 0.5, 0.05, 1.0, None]), most_apart=2)
    assert (found.rows, found.exact, found.within_one) == (5, 2 / 5, 4 / 5)
    counts = {(row["first"], int(name)): row[name] for row in found.confusion.to_dicts() for name in "12345"}
    assert {key for key, count in counts.items() if count} == {(1, 2), (1, 1), (3, 3), (5, 1), (4, 5)}
    assert sum(counts.values()) == 5
    assert found.apart.rows() == [("003", 1.0, 0.05), ("004", 0.75, 1.0)]


def test_what_cannot_be_known_is_none() -> None:
    assert agreement(frame([0.5] * 4, [0.1, 0.2, 0.3, 0.4])).spearman is None
    nothing = agreement(frame([None], [0.5]))
    assert (nothing.rows, nothing.spearman, nothing.exact, nothing.mean_difference) == (0, None, None, None)
    assert nothing.confusion.height == 5 and nothing.apart.is_empty()


def table(grades: list[float | None]) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ["p", "q", "r"], "grade": grades}, schema_overrides={"grade": pl.Float64})


@pytest.mark.parametrize(
    ("by", "expected"), [("mean", [0.5, 0.5, None]), ("median", [0.4, 0.5, None]), ("min", [0.2, 0.4, None])]
)
def test_one_grade_of_three_judges(by: str, expected: list[float | None]) -> None:
    spec = JudgesSpec.model_validate({"of": ["c", "a", "b"], "by": by})
    tables = [table([0.2, 0.4, 1.0]), table([0.9, 0.6, None]), table([0.4, 0.5, 1.0])]
    assert spec.combined(tables)["grade"].to_list() == pytest.approx(expected)
    shuffled = [tables[0], tables[1].sort("sample_id", descending=True), tables[2].head(2)]
    assert spec.combined(shuffled)["grade"].to_list() == pytest.approx(expected)
    assert spec.of == ("a", "b", "c") and spec.kinds == {"grades@a", "grades@b", "grades@c"}


def test_one_judge_is_taken_as_it_is() -> None:
    spec = JudgesSpec.model_validate({"of": ["a"], "by": "min"})
    assert spec == JudgesSpec(of=("a",))
    raw = table([0.2, None, 1.0]).with_columns(reward=pl.lit(3.0))
    assert spec.combined([raw]).equals(raw)


def test_several_judges_in_a_notebook() -> None:
    turns = [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red"}]
    samples = pl.DataFrame({"sample_id": ["p", "q"], "messages": [turns, turns]})
    settings = Settings.model_validate({"sources": {}, "coresets": {}, "graders": {"x": {}, "y": {}}})
    scores = ds.score(samples, ["grades@x", "grades@y"], settings=settings)
    lower = scores["grades@y"].with_columns(grade=pl.Series([0.1, 0.2]))
    pool = ds.make_pool({**scores, "grades@y": lower}, grade={"of": ["x", "y"], "by": "min"})
    assert pool.scores["grade"].to_list() == [0.1, 0.2]
    assert ds.make_pool({"grades@y": lower}).scores["grade"].to_list() == [0.1, 0.2]
    with pytest.raises(ds.DselectError, match="say whose grades count"):
        ds.make_pool(scores)
    with pytest.raises(ds.DselectError, match="scores have grades@x, grades@y, and not 'grades@z'"):
        ds.make_pool(scores, grade="z")
    with pytest.raises(ds.DselectError, match=r"several graders are named .x, y.: say whose grades"):
        ds.score(samples, ["grades"], settings=settings)
    with pytest.raises(ds.DselectError, match="no grader `z`"):
        ds.score(samples, ["grades@z"], settings=settings)
