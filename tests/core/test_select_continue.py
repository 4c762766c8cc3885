"""A saved order, cut or continued, is the fresh one: for every strategy and kind of budget, through a real file."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from dselect_core.errors import DselectError
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import SCHEMA, SavedOrder, read_saved_order, write_saved_order
from dselect_core.select.select import Selection, select
from tests.core.test_select_orders import NAMES, make_rows


class Orders:
    """A folder of saved orders, as a workspace has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = UPath(folder)
        self.requested_keys: list[str] = []

    def path(self, key: str) -> UPath:
        return self.folder / f"{key}.parquet"

    def __call__(self, key: str) -> SavedOrder | None:
        self.requested_keys.append(key)
        return read_saved_order(self.path(key), key)

    def select(self, pool: Pool, name: str, budget: str | int, seed: int = 0) -> Selection:
        """Select, and write what should be saved."""
        selection = select(pool, CoresetSpec(strategy=name, budget=budget, seed=seed), None, self)
        self.write(selection)
        return selection

    def write(self, selection: Selection) -> None:
        assert selection.saved is not None and selection.saved.key == self.requested_keys[-1]
        if selection.saved_changed:
            write_saved_order(selection.saved, self.path(selection.saved.key))


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


def assert_same(one: Selection, other: Selection) -> None:
    assert one.order.equals(other.order) and one.order.schema == other.order.schema
    assert one.excluded.equals(other.excluded)
    assert (one.rows, one.passes, one.tokens, one.pool_size) == (
        other.rows,
        other.passes,
        other.tokens,
        other.pool_size,
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10_000), st.integers(8, 40), st.data())
def test_any_sequence_of_budgets_equals_fresh_runs(
    tmp_path_factory: pytest.TempPathFactory, name: str, seed: int, n: int, data: st.DataObject
) -> None:
    orders = Orders(tmp_path_factory.mktemp("orders"))
    pool = Pool.of(*make_rows(seed, n))
    first = select(pool, CoresetSpec(strategy=name, budget=1))
    whole = n - len(first.excluded)
    least = first.order["response_tokens"][0]
    most = pool.scores.join(first.excluded, on="sample_id", how="anti")["response_tokens"].sum()
    budget = st.one_of(
        st.integers(1, whole),
        st.integers(1, whole).map(lambda rows: f"{rows * 100 / n}%"),
        st.integers(least, most).map(lambda tokens: f"{tokens} tokens"),
    )
    saved_count = 0
    for drawn_budget in data.draw(st.lists(budget, min_size=2, max_size=6)):
        fresh = select(pool, CoresetSpec(strategy=name, budget=drawn_budget))
        assert fresh.saved is None and not fresh.saved_changed and fresh.reused == 0
        selection = orders.select(pool, name, drawn_budget)
        assert_same(selection, fresh)
        assert selection.reused == min(saved_count, selection.rows)
        pick_count = len(selection.saved.picks)
        assert pick_count >= max(saved_count, selection.rows)  # a cut never shortens what is saved
        assert selection.saved_changed == (pick_count > saved_count)
        saved_count = pick_count
        # The saved table says what a fresh order of that length would.
        alone = select(pool, CoresetSpec(strategy=name, budget=pick_count), None, lambda key: None).saved
        assert alone is not None and alone.table.equals(selection.saved.table)
        read = orders(selection.saved.key)
        assert read is not None and read.table.equals(alone.table) and read.table.schema == alone.table.schema
    assert len(set(orders.requested_keys)) == 1  # whatever the budget


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10_000), st.integers(1, 30), st.data())
def test_an_order_stopped_anywhere_goes_on_as_if_it_had_not(name: str, seed: int, n: int, data: st.DataObject) -> None:
    scores, embeddings, neurons, _ = make_rows(seed, n)
    scores = scores.with_columns(pl.col("upd", "grade", "loss", "miwv").fill_null(0.5))
    pool = Pool.of(scores, np.nan_to_num(embeddings, nan=1.0) + 3 * np.eye(1, 5, 4), neurons)
    samples = pool.scores.select("sample_id", pl.lit(None, pl.String).alias("reason"))
    chosen = strategies.strategy(name)
    whole = list(chosen.order(pool, seed))
    assert sorted(pick.row for pick in whole) == list(range(n))

    picks, saved = [], None
    for stop in [*sorted(data.draw(st.lists(st.integers(0, n), max_size=4))), n]:
        order = chosen.order(pool, seed, saved)
        while len(picks) < stop:
            picks.append(next(order))
            if data.draw(st.booleans()):  # asking in between changes nothing
                order.standing(), order.state()
        saved = SavedOrder.of("key", samples, picks, order.state(), order.standing())
        assert saved.picks == picks == whole[:stop]
        again = chosen.order(pool, seed, saved)
        for one, other in ((order.state(), again.state()), (order.state(), saved.state)):
            assert one.keys() == other.keys()
            assert all(one[at].dtype == other[at].dtype and np.array_equal(one[at], other[at]) for at in one)
        assert np.array_equal(order.standing(), again.standing(), equal_nan=True)
        assert np.array_equal(order.standing(), saved.standing, equal_nan=True)
    with pytest.raises(StopIteration):
        next(order)
    assert order.state().keys() == saved.state.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_covered_budget_runs_no_strategy(name: str, orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool.of(*make_rows(11, 60))
    orders.select(pool, name, 30)
    fresh = [select(pool, CoresetSpec(strategy=name, budget=budget)) for budget in (30, 7, "10%", "40 tokens")]

    def refuse(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        raise AssertionError("the strategy was run")

    refusing = replace(strategies.strategy(name), order=refuse)
    monkeypatch.setattr("dselect_core.select.strategies.strategy_with_options", lambda name, options: refusing)
    steps: list[tuple[int, int, int]] = []
    for expected, budget in zip(fresh, (30, 7, "10%", "40 tokens"), strict=True):
        spec = CoresetSpec(strategy=name, budget=budget)
        selection = select(pool, spec, lambda *step: steps.append(step), orders)
        assert_same(selection, expected)
        assert not selection.saved_changed and selection.reused == selection.rows
    assert steps == []
    with pytest.raises(AssertionError, match="the strategy was run"):
        select(pool, CoresetSpec(strategy=name, budget=31), None, orders)


def test_a_whole_order_is_cut_by_the_budget_of_all_tokens(orders: Orders) -> None:
    pool = Pool.of(make_rows(2, 20)[0])
    orders.select(pool, "random", "100%")
    selection = orders.select(pool, "random", f"{pool.scores['response_tokens'].sum()} tokens")
    assert (selection.rows, selection.reused, selection.saved_changed) == (20, 20, False)


def test_progress_hears_of_new_picks_alone(orders: Orders) -> None:
    scores = pl.DataFrame({"sample_id": list("abcde"), "response_tokens": [10, 20, 30, 40, 50]})
    pool = Pool.of(scores)
    steps: list[tuple[int, int, int]] = []

    def listen(done: int, total: int, reused: int = 0) -> None:
        steps.append((done, total, reused))

    orders.select(pool, "topk:response_tokens", 2)
    select(pool, CoresetSpec(strategy="topk:response_tokens", budget=4), listen, orders)
    assert steps == [(1, 2, 2), (2, 2, 2)]
    steps.clear()
    select(pool, CoresetSpec(strategy="topk:response_tokens", budget="145 tokens"), listen, orders)
    assert steps == [(30, 55, 90), (50, 55, 90)]


def test_the_pick_that_ended_a_token_budget_is_kept(orders: Orders) -> None:
    pool = Pool.of(pl.DataFrame({"sample_id": list("abc"), "response_tokens": [10, 20, 30]}))
    selection = orders.select(pool, "topk:response_tokens", "40 tokens")
    assert selection.rows == 1 and [pick.row for pick in selection.saved.picks] == [2, 1]
    assert selection.saved.table["standing"].to_list() == [10.0, None, None]
    assert orders.select(pool, "topk:response_tokens", 2).reused == 2


def test_the_file_has_every_sample_of_the_pool(orders: Orders) -> None:
    scores, embeddings, neurons, has_neurons = make_rows(4, 50)
    pool = Pool.of(scores, embeddings, neurons, has_neurons)
    for name, columns in (
        ("d3", ["upd", "grade", "state_nearest", "state_seen"]),
        ("kcenter", ["state_nearest", "state_seen"]),
        ("facility-location", ["state_similarity"]),
        ("mads", []),
        ("miwv", ["miwv"]),
        ("topk:loss", ["loss"]),
        ("random", []),
    ):
        selection = orders.select(pool, name, 12)
        table = pl.read_parquet(orders.path(selection.saved.key).path)
        assert table.columns == [*SCHEMA, *columns]
        assert {column: table.schema[column] for column in SCHEMA} == SCHEMA
        assert table["sample_id"].equals(pool.sample_ids)
        assert table.select("sample_id", "reason").drop_nulls().equals(selection.excluded)
        picked = table.drop_nulls("rank").sort("rank")
        assert picked["sample_id"].equals(selection.order["sample_id"])
        assert picked["rank"].equals(selection.order["rank"]) and picked["gain"].equals(selection.order["gain"])
        assert picked["pass"].null_count() == (0 if name == "mads" else 12)
        for column in columns:
            if column.startswith("state_"):
                assert table[column].dtype.is_integer()
                assert table[column].is_null().equals(table["reason"].is_not_null())
            else:
                assert table[column].equals(pool.scores[column])
        left = table.filter(pl.col("rank").is_null() & pl.col("reason").is_null())
        assert left["standing"].null_count() == (len(left) if name == "random" else 0)
        assert table["standing"].count() == (0 if name == "random" else len(left))


def test_the_table_follows_what_the_key_is_silent_about(orders: Orders) -> None:
    scores = pl.DataFrame({"sample_id": list("abcd"), "loss": [1.0, 2.0, 3.0, None]})
    first = orders.select(Pool.of(scores), "topk:loss", 3)
    nudged = scores.with_columns(pl.Series("loss", [1.0 + 1e-7, 2.0, 3.0, None])).filter(pl.col("sample_id") != "d")
    second = orders.select(Pool.of(nudged), "topk:loss", 2)
    assert second.saved.key == first.saved.key and second.saved_changed and second.reused == 2
    on_disk = orders(first.saved.key)
    assert on_disk.table["sample_id"].to_list() == ["a", "b", "c"] and on_disk.table["loss"][0] == 1.0 + 1e-7
    assert on_disk.picks == first.saved.picks
    assert not orders.select(Pool.of(nudged), "topk:loss", 1).saved_changed


def test_nan_among_the_scores_does_not_look_like_a_change(orders: Orders) -> None:
    pool = Pool.of(pl.DataFrame({"sample_id": list("abc"), "loss": [1.0, float("nan"), 3.0]}))
    assert orders.select(pool, "topk:loss", 2).saved_changed
    assert not orders.select(pool, "topk:loss", 2).saved_changed


def test_a_shorter_order_does_not_replace_a_longer_one(orders: Orders) -> None:
    pool = Pool.of(*make_rows(6, 30))
    selections = [select(pool, CoresetSpec(strategy="d3", budget=rows), None, lambda key: None) for rows in (9, 3)]
    long, short = (selection.saved for selection in selections)
    for saved in (short, long, short):
        write_saved_order(saved, orders.path(saved.key))
    assert len(orders(long.key).picks) == 9


def test_a_file_of_another_key_is_not_taken(orders: Orders) -> None:
    pool = Pool.of(*make_rows(6, 30))
    saved = orders.select(pool, "mads", 5).saved
    write_saved_order(saved, orders.path("other"))
    assert read_saved_order(orders.path("other"), "other") is None
    assert read_saved_order(orders.path("none"), "none") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_file_is_named_in_the_log_and_ignored(
    share: float, orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool.of(*make_rows(8, 40))
    first = orders.select(pool, "d3", 10)
    path = orders.path(first.saved.key)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with caplog.at_level(logging.WARNING):
        again = orders.select(pool, "d3", 6)
    assert str(path) in caplog.text and "ignored" in caplog.text
    assert again.reused == 0 and again.saved_changed
    assert_same(again, select(pool, CoresetSpec(strategy="d3", budget=6)))
    assert orders.select(pool, "d3", 6).reused == 6


def test_budgets_that_cannot_be_met_ask_for_no_order(orders: Orders) -> None:
    pool = Pool.of(*make_rows(9, 20))
    for budget in (21, 20, "100000 tokens"):
        with pytest.raises(DselectError, match="is larger than"):
            select(pool, CoresetSpec(strategy="d3", budget=budget), None, orders)
    empty = select(pool.take(np.array([], dtype=np.int64)), CoresetSpec(strategy="d3", budget="10%"), None, orders)
    assert empty.saved is None and not empty.saved_changed
    assert orders.requested_keys == []
