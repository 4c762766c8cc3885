"""What a change re-materialises, and nothing else: on the real graph, through the real condition."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import RECIPES, WORDS
from tests.e2e.graph import CORPUS_WIDE, SCORES, Graph, alpaca, errors, made, materialised

pytestmark = pytest.mark.some(4)

CANDIDATES = {("candidates", name) for name in ("d3", "weak", "wide")}
CORESETS = {("coreset", name) for name in ("d3", "weak", "wide")} | CANDIDATES


def edited(rows: list[dict[str, Any]], at: int, **change: str) -> list[dict[str, Any]]:
    return [row | change if i == at else row for i, row in enumerate(rows)]


def test_the_first_refresh_makes_every_asset_once(graph: Graph) -> None:
    assert graph.order("d3").height == 7  # ⌊25% of 28⌋: 20 + 9 rows, one of them in both sources
    assert graph.order("weak").height == 5
    assert graph.order("wide").height == 14


def test_a_second_refresh_finds_nothing_to_do(graph: Graph) -> None:
    done = graph.refresh()
    assert done.runs == []
    assert done.still_stale == []


def test_a_budget_edit_makes_that_coreset_and_nothing_else(graph: Graph) -> None:
    before = graph.order("d3")
    graph.settings(coresets=RECIPES | {"d3": {"strategy": "d3", "budget": "50%"}})
    assert made(graph.refresh()) == {("coreset_spec", "d3"), ("candidates", "d3"), ("coreset", "d3")}
    after = graph.order("d3")
    assert after.height == 14
    assert after["sample_id"].head(7).equals(before["sample_id"])


def test_an_edited_row_makes_its_source_and_what_follows_and_computes_that_row_alone(graph: Graph) -> None:
    graph.source("b", edited([*alpaca(WORDS[:8], offset=50), alpaca(WORDS)[0]], 3, output="Quite another answer."))
    done = graph.refresh()
    expected = {("raw_dataset", "b"), *((score, "b") for score in SCORES), *CORPUS_WIDE, *CORESETS}
    # neighbours look at prompts only: the same prompt under a new id is an assignment anew
    assert made(done) == expected
    for score in SCORES:
        figures = materialised(done)[score, "b"]
        assert (figures["rows computed"], figures["rows reused"]) == (1, 8)


def test_a_row_added_at_the_top_moves_no_score_to_another_row(graph: Graph) -> None:
    before = graph.scores("difficulty").select("sample_id", "upd")
    graph.source("a", [{"instruction": "First of all", "input": "", "output": "A new row."}, *alpaca(WORDS)])
    assert not graph.refresh().failed
    after = graph.scores("difficulty").select("sample_id", "upd")
    assert after.height == before.height + 1
    assert before.join(after, on=["sample_id", "upd"], how="anti").is_empty()


@pytest.mark.parametrize("way", ["reversed", "touched", "as JSON lines"])
def test_the_same_rows_written_otherwise_land_and_move_no_pick(graph: Graph, way: str) -> None:
    """Where they stand in other files or rows, the coresets are written again, which name them."""
    rows = alpaca(WORDS)
    if way == "as JSON lines":
        (graph.folder / "data" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        graph.settings(sources={"a": {"path": "data/a.jsonl"}, "b": {"path": "data/b.json"}})
    else:
        graph.source("a", rows[::-1] if way == "reversed" else rows)
    written = CORESETS - CANDIDATES
    orders = {recipe: graph.order(recipe) for _, recipe in written}
    assert made(graph.refresh()) == {("raw_dataset", "a"), *(written if way != "touched" else ())}
    assert all(graph.order(recipe).equals(order) for recipe, order in orders.items())


def test_a_source_taken_away_leaves_the_pool(graph: Graph) -> None:
    graph.sources("a")
    done = graph.refresh()
    assert [(c.partition, c.state) for c in done.changed_inputs.changes] == [("b", "gone")]
    assert made(done) == {("raw_dataset", "b"), *((score, "b") for score in SCORES), *CORPUS_WIDE, *CORESETS}
    assert list(graph.manifest("d3")["sources"]) == ["a"]
    assert graph.manifest("d3")["counts"]["pool"] == 20
    assert made(graph.refresh()) == set()


def test_a_source_added_scores_itself_alone(graph: Graph) -> None:
    graph.source("c", alpaca(["one", "two", "three"], offset=90))
    graph.sources("abc")
    done = made(graph.refresh())
    assert done == {("raw_dataset", "c"), *((score, "c") for score in SCORES), *CORPUS_WIDE, *CORESETS}


def test_a_recipe_added_makes_its_coreset_and_one_removed_goes(graph: Graph) -> None:
    graph.settings(coresets={"d3": {"strategy": "d3", "budget": "25%"}, "r": {"strategy": "random", "budget": 3}})
    done = graph.refresh()
    # mads and miwv are read by no recipe now; the index no longer asks for activations
    assert ("coreset", "r") in made(done)
    untouched = {("raw_dataset", "a"), ("difficulty_scores", "a"), ("embeddings", "a"), ("miwv_values", None)}
    assert not made(done) & untouched
    assert done.changed_inputs.gone_recipes == ["weak", "wide"]


def test_beta_moves_difficulty_and_what_reads_it(graph: Graph) -> None:
    graph.settings(difficulty={"beta": 2.0})
    done = made(graph.refresh())
    assert {asset for asset, _ in done} >= {"difficulty_scores", "corpus_index", "coreset"}
    assert not {asset for asset, _ in done} & {"embeddings", "activations", "dependability_grades", "raw_dataset"}


def test_another_model_recomputes_its_scores_and_not_the_grades(graph: Graph, tmp_path_factory: Any) -> None:
    from tests.tiny import save_llama

    folder = save_llama(tmp_path_factory.mktemp("model"))
    graph.settings(model={"path": str(folder)})
    done = graph.refresh()
    assert ("warmup_model", None) in made(done)
    assert not {a for a, _ in made(done)} & {"raw_dataset", "dependability_grades", "coreset_spec"}
    assert graph.manifest("d3")["model"]["identity"].startswith("local:")
    # Other weights in the same folder are another model.
    save_llama(folder, seed=1)
    before = graph.manifest("d3")["model"]["identity"]
    assert ("difficulty_scores", "a") in made(graph.refresh())
    assert graph.manifest("d3")["model"]["identity"] != before


def test_one_recipe_alone_and_the_others_later(graph: Graph) -> None:
    graph.source("a", alpaca(WORDS[:-1]))
    first = made(graph.refresh(recipe="d3"))
    assert {key for key in first if key[0] == "coreset"} == {("coreset", "d3")}
    assert made(graph.refresh()) == {(asset, name) for asset in ("candidates", "coreset") for name in ("weak", "wide")}


def test_a_bad_source_is_told_and_blocks_no_other(graph: Graph) -> None:
    (graph.folder / "data" / "b.json").write_text("{ not json")
    os.utime(graph.folder / "data" / "b.json", ns=(10**18, 10**18))
    graph.source("a", alpaca(WORDS[:-1]))
    done = graph.refresh()
    assert "b.json" in errors(done)
    assert ("coreset", "d3") in materialised(done)
    # What is wrong is said again until it is mended, and then the source is back.
    assert "b.json" in errors(graph.refresh())
    graph.source("b", alpaca(WORDS[:8], offset=50))
    assert ("raw_dataset", "b") in made(graph.refresh())


def test_a_refresh_killed_in_the_middle_of_scoring_holds_nothing_up(graph: Graph) -> None:
    graph.source("a", alpaca(WORDS[:-2]))
    environment = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "DSELECT_CONFIG")}
    command = [str(Path(sys.executable).with_name("dselect")), "refresh"]
    with subprocess.Popen(command, cwd=graph.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("embeddings" in line for line in process.stderr)
        process.kill()
    assert made(graph.refresh()) >= {("embeddings", "a"), ("corpus_index", None), ("coreset", "d3")}


def test_a_killed_refresh_is_finished_by_the_next(graph: Graph) -> None:
    """What was asked for never ran; that it is stale is still so."""
    graph.source("a", alpaca(WORDS[:-2]))
    graph.refresh_killed("corpus_index")
    assert made(graph.refresh()) >= {("corpus_index", None), ("coreset", "d3")}
