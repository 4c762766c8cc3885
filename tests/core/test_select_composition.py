"""What a coreset consists of beside its pool, the warning where it collapsed, and rows that are too short."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from dselect_core.coreset.export import write_coreset
from dselect_core.errors import DselectError
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import Selection, required_kinds, select

# A pool as real ones are: one source of one-word answers, two of long ones.
KINDS = {"lima": (260, 400), "alpaca": (600, 80), "t0": (600, 2)}


def planted(seed: int = 0) -> Pool:
    """`loss` is highest where answers are one word, `length` where they are long, `noise` nowhere."""
    random = np.random.default_rng(seed)
    rows = []
    for source, (count, typical) in KINDS.items():
        for number in range(count):
            tokens = max(1, int(random.lognormal(np.log(typical), 0.5)))
            rows.append((f"{source}{number:04d}", [source], tokens, 1 / tokens + random.random() / 1000))
    scores = pl.DataFrame(rows, schema=["sample_id", "sources", "response_tokens", "loss"], orient="row")
    return Pool.of(scores.with_columns(upd=pl.col("response_tokens") / 2000, grade=1.0))


def chosen(strategy: str, budget: str | int = 145, pool: Pool | None = None, **recipe: object) -> Selection:
    return select(pool or planted(), CoresetSpec.model_validate({"strategy": strategy, "budget": budget, **recipe}))


def test_it_counts_chosen_and_pool() -> None:
    scores = pl.DataFrame(
        {
            "sample_id": list("abcdef"),
            "sources": [["x"], ["x", "y"], ["y", "x"], ["y"], ["z"], ["z"]],
            "response_tokens": [1, 2, 3, 4, None, 99],
            "loss": [9.0, 8.0, 1.0, 7.0, 0.0, 9.5],
        }
    )
    held_out = pl.Series([None, None, None, None, None, "held out: it is an eval sample"])
    found = chosen("topk:loss", 3, Pool.of(scores, held_out=held_out)).composition
    assert found.by_source is not None and found.lengths is not None
    # A sample of two sources counts for the first by name; what is held out is not of the pool.
    assert found.by_source.with_columns(cs.float().round(6)).rows() == [
        ("x", 3, 0.6, 2, 0.666667, 6, 3),
        ("y", 1, 0.2, 1, 0.333333, 4, 4),
        ("z", 1, 0.2, 0, 0.0, 0, 0),
    ]
    assert found.lengths.rows() == [("pool", 2, 3, 3), ("chosen", 2, 2, 4)]
    assert found.collapsed == []  # three rows say nothing


def test_a_strategy_that_takes_one_word_answers_alone_is_called_collapsed() -> None:
    found = chosen("topk:loss").composition
    assert len(found.collapsed) == 2
    assert found.collapsed[0] == "100% of the chosen rows are of source t0, which is 41% of the pool"
    assert found.collapsed[1].startswith("the chosen responses are far shorter than the pool's: a median of 1 tokens")
    longest = chosen("topk:response_tokens", 100).composition
    assert longest.collapsed[0].startswith("100% of the chosen rows are of source lima")
    assert "far longer" in longest.collapsed[-1]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 400))
def test_a_random_draw_is_never_called_collapsed(seed: int, budget: int) -> None:
    assert chosen("random", budget, PLANTED, seed=seed).composition.collapsed == []


PLANTED = planted()


def test_a_pool_of_one_source_and_one_length_is_no_collapse() -> None:
    pool = planted()
    alone = pool.take(np.flatnonzero(pool.scores["sources"].list.first() == "t0"))
    assert chosen("topk:loss", pool=alone).composition.collapsed == []


def test_without_sources_or_lengths_nothing_is_said_of_them() -> None:
    bare = Pool.of(planted().scores.select("sample_id", "loss"))
    found = chosen("topk:loss", pool=bare).composition
    assert (found.by_source, found.lengths, found.collapsed) == (None, None, [])
    assert found.as_json() == {"sources": None, "response_tokens": None, "collapsed": []}


def test_the_manifest_has_it(tmp_path: Path) -> None:
    selection = chosen("topk:loss", 40)
    samples = selection.order.select(
        "sample_id",
        messages=pl.lit([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]),
        n_rows=pl.lit(1),
        origins=pl.lit([{"source": "t0", "file": "f", "row": 1}]),
    )
    write_coreset(UPath(tmp_path), selection, samples, {"recipe": "short"})
    found = json.loads((tmp_path / "manifest.json").read_text())["composition"]
    assert found["collapsed"] == selection.composition.collapsed != []
    assert found["response_tokens"]["chosen"]["median"] == 1
    assert [row["source"] for row in found["sources"]] == ["alpaca", "lima", "t0"]
    assert sum(row["chosen"] for row in found["sources"]) == 40


@pytest.mark.parametrize("strategy", ["topk:loss", "random"])
def test_a_response_that_is_too_short_is_left_out_with_the_reason(strategy: str) -> None:
    pool = planted()
    scores = pool.scores.with_columns(
        pl.when(pl.col("sample_id") == "t00003").then(None).otherwise("response_tokens").alias("response_tokens")
    )
    found = chosen(strategy, pool=Pool.of(scores), min_response_tokens=8)
    assert found.order["response_tokens"].min() >= 8  # type: ignore[operator]
    reasons = dict(found.excluded.iter_rows())
    short = scores.filter(pl.col("response_tokens") < 8)["sample_id"].to_list()
    assert reasons.pop("t00003") == "no response_tokens"
    assert reasons == dict.fromkeys(short, "fewer than 8 response tokens (min_response_tokens)")
    assert found.rows == 145 and found.pool_size == len(pool)


def test_the_order_of_what_is_long_enough_is_the_strategys_own() -> None:
    whole = chosen("topk:loss", 1460).order.filter(pl.col("response_tokens") >= 8)
    assert chosen("topk:loss", 100, min_response_tokens=8).order["sample_id"].equals(whole["sample_id"].head(100))


def test_a_budget_over_what_is_long_enough_says_how_many_are_too_short() -> None:
    with pytest.raises(DselectError, match=r"can choose from \(\d+ have fewer than 500 response tokens\)"):
        chosen("random", 900, min_response_tokens=500)


def test_lengths_are_needed_where_they_are_asked_for() -> None:
    spec = CoresetSpec(strategy="random", budget=3, min_response_tokens=2)
    assert required_kinds(spec) == {"difficulty"}
    with pytest.raises(DselectError, match="no column `response_tokens`, which `random` or its recipe needs"):
        select(Pool.of(pl.DataFrame({"sample_id": list("abc")})), spec)
