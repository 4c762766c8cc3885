"""targeted against the rule in Python's integers, pick by pick; and all that a recipe, a key and a selection say."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dselect_core.errors import DselectError
from dselect_core.select import similarities, targeted
from dselect_core.select.candidate_pool import Pool, Targets
from dselect_core.select.order import Pick
from dselect_core.select.order_key import order_key
from dselect_core.select.random_draw import random_order
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.select import required_kinds, select
from dselect_core.select.strategies import strategy_with_options
from tests.cases import CASES

Vectors = list[list[int]]


def vectors(d: int, most: int) -> st.SearchStrategy[Vectors]:
    return st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d).filter(any), min_size=1, max_size=most)


small_cases = st.integers(1, 3).flatmap(lambda d: st.tuples(vectors(d, 14), vectors(d, 4)))
shares = st.sampled_from([None, "70%", "50%", "33.3%", "1%"])


def cosines(rows: Vectors, examples: Vectors) -> list[list[float]]:
    scale = math.floor(4096 - math.sqrt(len(rows[0])) / 2)

    def unit(vector: list[int]) -> list[int]:
        return [round(x * scale / math.sqrt(math.fsum(y * y for y in vector))) for x in vector]

    def dot(a: list[int], b: list[int]) -> int:
        return sum(x * y for x, y in zip(a, b, strict=True))

    units, of_examples = [unit(v) for v in rows], [unit(v) for v in examples]
    return [[dot(u, e) / math.sqrt(dot(u, u) * dot(e, e)) for e in of_examples] for u in units]


def by_rule(similarity: list[list[float]], by: str, share: str | None, general: list[int]) -> list[tuple[int, int]]:
    """(row, the example that takes it, or -1), in order."""
    left, order, turn = set(range(len(similarity))), [], 0
    part = 1 if share is None else Fraction(share.removesuffix("%")) / 100
    while left:
        if turn < math.ceil(part * (len(order) + 1)):
            if by == "max":
                row = min(left, key=lambda i: (-max(similarity[i]), i))
                example = similarity[row].index(max(similarity[row]))
            else:
                example = turn % len(similarity[0])
                row = min(left, key=lambda i: (-similarity[i][example], i))
            turn += 1
        else:
            row, example = next(i for i in general if i in left), -1
        left.remove(row)
        order.append((row, example))
    return order


def make_pool(rows: np.ndarray, examples: np.ndarray) -> Pool:
    ids = pl.Series("sample_id", [f"{i:04d}" for i in range(len(rows))])
    scores = pl.DataFrame({"sample_id": ids, "upd": [0.1 * (i % 7) for i in range(len(rows))]})
    targets = Targets.of(pl.Series([f"t{i:03d}" for i in range(len(examples))]), examples.astype(np.float32))
    return Pool(scores, weighted_embeddings=rows.astype(np.float32), targets=targets)


def recipe(budget: str | int, **options: object) -> CoresetSpec:
    return CoresetSpec.model_validate({"strategy": "targeted", "budget": budget, **options})


@settings(max_examples=CASES, deadline=None)
@given(small_cases, st.sampled_from(["round-robin", "max"]), shares, st.integers(0, 14), st.sampled_from([1, 3, 4096]))
def test_every_pick_and_how_the_others_stand(
    case: tuple[Vectors, Vectors], by: str, share: str | None, cut: int, block: int
) -> None:
    rows, examples = case
    similarity = cosines(rows, examples)
    pool = make_pool(np.array(rows), np.array(examples))
    general = [pick.row for pick in random_order(pool, 5)]
    expected = by_rule(similarity, by, share, general)
    options = {"by": by} | ({} if share is None else {"targeted": share, "general": "random"})
    strategy = strategy_with_options("targeted", options)
    samples = pool.scores.select("sample_id", reason=pl.lit(None, pl.String))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarities, "_BLOCK", block)
        patch.setattr(similarities, "_GROUP", block)
        patch.setattr(targeted, "_ENTRIES", block)
        patch.setattr(targeted, "_MOST_ENTRIES", 2 * block)
        patch.setattr(targeted, "_SHORTEST", block)
        order = strategy.order(pool, 5)
        for count in range(len(expected) + 1):
            if count == min(cut, len(expected)):
                picks = [Pick(row, similarity[row][e] if e >= 0 else None, None) for row, e in expected[:count]]
                order = strategy.order(pool, 5, SavedOrder.of("key", samples, picks, order.state(), order.standing()))
            taken = dict(expected[:count])
            assert order.state()["example"].tolist() == [taken.get(i, -1) for i in range(len(rows))]
            turn = sum(e >= 0 for e in taken.values()) % len(examples)
            standing = [max(of) if by == "max" else of[turn] for of in similarity]
            standing = [math.nan if i in taken else s for i, s in enumerate(standing)]
            assert np.array_equal(order.standing(), standing, equal_nan=True)
            if count < len(expected):
                row, example = expected[count]
                assert next(order) == Pick(row, similarity[row][example] if example >= 0 else None, None)
        with pytest.raises(StopIteration):
            next(order)


@settings(max_examples=500, deadline=None)
@given(small_cases, st.sampled_from(["round-robin", "max"]), st.integers(0, 10_000), st.sampled_from([1, 4096]))
def test_rows_of_open_groups_alone_are_taken(case: tuple[Vectors, Vectors], by: str, seed: int, block: int) -> None:
    rows, examples = case
    similarity, random = cosines(rows, examples), np.random.default_rng(seed)
    groups = random.integers(0, 3, len(rows))
    strategy, left, turn = strategy_with_options("targeted", {"by": by}), set(range(len(rows))), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarities, "_BLOCK", block)
        patch.setattr(targeted, "_ENTRIES", block)
        patch.setattr(targeted, "_SHORTEST", block)
        order = strategy.order(replace(make_pool(np.array(rows), np.array(examples)), groups=groups), 0)
        while left:
            order.open_groups = random.random(3) < 0.6
            open_rows = [i for i in left if order.open_groups[groups[i]]]
            if not open_rows:
                with pytest.raises(StopIteration):
                    next(order)
                continue
            gains = [max(of) if by == "max" else of[turn % len(examples)] for of in similarity]
            row = min(open_rows, key=lambda i: (-gains[i], i))
            assert next(order) == Pick(row, gains[row], None)
            left.remove(row)
            turn += 1


@pytest.mark.parametrize("by", ["round-robin", "max"])
def test_a_recipe_may_balance_and_a_general_share_may_not(by: str) -> None:
    pool = clustered(90, 4)
    sources = [["x"] if i % 3 else ["y"] for i in range(90)]
    pool = replace(pool, scores=pool.scores.with_columns(pl.Series("sources", sources)))
    kept: dict[str, SavedOrder] = {}
    for budget in (10, 31, 80):
        spec = recipe(budget, by=by, balance="source")
        selection = select(pool, spec, read_saved=kept.get)
        assert selection.order.equals(select(pool, spec).order)
        assert selection.saved is not None
        kept[selection.saved.key] = selection.saved
        taken = selection.order["sources"].list.first().value_counts()
        assert dict(taken.iter_rows())["y"] == min(30, budget // 2)  # `x` goes first
    assert len(kept) == 1
    with pytest.raises(DselectError, match="`targeted` cannot keep to `quota` or `balance`"):
        select(pool, recipe(10, targeted="70%", general="random", balance="source"))


def clustered(n: int, q: int, spread: float = 0.3) -> Pool:
    random = np.random.default_rng(0)
    centres = random.normal(size=(8, 12))
    rows = centres[random.integers(0, 8, n)] + spread * random.normal(size=(n, 12))
    return make_pool(rows, centres[random.integers(0, 2, q)] + 0.05 * random.normal(size=(q, 12)))


@pytest.mark.parametrize("by", ["round-robin", "max"])
def test_blocks_and_lists_of_any_length_give_one_order(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = clustered(3_000, 40)  # the examples want the same rows, so their lists are used up again and again
    whole = list(strategy_with_options("targeted", {"by": by}).order(pool, 0))
    for block, group, entries in ((64, 7, 40), (501, 40, 3_000), (3_000, 1, 2**12)):
        monkeypatch.setattr(similarities, "_BLOCK", block)
        monkeypatch.setattr(similarities, "_GROUP", group)
        monkeypatch.setattr(targeted, "_ENTRIES", entries)
        monkeypatch.setattr(targeted, "_MOST_ENTRIES", 4 * entries)
        monkeypatch.setattr(targeted, "_SHORTEST", 3)
        assert list(strategy_with_options("targeted", {"by": by}).order(pool, 0)) == whole
    assert sorted(pick.row for pick in whole) == list(range(3_000))


def test_a_list_that_is_full_keeps_the_lowest_of_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarities, "_BLOCK", 2)
    rows = np.tile([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], (20, 1))
    nearest = similarities.Similarities(rows, np.array([[3.0, 0.0]])).nearest_rows(np.array([0]), 5, np.arange(60) == 1)
    assert nearest[0].rows.tolist() == [0, 3, 4, 6, 7]
    assert nearest[0].similarities.tolist() == [1.0] * 5


@pytest.mark.parametrize("options", [{}, {"by": "max"}, {"targeted": "70%", "general": "topk:upd", "by": "max"}])
def test_a_saved_order_is_cut_and_continued_as_a_fresh_one(options: dict[str, str]) -> None:
    pool, kept = clustered(300, 9), dict[str, SavedOrder]()
    for budget in (20, 7, 120, "200 rows", 300):
        selection = select(pool, recipe(budget, **options), read_saved=kept.get)
        fresh = select(pool, recipe(budget, **options))
        assert selection.order.equals(fresh.order)
        assert selection.saved is not None
        kept[selection.saved.key] = selection.saved
    assert len(kept) == 1


def test_the_share_is_exact_at_every_prefix_and_the_rest_is_the_other_order() -> None:
    pool = clustered(400, 9)
    spec = {"targeted": "70%", "general": "random"}
    order = select(pool, recipe(400, **spec, seed=3)).order
    targeted_count = order["target"].is_not_null().cum_sum().to_list()
    assert targeted_count == [math.ceil(Fraction(7, 10) * k) for k in range(1, 401)]
    assert order["gain"].is_null().equals(order["target"].is_null())
    taken: set[str] = set()
    general = select(pool, CoresetSpec(strategy="random", budget=400, seed=3)).order["sample_id"].to_list()
    for sample_id, target in order.select("sample_id", "target").iter_rows():
        if target is None:
            assert sample_id == next(each for each in general if each not in taken)
        taken.add(sample_id)
    smaller = select(pool, recipe("10%", **spec, seed=3)).order
    assert smaller.equals(order.head(40))
    assert not select(pool, recipe(40, **spec, seed=4)).order.equals(smaller)


def test_the_key_has_the_targets_and_the_options_and_of_other_strategies_nothing() -> None:
    pool = clustered(50, 4)
    assert pool.targets is not None
    other = Targets(pool.targets.sample_ids, pool.targets.vectors * np.float32(1.5))
    fewer = Targets(pool.targets.sample_ids[:3], pool.targets.vectors[:3])
    renamed = Targets(pl.Series(["u0", "u1", "u2", "u3"]), pool.targets.vectors)
    pools = [
        Pool(pool.scores, weighted_embeddings=pool.weighted_embeddings, targets=t) for t in (other, fewer, renamed)
    ]
    keys = [order_key(each, "targeted", 0) for each in (pool, *pools)]
    share = {"targeted": "7%"}
    for options in ({"by": "max"}, share | {"general": "random"}, share | {"general": "topk:upd"}):
        keys.append(order_key(pool, strategy_with_options("targeted", options), 0))
    assert len(set(keys)) == len(keys)
    assert order_key(pool, "targeted", 1) == keys[0]
    seeded = strategy_with_options("targeted", {"targeted": "7%", "general": "random"})
    assert order_key(pool, seeded, 1) != order_key(pool, seeded, 0)
    assert len({order_key(each, "topk:upd", 0) for each in (pool, *pools)}) == 1


def test_a_row_or_an_example_without_a_vector_takes_no_part() -> None:
    random = np.random.default_rng(1)
    rows, examples = random.normal(size=(20, 4)), random.normal(size=(4, 4))
    rows[3], examples[1] = np.nan, 0
    selection = select(make_pool(rows, examples), recipe(19))
    assert selection.excluded.rows() == [("0003", "no weighted embedding")]
    assert selection.order["target"].unique().sort().to_list() == ["t000", "t002", "t003"]
    with pytest.raises(DselectError, match="none of the 2 examples of target sources has a usable vector"):
        Targets.of(pl.Series(["a", "b"]), np.full((2, 3), np.nan))
    bare = Pool(pl.DataFrame({"sample_id": ["a"]}), weighted_embeddings=np.ones((1, 2), dtype=np.float32))
    with pytest.raises(DselectError, match="no examples to be near to: add a source with `role: target`"):
        select(bare, recipe(1))


def test_what_a_recipe_needs_follows_from_its_general_share() -> None:
    assert required_kinds(recipe(1)) == {"weighted_embeddings"}
    assert required_kinds(recipe(1, targeted="70%", general="d3")) == {
        "weighted_embeddings",
        "embeddings",
        "difficulty",
        "grades",
    }
    assert recipe(1, targeted="70 %", general="d3").options["targeted"] == "70%"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targeted": "70%"}, "say who chooses the rest, as `general: random`"),
        ({"general": "random"}, "say which share stays targeted, as `targeted: 70%`"),
        ({"targeted": "100%", "general": "random"}, "above 0% and below 100%"),
        ({"targeted": 0.7, "general": "random"}, "write the targeted share of the budget as 70%"),
        ({"targeted": "7/9%", "general": "random"}, "write the targeted share of the budget as 70%"),
        ({"targeted": "70%", "general": "targeted"}, "chooses by the targets itself"),
        ({"targeted": "70%", "general": "deita"}, "may end before the budget"),
        ({"targeted": "70%", "general": "randm"}, "did you mean `random`"),
        ({"by": "mean"}, "by: Input should be 'round-robin' or 'max'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(1, **options)


def test_an_order_is_not_ahead_of_what_it_gave() -> None:
    order = strategy_with_options("targeted", {"targeted": "50%", "general": "random"}).order(clustered(40, 3), 0)
    picks = list(islice(order, 6))
    assert np.flatnonzero(order.state()["example"] >= 0).tolist() == sorted(p.row for p in picks if p.gain is not None)
