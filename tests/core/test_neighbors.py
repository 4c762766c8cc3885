"""Neighbours that are patched are the fresh ones, and a patch looks only where it has to."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core import neighbors
from dselect_core.neighbors import SCHEMA, SIMILARITY_STEP, nearest, update


def names(rows: np.ndarray | list[int] | range) -> pl.Series:
    return pl.Series("sample_id", [f"{row:04}" for row in rows], dtype=pl.String)


def fresh(vectors: np.ndarray, rows: np.ndarray | list[int] | range) -> pl.DataFrame:
    """The neighbours among `rows` of `vectors`, from scratch."""
    return nearest(names(rows), vectors[list(rows)])


def patched(vectors: np.ndarray, rows: np.ndarray | list[int] | range, before: pl.DataFrame | None) -> pl.DataFrame:
    return update(names(rows), vectors[list(rows)], before)


def by_definition(vectors: np.ndarray, rows: np.ndarray | list[int] | range) -> list[tuple[str, str | None, float]]:
    """The neighbours among `rows`, by looking at every pair: the definition, written again."""
    units = {}
    for row in rows:
        vector = vectors[row].astype(np.float64)
        if np.isfinite(vector).all() and vector.any():
            units[row] = vector / np.sqrt((vector * vector).sum())
    table = []
    for row in rows:
        shot, best = None, None
        for other in units if row in units else ():
            likeness = round(float((units[row] * units[other]).sum()) / SIMILARITY_STEP) * SIMILARITY_STEP
            if other != row and (best is None or likeness > best):
                shot, best = f"{other:04}", likeness
        table.append((f"{row:04}", shot, best))
    return table


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.equals(expected) and found.schema == expected.schema == SCHEMA


@st.composite
def pools(draw: st.DrawFn) -> np.ndarray:
    """Vectors of few directions and lengths: many are the same, or the same up to their length, or missing."""
    dimensions = draw(st.integers(1, 4))
    number = st.one_of(st.integers(-1, 1), st.sampled_from([0.1, 1 / 3, -2.5, 1e-3, 7.0]))
    prompts = draw(st.lists(st.lists(number, min_size=dimensions, max_size=dimensions), min_size=1, max_size=8))
    choice = st.tuples(st.integers(0, len(prompts) - 1), st.sampled_from([1.0, 1.0, 2.0, 0.3, 1 + 2**-22]))
    chosen = draw(st.lists(choice, min_size=1, max_size=40))
    vectors = np.array([np.array(prompts[at]) * length for at, length in chosen], dtype=np.float32)
    for row in draw(st.sets(st.integers(0, len(chosen) - 1), max_size=3)):
        vectors[row, draw(st.integers(0, dimensions - 1))] = draw(st.sampled_from([np.nan, np.inf]))
    for row in draw(st.sets(st.integers(0, len(chosen) - 1), max_size=2)):
        vectors[row] = 0
    return vectors


@settings(max_examples=150, deadline=None)
@given(pools(), st.data())
def test_after_any_history_a_patched_table_is_the_fresh_one(vectors: np.ndarray, data: st.DataObject) -> None:
    rows = range(len(vectors))
    before: pl.DataFrame | None = None
    pool: set[int] = set()
    for step in range(data.draw(st.integers(2, 6))):
        # Some come and some go, from a few to all; and a table's rows may come in any order.
        pool = pool ^ data.draw(st.one_of(st.sets(st.sampled_from(rows), max_size=3), st.sets(st.sampled_from(rows))))
        now, ids = vectors[sorted(pool)], names(sorted(pool))
        if step % 2 and before is not None:
            before = before.reverse()
        held = None if before is None else before.clone()
        found = update(ids, now, before)
        assert_same(found, nearest(ids, now))
        assert found.rows() == by_definition(vectors, sorted(pool))
        assert np.array_equal(now, vectors[sorted(pool)], equal_nan=True)  # what was given is left as it was
        assert held is None or held.equals(before)
        before = found


@pytest.mark.parametrize("dimensions", [3, 64])
def test_likenesses_that_float32_cannot_tell_apart(dimensions: int) -> None:
    # Hundreds of prompts within a few steps of each other: the search in float32 gets their order wrong.
    random = np.random.default_rng(dimensions)
    vectors = np.ones((300, dimensions)) + random.normal(0, 1e-3, (300, dimensions))
    vectors[random.integers(0, 300, 60)] = vectors[7]
    vectors = vectors.astype(np.float32)
    before = fresh(vectors, range(0, 300, 2))
    assert before.rows() == by_definition(vectors, range(0, 300, 2))
    for rows in (range(300), range(100, 300), range(0, 300, 3)):
        before = patched(vectors, rows, before)
        assert_same(before, fresh(vectors, rows))
        assert before.rows() == by_definition(vectors, rows)


def test_likenesses_on_both_sides_of_a_step_that_float32_cannot_tell_apart() -> None:
    # One prompt, and sixty others so close to the middle between two steps that float32 rounds either way.
    random = np.random.default_rng(0)
    prompt = random.normal(size=64)
    prompt /= np.linalg.norm(prompt)
    aside = random.normal(size=(60, 64))
    aside -= (aside @ prompt)[:, None] * prompt
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    likeness = (round(0.9 / SIMILARITY_STEP) + 0.5 + random.uniform(-0.02, 0.02, (60, 1))) * SIMILARITY_STEP
    vectors = np.vstack([likeness * prompt + np.sqrt(1 - likeness**2) * aside, prompt]).astype(np.float32)
    assert fresh(vectors, range(61)).rows() == by_definition(vectors, range(61))
    for old in (range(60), range(30, 61), [*range(10), 60]):
        assert_same(patched(vectors, range(61), fresh(vectors, old)), fresh(vectors, range(61)))


@pytest.mark.parametrize("new", [[40], list(range(40, 60)), [0], list(range(20)), [0, 59]])
def test_more_ties_than_are_searched_go_to_the_lowest_id(new: list[int]) -> None:
    vectors = np.tile(np.array([[3, 1, 2], [1, 1, 0]], np.float32), (30, 1))
    assert len(vectors) / 2 > 3 * neighbors._SEARCH
    old = [row for row in range(60) if row not in new]
    found = patched(vectors, range(60), fresh(vectors, old))
    assert_same(found, fresh(vectors, range(60)))
    assert found["shot_id"][:4].to_list() == ["0002", "0003", "0000", "0001"]
    assert found["shot_id"][4:].to_list() == ["0000", "0001"] * 28 and found["similarity"].eq(1).all()
    # Without those it had, everybody follows the next.
    gone = patched(vectors, range(2, 60), found)
    assert_same(gone, fresh(vectors, range(2, 60)))
    assert gone["shot_id"].to_list() == ["0004", "0005"] + ["0002", "0003"] * 28


def test_pools_that_shrink_to_one_and_to_none_and_grow_again() -> None:
    vectors = np.array([[1, 0], [np.nan, 1], [1, 1], [0, 0], [0, 1], [1, 0]], np.float32)
    table = fresh(vectors, range(6))
    assert table["shot_id"].to_list() == ["0005", None, "0000", None, "0002", "0000"]
    histories = (
        ([0, 2, 5], ["0005", "0000", "0000"]),
        ([0, 1, 3], [None, None, None]),  # one that is usable
        ([1, 3], [None, None]),  # none
        ([], []),
        ([1, 3], [None, None]),
        ([1, 2], [None, None]),
        ([1, 2, 4], [None, "0004", "0002"]),
        ([4], [None]),
        ([0, 2, 4], ["0002", "0000", "0002"]),
    )
    for rows, shots in histories:
        table = patched(vectors, rows, table)
        assert_same(table, fresh(vectors, rows))
        assert table["shot_id"].to_list() == shots
        assert table["similarity"].is_null().to_list() == [shot is None for shot in shots]


def test_a_new_row_takes_over_where_it_is_nearer_or_as_near_and_lower() -> None:
    vectors = np.array([[1, 0.1], [1, 0], [1, 0.3], [0, 1], [1, 0], [0.1, 1]], np.float32)
    before = fresh(vectors, [1, 2, 3])
    assert before["shot_id"].to_list() == ["0002", "0001", "0002"]
    assert patched(vectors, [1, 2, 3, 4], before)["shot_id"].to_list() == ["0004", "0001", "0002", "0001"]
    assert patched(vectors, [1, 2, 3, 5], before)["shot_id"].to_list() == ["0002", "0001", "0005", "0003"]
    # 0 and 1 are as near to 4 as they are: the lower stays.
    ties = np.array([[1, 1], [1, -1], [1, 0], [5, 0]], np.float32)
    assert patched(ties, [0, 1, 3], fresh(ties, [1, 3]))["shot_id"].to_list() == ["0003", "0003", "0000"]
    assert patched(ties, [0, 1, 3], fresh(ties, [0, 3]))["shot_id"].to_list() == ["0003", "0003", "0000"]


def searches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """What is compared from here on: (the rows searched in, the rows that search) of each search."""
    seen: list[tuple[list[int], list[int]]] = []
    search = neighbors._best_among

    def listen(base: np.ndarray, queries: np.ndarray, *rest: object) -> tuple[np.ndarray, np.ndarray]:
        seen.append((base.tolist(), queries.tolist()))
        return search(base, queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(neighbors, "_best_among", listen)
    return seen


def test_only_new_rows_and_orphaned_followers_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 5)).astype(np.float32)
    vectors[50] = np.nan
    rows = list(range(160))
    before = fresh(vectors, rows)
    gone, new = [3, 4, 50, 90, 120], [170, 180, 181]
    now = [row for row in rows if row not in gone] + new
    left = before.filter(~pl.col("sample_id").is_in(names(gone).implode()))
    followers = left.filter(pl.col("shot_id").is_in(names(gone).implode()))["sample_id"].cast(pl.Int64).to_list()
    assert 3 <= len(followers) < 20

    seen = searches(monkeypatch)
    told: list[tuple[int, int]] = []
    found = update(names(now), vectors[now], before, lambda done, total, reused=0: told.append((done, total)))
    at = {row: position for position, row in enumerate(now)}
    stay = [row for row in now if row not in new and row not in followers]
    assert seen == [
        ([at[row] for row in new], [at[row] for row in stay]),
        (list(range(len(now))), sorted(at[row] for row in new + followers)),
    ]
    assert told == [(len(new + followers), len(new + followers))]
    assert_same(found, fresh(vectors, now))


def test_a_table_that_nothing_touched_is_searched_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    vectors[7], vectors[8] = 0, np.nan
    before = fresh(vectors, range(40))
    followed = set(before["shot_id"].cast(pl.Int64))
    seen = searches(monkeypatch)
    assert_same(patched(vectors, range(40), before), before)
    # Nor where only rows without a vector came and went, or one that nobody follows went.
    without = [row for row in range(40) if row not in (7, 8)]
    left = patched(vectors, without, before)
    assert_same(patched(vectors, range(40), left), before)
    lonely = next(row for row in without if row not in followed)
    found = patched(vectors, [row for row in range(40) if row != lonely], before)
    assert seen == []
    assert_same(found, fresh(vectors, [row for row in range(40) if row != lonely]))


def test_from_nothing_every_row_looks_at_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)
    vectors[11] = 0
    usable = [row for row in range(30) if row != 11]
    seen = searches(monkeypatch)
    fresh(vectors, range(30))
    patched(vectors, range(30), pl.DataFrame(schema=SCHEMA))
    patched(vectors, range(30), fresh(vectors, [11]))
    assert seen == [(usable, usable)] * 3


def test_many_blocks_are_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    vectors = random.integers(-2, 3, (150, 4)).astype(np.float32)
    whole = fresh(vectors, range(150))
    monkeypatch.setattr(neighbors, "_BLOCK", 16)
    told: list[tuple[int, int]] = []
    found = nearest(names(range(150)), vectors, lambda done, total, reused=0: told.append((done, total)))
    assert_same(found, whole)
    usable = whole["shot_id"].count()
    assert told == [(min(start + 16, usable), usable) for start in range(0, usable, 16)]
    assert_same(patched(vectors, range(20, 150), fresh(vectors, range(100))), fresh(vectors, range(20, 150)))
