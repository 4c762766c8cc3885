"""targeted by inverted lists: its rule pick by pick, one order wherever it is stopped, its key, and what it tells."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from upath import UPath

from dselect_core.select import similarities, targeted
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Pick
from dselect_core.select.order_key import order_key
from dselect_core.select.saved_order import SavedOrder, read_saved_order, write_saved_order
from dselect_core.select.select import select
from dselect_core.select.similarities import ProbedLists, Similarities
from dselect_core.select.strategies import strategy_with_options
from tests.cases import CASES
from tests.core.test_select_targeted import Vectors, clustered, cosines, make_pool, recipe, small_cases

APPROXIMATE = {"search": "approximate"}


def probed_rows(pool: Pool) -> list[list[bool]]:
    """[row][example]: whether the example probes the row's list."""
    assert pool.weighted_embeddings is not None and pool.targets is not None
    lists = ProbedLists(Similarities(pool.weighted_embeddings, pool.targets.vectors))
    found = [[False] * len(pool.targets) for _ in range(len(pool))]
    for members, probes in zip(lists._members, lists._probes, strict=True):
        for row in members.tolist():
            found[row] = probes.tolist()
    return found


def first(left: set[int], of: list[float], probes: list[bool]) -> int:
    """The nearest row that is probed; where none is left the nearest of the others."""
    probed = [row for row in left if probes[row]]
    return min(probed or left, key=lambda row: (-of[row], row))


@settings(max_examples=CASES, deadline=None)
@given(small_cases, st.integers(0, 14), st.integers(0, 10_000), st.sampled_from([1, 3, 4096]), st.booleans())
def test_an_example_takes_what_it_probes_and_then_the_rest(
    case: tuple[Vectors, Vectors], cut: int, seed: int, block: int, by_group: bool
) -> None:
    rows, examples = case
    similarity, random = cosines(rows, examples), np.random.default_rng(seed)
    of_example = [[of[e] for of in similarity] for e in range(len(examples))]
    groups = random.integers(0, 3 if by_group else 1, len(rows))
    strategy, left = strategy_with_options("targeted", APPROXIMATE), set(range(len(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarities, "_FEWEST_LISTS", 5)
        patch.setattr(similarities, "_BLOCK", block)
        for name in ("_ENTRIES", "_MOST_ENTRIES", "_SHORTEST"):
            patch.setattr(targeted, name, block)
        pool = replace(make_pool(np.array(rows), np.array(examples)), groups=groups if by_group else None)
        probes = probed_rows(pool)
        order, picks = strategy.order(pool, 0), list[Pick]()
        for turn in range(len(rows)):
            example = turn % len(examples)
            of, probed = of_example[example], [each[example] for each in probes]
            heads = [first({r for r in left if groups[r] == g}, of, probed) for g in sorted({groups[r] for r in left})]
            row = min(heads, key=lambda r: (-of[r], r))
            if turn == cut:
                samples = pool.scores.select("sample_id").with_columns(reason=None)
                saved = SavedOrder.of("key", samples, picks, order.state(), order.standing())
                order = strategy.order(pool, 0, saved)
            picks.append(next(order))
            assert picks[-1] == Pick(row, of[row], None)
            left.remove(row)


def test_lists_of_any_length_give_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = clustered(2_000, 30)
    whole = list(strategy_with_options("targeted", APPROXIMATE).order(pool, 0))
    assert sorted(pick.row for pick in whole) == list(range(2_000))
    assert whole != list(strategy_with_options("targeted", {}).order(pool, 0))
    for entries in (1, 200):
        monkeypatch.setattr(targeted, "_ENTRIES", entries)
        monkeypatch.setattr(targeted, "_MOST_ENTRIES", 8 * entries)
        monkeypatch.setattr(targeted, "_SHORTEST", 7)
        monkeypatch.setattr(similarities, "_BLOCK", 64)
        assert list(strategy_with_options("targeted", APPROXIMATE).order(pool, 0)) == whole


def test_a_saved_order_is_cut_and_continued_with_what_it_told(tmp_path: Any) -> None:
    pool, place = clustered(600, 9), UPath(tmp_path)

    def read(key: str) -> SavedOrder | None:
        return read_saved_order(place / key, key)

    for budget in (20, 7, 120, 400):
        selection = select(pool, recipe(budget, **APPROXIMATE), read_saved=read)
        fresh = select(pool, recipe(budget, **APPROXIMATE))
        assert selection.order.equals(fresh.order)
        assert selection.facts == fresh.facts and selection.facts["by"] == "inverted lists"
        assert selection.saved is not None
        write_saved_order(selection.saved, place / selection.saved.key)
    assert len(list(place.iterdir())) == 1


def test_the_recall_is_the_share_of_the_nearest_rows_that_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targeted, "RECALL_ROWS", 40)
    random = np.random.default_rng(2)
    pool = make_pool(random.normal(size=(900, 12)), random.normal(size=(50, 12)))
    told = select(pool, recipe(5, **APPROXIMATE)).facts
    assert pool.weighted_embeddings is not None and pool.targets is not None
    of = Similarities(pool.weighted_embeddings, pool.targets.vectors)
    probed, hits = np.array(probed_rows(pool)), 0
    examples = sorted({round(at) for at in np.linspace(0, 49, 32).tolist()})
    for example in examples:
        exact = np.lexsort((np.arange(900), -of.to_example(example)))[:40]
        hits += int(probed[exact, example].sum())
    assert told["recall"] == round(hits / (40 * len(examples)), 4)
    assert 0.5 < float(told["recall"]) < 1
    assert (told["lists"], told["nprobe"]) == (16, round(2 * math.sqrt(16)))


def test_size_decides_unless_the_recipe_does_and_the_key_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = clustered(500, 9)
    default, exact, approximate = (
        strategy_with_options("targeted", {} if how is None else {"search": how})
        for how in (None, "exact", "approximate")
    )
    highest = strategy_with_options("targeted", {"by": "max"})
    before, of_highest = order_key(pool, "targeted", 0), order_key(pool, highest, 0)
    assert before == order_key(pool, default, 0) != order_key(pool, approximate, 0)
    assert select(pool, recipe(9)).facts == {}
    monkeypatch.setattr(targeted, "APPROXIMATE_ABOVE", 4_499)
    assert order_key(pool, "targeted", 0) != before
    assert order_key(pool, highest, 0) == of_highest
    assert select(pool, recipe(9, by="max")).facts == {}
    picks = list(islice(default.order(pool, 0), 200))
    assert picks == list(islice(approximate.order(pool, 0), 200)) != list(islice(exact.order(pool, 0), 200))
    assert select(pool, recipe(9, search="exact")).facts == {}
    monkeypatch.setattr(targeted, "APPROXIMATE_ABOVE", 4_500)
    assert order_key(pool, "targeted", 0) == before


def test_the_highest_similarity_is_always_exact() -> None:
    with pytest.raises(ValidationError, match="`by: max` compares every row with every example once"):
        recipe(5, by="max", search="approximate")
    with pytest.raises(ValidationError, match="search: Input should be 'auto', 'exact' or 'approximate'"):
        recipe(5, search="fast")
