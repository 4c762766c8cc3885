"""One round against three, by their trials: two recipes with `trial: true`, and the same random draws."""

from pathlib import Path

from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned, materialised
from tests.e2e.test_cli import dselect

TRIALS = {"seeds": 1, "draws": 3, "multiples": [], "baselines": [], "epochs": 1, "batch_tokens": 512}
ONE = {"strategy": "d3", "budget": 9, "trial": True}
RECIPES = {"one": ONE, "three": ONE | {"rounds": 3, "warmup": {"samples": 2}}}


def test_a_trial_compares_one_round_with_three(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    held = alpaca(WORDS[:5], offset=90)
    graph.source("a", [*alpaca(WORDS), held[0]])  # its last row is held out
    graph.source("held", held)
    graph.settings(
        sources={"a": {"path": "data/a.json"}, "held": {"path": "data/held.json", "role": "eval"}},
        coresets=RECIPES,
        feedback={"epochs": 3, "batch_tokens": 256, "learning_rate": 3e-3},
        trials=TRIALS,
    )
    planned = graph.plan()
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert_as_planned(planned, done)
    figures = materialised(done)
    assert [figures[f"d3_round_{n}", "three"]["rows computed"] for n in (1, 2, 3)] == [len(WORDS)] * 3
    assert set(graph.order("one")["sample_id"]) != set(graph.order("three")["sample_id"])
    # The draws are tuned once for both.
    assert sorted((figures["trial", r]["runs tuned"], figures["trial", r]["runs reused"]) for r in RECIPES) == [
        (1, 3),
        (4, 0),
    ]
    assert graph.manifest("three")["held_out"]["rows"] == 1
    told = dselect(graph.folder, "compare")
    assert all(f"{recipe} d3, 9 rows" in " ".join(told.split()) for recipe in RECIPES)
    assert graph.refresh().runs == []
