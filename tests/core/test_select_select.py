"""What is left out and why, what a selection records, and the messages for budgets that cannot be met."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import required_kinds, select

SCORES = pl.DataFrame(
    {
        "sample_id": ["a", "b", "c", "d", "e"],
        "upd": [0.5, None, 0.7, float("nan"), 0.6],
        "grade": [1.0, None, 0.5, 0.5, 0.5],
        "response_tokens": pl.Series([10, 20, 30, None, 50], dtype=pl.Int32),
        "truncated": [False, False, True, False, False],
    }
)
EMBEDDINGS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [np.nan, np.nan]], dtype=np.float32)
POOL = Pool.of(SCORES, embeddings=EMBEDDINGS)
EMPTY = Pool.of(SCORES.head(0), embeddings=EMBEDDINGS[:0])


def spec(strategy: str, budget: str | int) -> CoresetSpec:
    return CoresetSpec(strategy=strategy, budget=budget)


def refused(strategy: str, budget: str | int, pool: Pool = POOL) -> str:
    with pytest.raises(DselectError) as error:
        select(pool, spec(strategy, budget))
    return str(error.value)


def test_what_lacks_a_score_is_left_out_with_every_reason() -> None:
    chosen = select(POOL, spec("d3", "40%"))
    assert chosen.excluded.rows() == [("b", "no upd, no grade"), ("d", "no upd"), ("e", "no embedding")]
    assert chosen.order["sample_id"].to_list() == ["a", "c"]
    assert chosen.order.columns == ["sample_id", "rank", "gain", "upd", "grade", "response_tokens", "truncated"]
    assert chosen.order["gain"].to_list() == [None, pytest.approx(0.35 * 2, abs=1e-4)]
    assert (chosen.pool_size, chosen.rows, chosen.tokens, chosen.passes) == (5, 2, 40, None)


def test_missing_neurons_and_unusable_vectors_are_left_out() -> None:
    neurons = np.array([[0, 1], [2, 3], [0, 2], [1, 3], [0, 3]], dtype=np.uint32)
    has_neurons = np.array([True, True, False, True, True])
    vectors = np.array([[1, 0], [0, 0], [np.inf, 0], [np.nan, 1], [0, 1]], dtype=np.float32)
    pool = Pool.of(SCORES, vectors, neurons, has_neurons)
    assert select(pool, spec("mads", 1)).excluded.rows() == [("c", "no active neurons")]
    assert select(pool, spec("kcenter", 1)).excluded["sample_id"].to_list() == ["b", "c", "d"]
    # Without a mask every row counts: a and b cover all four neurons, then c and d do, then e begins a third pass.
    by_pass = select(Pool.of(SCORES, None, neurons), spec("mads", 5))
    assert (by_pass.order["pass"].to_list(), by_pass.passes) == ([1, 1, 2, 2, 3], 3)


def test_a_token_budget_leaves_out_samples_whose_tokens_are_unknown() -> None:
    chosen = select(POOL, spec("random", "110 tokens"))
    assert chosen.excluded.rows() == [("d", "no response_tokens")]
    assert (chosen.rows, chosen.tokens) == (4, 110)
    assert select(POOL, spec("random", "100%")).tokens is None


def test_a_token_budget_stops_at_the_first_sample_that_exceeds_it() -> None:
    # By tokens, most first: e 50, c 30, b 20, a 10. After e, c would reach 80; a would still fit and is not taken.
    chosen = select(POOL, spec("topk:response_tokens", "65 tokens"))
    assert chosen.order["sample_id"].to_list() == ["e"]


def test_what_a_recipe_needs() -> None:
    assert required_kinds(spec("kcenter", 3)) == {"embeddings"}
    assert required_kinds(spec("kcenter", "3 tokens")) == {"embeddings", "difficulty"}


def test_progress_counts_towards_the_budget() -> None:
    steps: list[tuple[int, int, int]] = []

    def listen(done: int, total: int, reused: int = 0) -> None:
        steps.append((done, total, reused))

    select(POOL, spec("random", 3), listen)
    assert steps == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    steps.clear()
    select(POOL, spec("topk:response_tokens", "85 tokens"), listen)
    assert steps == [(50, 85, 0), (80, 85, 0)]


def test_a_budget_larger_than_the_pool() -> None:
    assert refused("random", 500) == ("budget 500 rows is larger than the pool of 5 samples: lower it, or add sources")


def test_a_budget_larger_than_what_has_scores() -> None:
    assert refused("d3", 4) == (
        "budget 4 rows is larger than the 2 of 5 samples that `d3` can choose from (2 lack upd, 1 lack grade, "
        "1 lack embedding): lower the budget, or have the missing scores made"
    )
    assert "budget 100% is 5 rows, which is larger than the 2 of 5" in refused("d3", "100%")


def test_token_budgets_that_cannot_be_met() -> None:
    assert refused("topk:response_tokens", "49 tokens") == (
        "budget 49 tokens buys nothing: the first pick of `topk:response_tokens` alone has 50 response tokens; "
        "give at least that many"
    )
    assert refused("random", "111 tokens") == (
        "budget 111 tokens is larger than all 110 response tokens of the 4 samples (of 5 in the pool) that `random` "
        "can choose from (1 lack response_tokens): lower it, or add sources"
    )


def test_scores_that_were_never_made() -> None:
    assert refused("topk:loss", 1) == (
        "the pool has no column `loss`, which `topk:loss` or its recipe needs: make the difficulty scores first"
    )
    assert refused("mads", 1) == "the pool has no activations, which `mads` needs: make them first"
    assert "no column `response_tokens`" in refused("random", "5 tokens", Pool.of(SCORES.select("sample_id")))


@pytest.mark.parametrize("name", ["d3", "mads", "random"])
def test_an_empty_pool_gives_an_empty_selection_for_a_share(name: str) -> None:
    chosen = select(EMPTY, spec(name, "10%"))
    assert (chosen.rows, chosen.pool_size, len(chosen.order), len(chosen.excluded)) == (0, 0, 0, 0)
    assert chosen.order.columns[:3] == ["sample_id", "rank", "gain"]


def test_an_empty_pool_has_no_rows_or_tokens_to_sell() -> None:
    assert "budget 1 rows is larger than the pool of 0 samples" in refused("random", 1, EMPTY)
    assert "larger than all 0 response tokens" in refused("random", "1 tokens", EMPTY)


def test_no_sample_with_scores_at_all() -> None:
    pool = POOL.take(np.array([1]))
    assert "larger than the 0 of 1 samples that `d3` can choose from" in refused("d3", "10%", pool)
    assert "larger than all 0 response tokens" in refused("kcenter", "10 tokens", POOL.take(np.array([4])))


def test_a_repeated_sample_is_refused() -> None:
    with pytest.raises(DselectError, match="sample a is there twice"):
        Pool.of(pl.DataFrame({"sample_id": ["b", "a", "a"]}))


@pytest.mark.parametrize(
    "arrays",
    [
        {"embeddings": np.zeros((4, 2), np.float32)},
        {"neurons": np.zeros((5, 2), np.int64)},
        {"neurons": np.zeros((5, 0), np.uint32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"rows, the pool 5|neurons must be uint32"):
        Pool(SCORES, **arrays)


def test_the_registry_is_light_enough_for_the_settings() -> None:
    code = (
        "import sys, dselect_core.select.strategies; print(*{'torch', 'faiss', 'datasets'}.intersection(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
