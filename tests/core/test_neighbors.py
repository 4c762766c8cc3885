"""Neighbours are the nearest by definition, patched ones are the fresh ones, and a patch looks only where it has to."""

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.neighbors import exact_search
from dselect_core.neighbors.exact_search import NearestRows
from dselect_core.neighbors.nearest import (
    SCHEMA,
    nearest,
    patchable_fingerprints,
    provenance,
    recall,
    update_nearest,
)
from dselect_core.select import inverted_lists
from dselect_core.select.rounding import round_unit_vectors
from dselect_core.settings.neighbors_spec import NeighborSpec


def names(rows: np.ndarray | list[int] | range) -> pl.Series:
    return pl.Series("sample_id", [f"{row:04}" for row in rows], dtype=pl.String)


def fresh(vectors: np.ndarray, rows: np.ndarray | list[int] | range) -> pl.DataFrame:
    """The neighbours among `rows` of `vectors`, from scratch."""
    return nearest(names(rows), vectors[list(rows)])


def patched(vectors: np.ndarray, rows: np.ndarray | list[int] | range, previous: pl.DataFrame | None) -> pl.DataFrame:
    return update_nearest(names(rows), vectors[list(rows)], previous)


def renumbered(table: pl.DataFrame, rows: list[int]) -> pl.DataFrame:
    """The table with positions in `rows` for ids."""
    at = {f"{row:04}": f"{position:04}" for position, row in enumerate(rows)}
    return table.with_columns(pl.col("sample_id", "shot_id").replace_strict(at))


def by_definition(
    vectors: np.ndarray, rows: np.ndarray | list[int] | range
) -> list[tuple[str, str | None, float | None]]:
    """The neighbours among `rows`, by looking at every pair in float64: the definition, written again."""
    scale = np.floor(4096 - np.sqrt(vectors.shape[1]) / 2)
    whole = vectors[list(rows)].astype(np.float64)
    has = np.isfinite(whole).all(axis=1) & whole.any(axis=1)
    length = np.sqrt(sum(column * column for column in whole[has].T))
    # Divided by the length last, as the grid does: where a component is half a step, the order decides.
    units = np.rint(whole[has] * scale / length[:, None])
    table: list[tuple[str, str | None, float | None]] = [(f"{row:04}", None, None) for row in rows]
    usable = np.flatnonzero(has)
    for at, unit in enumerate(units):
        dot = units @ unit
        dot[at] = -np.inf
        other = int(dot.argmax())
        if other != at:
            similarity = np.float32(dot[other] / np.sqrt((unit @ unit) * (units[other] @ units[other])))
            table[usable[at]] = (table[usable[at]][0], table[usable[other]][0], float(similarity))
    return table


def assert_same(table: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert table.equals(expected) and table.schema == expected.schema == SCHEMA


def clustered(n: int, dimensions: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = 1 / np.arange(1, n // 30 + 1)
    centers = random.normal(size=(len(size), dimensions))
    of = random.choice(len(size), n, p=size / size.sum())
    return (centers[of] + 0.5 * random.normal(size=(n, dimensions))).astype(np.float32)


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


@settings(max_examples=1000, deadline=None)
@given(pools(), st.sampled_from([1, 2, 3, 8, 1024]))
def test_every_row_has_the_nearest_other_by_definition(vectors: np.ndarray, tile: int) -> None:
    rows = range(len(vectors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "_TILE", tile)
        table = fresh(vectors, rows)
    assert table.schema == SCHEMA and table.rows() == by_definition(vectors, rows)


@settings(max_examples=150, deadline=None)
@given(pools(), st.data())
def test_after_any_history_a_patched_table_is_the_fresh_one(vectors: np.ndarray, data: st.DataObject) -> None:
    rows = range(len(vectors))
    previous: pl.DataFrame | None = None
    pool: set[int] = set()
    for step in range(data.draw(st.integers(2, 6))):
        # Some come and some go, from a few to all; and a table's rows may come in any order.
        pool = pool ^ data.draw(st.one_of(st.sets(st.sampled_from(rows), max_size=3), st.sets(st.sampled_from(rows))))
        now, ids = vectors[sorted(pool)], names(sorted(pool))
        if step % 2 and previous is not None:
            previous = previous.reverse()
        copy = None if previous is None else previous.clone()
        table = update_nearest(ids, now, previous)
        assert_same(table, nearest(ids, now))
        assert table.rows() == by_definition(vectors, sorted(pool))
        assert np.array_equal(now, vectors[sorted(pool)], equal_nan=True)  # what was given is left as it was
        assert copy is None or copy.equals(previous)
        previous = table


@pytest.mark.parametrize("dimensions", [3, 64])
def test_likenesses_within_a_few_steps_of_each_other(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    vectors = np.ones((300, dimensions)) + random.normal(0, 1e-3, (300, dimensions))
    vectors[random.integers(0, 300, 60)] = vectors[7]
    vectors = vectors.astype(np.float32)
    previous = fresh(vectors, range(0, 300, 2))
    assert previous.rows() == by_definition(vectors, range(0, 300, 2))
    for rows in (range(300), range(100, 300), range(0, 300, 3)):
        previous = patched(vectors, rows, previous)
        assert_same(previous, fresh(vectors, rows))
        assert previous.rows() == by_definition(vectors, rows)


def test_the_grid_costs_little_likeness() -> None:
    vectors = clustered(400, 64)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    table = fresh(vectors, range(400))
    shots = table["shot_id"].cast(pl.Int64).to_numpy()
    assert np.abs(table["similarity"].to_numpy() - cosine[range(400), shots]).max() < 5e-4
    assert (cosine.max(1) - cosine[range(400), shots]).max() < 1e-3


@pytest.mark.parametrize("new", [[40], list(range(40, 60)), [0], list(range(20)), [0, 59]])
def test_ties_go_to_the_lowest_id(new: list[int]) -> None:
    vectors = np.tile(np.array([[3, 1, 2], [1, 1, 0]], np.float32), (30, 1))
    old = [row for row in range(60) if row not in new]
    table = patched(vectors, range(60), fresh(vectors, old))
    assert_same(table, fresh(vectors, range(60)))
    assert table["shot_id"][:4].to_list() == ["0002", "0003", "0000", "0001"]
    assert table["shot_id"][4:].to_list() == ["0000", "0001"] * 28 and table["similarity"].eq(1).all()
    # Without those it had, everybody follows the next.
    gone = patched(vectors, range(2, 60), table)
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
    previous = fresh(vectors, [1, 2, 3])
    assert previous["shot_id"].to_list() == ["0002", "0001", "0002"]
    assert patched(vectors, [1, 2, 3, 4], previous)["shot_id"].to_list() == ["0004", "0001", "0002", "0001"]
    assert patched(vectors, [1, 2, 3, 5], previous)["shot_id"].to_list() == ["0002", "0001", "0005", "0003"]
    # 0 and 1 are as near to 4 as they are: the lower stays.
    ties = np.array([[1, 1], [1, -1], [1, 0], [5, 0]], np.float32)
    assert patched(ties, [0, 1, 3], fresh(ties, [1, 3]))["shot_id"].to_list() == ["0003", "0003", "0000"]
    assert patched(ties, [0, 1, 3], fresh(ties, [0, 3]))["shot_id"].to_list() == ["0003", "0003", "0000"]


def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """What is compared from here on: (the rows that look, the rows they look at) of each call."""
    compared: list[tuple[list[int], list[int]]] = []
    compare = NearestRows.compare

    def listen(self: NearestRows, rows: np.ndarray, others: np.ndarray, vectors: np.ndarray) -> None:
        compared.append((rows.tolist(), others.tolist()))
        compare(self, rows, others, vectors)

    monkeypatch.setattr(NearestRows, "compare", listen)
    return compared


def test_only_new_rows_and_orphaned_followers_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 5)).astype(np.float32)
    vectors[50] = np.nan
    rows = list(range(160))
    previous = fresh(vectors, rows)
    gone, new = [3, 4, 50, 90, 120], [170, 180, 181]
    now = [row for row in rows if row not in gone] + new
    left = previous.filter(~pl.col("sample_id").is_in(names(gone).implode()))
    followers = left.filter(pl.col("shot_id").is_in(names(gone).implode()))["sample_id"].cast(pl.Int64).to_list()
    assert 3 <= len(followers) < 20

    compared = comparisons(monkeypatch)
    steps: list[tuple[int, int]] = []
    table = update_nearest(
        names(now), vectors[now], previous, lambda done, total, reused=0: steps.append((done, total))
    )
    look = sorted(now.index(row) for row in new + followers)
    assert compared == [(look, list(range(len(now))))]
    assert steps == [(len(look), len(look))]
    assert_same(table, fresh(vectors, now))


def test_a_table_that_nothing_touched_is_searched_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    vectors[7], vectors[8] = 0, np.nan
    previous = fresh(vectors, range(40))
    followed = set(previous["shot_id"].cast(pl.Int64))
    compared = comparisons(monkeypatch)
    assert_same(patched(vectors, range(40), previous), previous)
    # Nor where only rows without a vector came and went, or one that nobody follows went.
    without = [row for row in range(40) if row not in (7, 8)]
    left = patched(vectors, without, previous)
    assert_same(patched(vectors, range(40), left), previous)
    lonely = next(row for row in without if row not in followed)
    table = patched(vectors, [row for row in range(40) if row != lonely], previous)
    assert compared == []
    assert_same(table, fresh(vectors, [row for row in range(40) if row != lonely]))


def test_from_nothing_every_pair_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_search, "_TILE", 8)
    vectors = np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)
    vectors[11] = 0
    compared = comparisons(monkeypatch)
    whole = fresh(vectors, range(30))
    assert compared == [(list(range(at, min(at + 8, 29))), list(range(at, 29))) for at in range(0, 29, 8)]
    assert_same(patched(vectors, range(30), pl.DataFrame(schema=SCHEMA)), whole)
    assert_same(patched(vectors, range(30), fresh(vectors, [11])), whole)
    # More than half new: the same, since looking at all of the new rows would be more.
    assert_same(patched(vectors, range(30), fresh(vectors, range(10))), whole)
    assert [len(others) for _, others in compared] == [29, 21, 13, 5] * 3 + [10, 2] + [29, 21, 13, 5]


@pytest.mark.parametrize("nprobe", [None, 3])
def test_block_sizes_change_nothing(monkeypatch: pytest.MonkeyPatch, nprobe: int | None) -> None:
    vectors = np.random.default_rng(3).integers(-2, 3, (150, 4)).astype(np.float32)
    whole = nearest(names(range(150)), vectors, nprobe=nprobe)
    later = update_nearest(names(range(150)), vectors, fresh(vectors, range(130)), nprobe=nprobe)
    monkeypatch.setattr(exact_search, "_TILE", 16)
    monkeypatch.setattr(inverted_lists, "_BLOCK", 7)
    steps: list[tuple[int, int]] = []
    table = nearest(names(range(150)), vectors, lambda done, total, reused=0: steps.append((done, total)), nprobe)
    assert_same(table, whole)
    usable = whole["shot_id"].count()
    assert steps[-1] == (usable, usable) and len(steps) > 5
    assert_same(update_nearest(names(range(150)), vectors, fresh(vectors, range(130)), nprobe=nprobe), later)


THREADS = """
import hashlib, sys
import numpy as np, polars as pl
from dselect_core.neighbors.nearest import nearest
from tests.core.test_neighbors import clustered, names
vectors = clustered(3000, 96)
for nprobe in (None, 6):
    table = nearest(names(range(3000)), vectors, nprobe=nprobe)
    shots = table["shot_id"].str.join().item().encode()
    print(hashlib.sha256(shots + table["similarity"].to_numpy().tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_nothing() -> None:
    printed = []
    for threads in ("1", "2"):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        run = subprocess.run(
            [sys.executable, "-c", THREADS], env=os.environ | limits, capture_output=True, text=True, check=True
        )
        printed.append(run.stdout.split())
    assert printed[0] == printed[1] and len(set(printed[0])) == 2


def likeness(vectors: np.ndarray, table: pl.DataFrame | None = None) -> np.ndarray:
    """Of each row and its shot in `table`, else of each row and its nearest, on the grid; -inf where it has none."""
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    grid = np.zeros(vectors.shape)
    grid[usable] = round_unit_vectors(vectors[usable])[0]
    dot = grid @ grid.T
    dot[:, ~usable] = dot[~usable] = -np.inf
    np.fill_diagonal(dot, -np.inf)
    if table is None:
        return dot.max(1)
    # A row without a shot is asked about itself.
    shots = table.select(pl.coalesce("shot_id", "sample_id").cast(pl.Int64)).to_series().to_numpy()
    return dot[range(len(dot)), shots]


def share(vectors: np.ndarray, table: pl.DataFrame) -> float:
    """Of all rows: the share whose shot is as near as the nearest."""
    return float((likeness(vectors, table) == likeness(vectors)).mean())


def test_the_recall_that_is_stated_is_the_one_that_is_measured() -> None:
    vectors = clustered(3000, 32)
    ids = names(range(3000))
    few, many = (nearest(ids, vectors, nprobe=nprobe) for nprobe in (1, 16))
    measured_few, measured_many = share(vectors, few), share(vectors, many)
    assert measured_few < 0.99 and measured_few < measured_many  # there is something to measure
    assert measured_many > 0.95
    assert recall(few, vectors, 3000) == (measured_few, 3000)
    assert recall(many, vectors, 3000) == (measured_many, 3000)
    assert recall(fresh(vectors, range(3000)), vectors) == (1.0, 1000)
    stated, rows = recall(few, vectors) or (0.0, 0)
    assert rows == 1000 and abs(stated - measured_few) < 4 * np.sqrt(measured_few * (1 - measured_few) / 1000)
    # Rows without a vector have no shot to be right or wrong about.
    vectors[::3] = np.nan
    assert recall(fresh(vectors, range(3000)), vectors, 5000) == (1.0, 2000)
    assert recall(nearest(ids[:1], vectors[:1]), vectors[:1]) is None


@settings(max_examples=100, deadline=None)
@given(pools(), st.integers(1, 3))
def test_looking_at_every_list_is_exact_and_at_some_is_never_better(vectors: np.ndarray, nprobe: int) -> None:
    ids = names(range(len(vectors)))
    exact = nearest(ids, vectors)
    assert_same(nearest(ids, vectors, nprobe=len(vectors)), exact)
    some = nearest(ids, vectors, nprobe=nprobe)
    assert some["sample_id"].equals(ids) and some.schema == SCHEMA
    assert some["shot_id"].is_null().equals(exact["shot_id"].is_null()) and not (some["shot_id"] == ids).any()
    assert (likeness(vectors, some) <= likeness(vectors, exact)).all()


def test_an_approximate_table_is_patched_exactly_and_never_gets_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(2400, 32)
    ids = names(range(2400))
    old = [row for row in range(2400) if row % 100]
    previous = nearest(names(old), vectors[old], nprobe=1)
    table = update_nearest(ids, vectors, previous, nprobe=1)
    whole = fresh(vectors, range(2400))
    new = [row for row in range(2400) if not row % 100]
    assert table[new].equals(whole[new])
    assert (likeness(vectors, table)[old] >= likeness(vectors[old], renumbered(previous, old))).all()
    nearer_is_new = whole["shot_id"].is_in(ids[new].implode())
    assert table.filter(nearer_is_new).equals(whole.filter(nearer_is_new))
    assert recall(table, vectors, 2400) == (share(vectors, table), 2400)
    # Many new rows are searched by lists again, and an earlier shot is kept where it is nearer.
    compared = comparisons(monkeypatch)
    again = update_nearest(ids, vectors, whole.head(800), nprobe=1)
    assert sum(len(rows) * len(others) for rows, others in compared) < 2400**2 / 4
    assert again.head(800).equals(whole.head(800))
    # An exact table stays what it is while nothing moves.
    assert_same(update_nearest(ids, vectors, whole, nprobe=1), whole)


def test_equal_vectors_do_not_crowd_the_lists() -> None:
    vectors = np.tile(np.array([[3, 1, 2], [1, 1, 0]], np.float32), (300, 1))
    table = nearest(names(range(600)), vectors, nprobe=1)
    assert_same(table, fresh(vectors, range(600)))


def test_the_search_is_approximate_above_the_size_that_is_set_and_part_of_the_provenance() -> None:
    never, above = NeighborSpec(approximate_above=None), NeighborSpec(approximate_above=100, nprobe=8)
    assert [NeighborSpec().nprobe_for(rows) for rows in (100_000, 100_001)] == [None, 32]
    assert [never.nprobe_for(10**9), above.nprobe_for(100), above.nprobe_for(101)] == [None, None, 8]
    assert provenance(above, 100, ["p"]) == provenance(never, 10**9, ["p"]) != provenance(above, 101, ["p"])
    assert provenance(above, 101, ["p"]) != provenance(above.model_copy(update={"nprobe": 9}), 101, ["p"])
    # What is exact may be patched to be nearly so, never the other way round.
    assert (
        patchable_fingerprints(never, 101, ["p"])
        == patchable_fingerprints(above, 100, ["p"])
        < patchable_fingerprints(above, 101, ["p"])
    )
