"""What trials find and what they tune, on models that are really tuned: planted selections, chance, and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dselect_core.corpus.sample import sample_id
from dselect_core.select import strategies
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.order import Order
from dselect_core.select.saved_order import SavedOrder
from dselect_core.select.strategy import Strategy
from dselect_core.select.top_k import SortedOrder
from dselect_core.trials.make_trial import make_trial
from dselect_core.trials.report import TrialReport, read_report
from dselect_core.trials.trial import trial_todo
from tests.e2e.graph import Graph
from tests.e2e.killed_refresh import environment
from tests.e2e.test_trial_checks import Team, evaluation
from tests.tiny import save_llama

ROOT = Path(__file__).parents[2]
TRIALS = {"seeds": 2, "draws": 4, "multiples": [], "baselines": [], "epochs": 2, "batch_tokens": 256}
TRIALS |= {"learning_rate": 3e-3, "method": "full", "precision": "float32"}
COLOURS = ("old", "new", "big", "small", "thin")
NOUNS = ("table", "river", "candle", "window", "garden", "bridge", "ladder", "button", "violin", "carpet")
THINGS = [f"{colour} {noun}" for colour in COLOURS for noun in NOUNS]


def row(thing: str, *, right: bool) -> dict[str, str]:
    """The right answer is the thing itself; a wrong one is of other letters, as long."""
    answer = thing if right else "".join("zqxjkvw"[(i * 7 + len(thing)) % 7] for i in range(len(thing)))
    return {"instruction": f"Say it: {thing}", "input": "", "output": f"It is {answer}."}


ROWS = [row(f"{thing} {n}", right=(i + n) % 2 == 0) for i, thing in enumerate(THINGS) for n in range(4)]
HELD = [row(f"{thing} 9", right=True) for thing in THINGS[::2]]


def id_of(made: dict[str, str]) -> str:
    turns = (("user", made["instruction"]), ("assistant", made["output"]))
    return sample_id([{"role": role, "content": text} for role, text in turns])


WRONG = frozenset(id_of(row(f"{thing} {n}", right=False)) for thing in THINGS for n in range(4))


def planted(name: str, *, first: bool) -> Strategy:
    """Takes rows with wrong answers first, or last."""

    def order(pool: Pool, seed: int, saved: SavedOrder | None = None) -> Order:
        rows: Sequence[int] = sorted(range(len(pool)), key=lambda i: ((pool.sample_ids[i] in WRONG) != first, i))
        return SortedOrder(rows, None, saved)

    return Strategy(name, "planted by a test", frozenset(), (), order)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    for strategy in (planted("takes_wrong", first=True), planted("takes_right", first=False)):
        strategies.register(strategy)
    graph = Graph(tmp_path_factory.mktemp("trials"))
    (graph.folder / "data").mkdir()
    graph.source("pool", ROWS)
    graph.source("held", HELD)
    graph.settings(
        model={"path": str(save_llama(tmp_path_factory.mktemp("model")))},
        sources={"pool": {"path": "data/pool.json"}, "held": {"path": "data/held.json", "role": "eval"}},
        coresets={"wrong": {"strategy": "takes_wrong", "budget": 60, "trial": True, "require": ["beats_random"]},
                  "right": {"strategy": "takes_right", "budget": 60, "trial": True}},
        trials=TRIALS,
    )  # fmt: skip
    yield graph
    for name in ("takes_wrong", "takes_right"):
        strategies.unregister(name)


def report(graph: Graph, recipe: str) -> TrialReport:
    found = read_report(graph.workspace, recipe)
    assert found is not None
    return found


def recipe(**more: Any) -> dict[str, Any]:
    return {"strategy": "random", "budget": 60} | more


def test_wrong_answers_are_worse_than_random_right_ones_better_and_the_first_is_held_back(graph: Graph) -> None:
    assert Team(graph).published() == set()
    done = graph.refresh()
    assert not done.is_whole
    assert report(graph, "wrong").against_random.word == "worse"
    assert report(graph, "right").against_random.word == "better"
    for name, passed in (("wrong", False), ("right", True)):
        of_trial = evaluation(graph, "beats_random", name)
        blocking = evaluation(graph, "requirements_met", name)
        assert of_trial is not None and blocking is not None
        assert of_trial.passed is passed
        assert blocking.passed is passed  # the second requires nothing
    assert Team(graph).published() == {"right"}


def test_draws_are_shared_and_the_same_rows_are_not_tuned_again(graph: Graph) -> None:
    wrong, right = report(graph, "wrong"), report(graph, "right")
    assert sorted([wrong.tuned, right.tuned]) == [2, 2 + 4]
    graph.source("pool", [*reversed(ROWS)])
    graph.refresh()
    for name in ("wrong", "right"):
        assert trial_todo(graph.workspace, name).tune == 0
        assert trial_todo(graph.workspace, name).version == report(graph, name).version


def test_a_new_eval_source_costs_evaluations_only_and_without_weights_it_tunes_again(graph: Graph) -> None:
    sources = {
        "pool": {"path": "data/pool.json"},
        "held": {"path": "data/held.json", "role": "eval"},
        "more": {"path": "data/more.json", "role": "eval"},
    }
    graph.source("more", [row(f"{thing} 8", right=True) for thing in THINGS[1::4]])
    graph.settings(sources=sources)
    graph.refresh()
    made = report(graph, "right")
    assert (made.tuned, made.reused) == (0, 6)
    assert set(made.frame["eval"]) == {"all", "held", "more"}
    graph.settings(trials=TRIALS | {"metrics": ["loss", "exact_match", "rouge_l"], "answer_tokens": 12})
    assert trial_todo(graph.workspace, "right").tune == 0
    made = make_trial(graph.workspace, "right")
    assert (made.tuned, made.measured) == (0, 2 * 7)
    answers = made.frame.filter(metric="rouge_l", eval="held")
    assert answers.filter(set="coreset")["mean"][0] >= 0
    runs = graph.folder / ".dselect" / "trials" / "runs"
    flipped = sorted(runs.glob("*/weights/*.safetensors"))[0]
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    graph.source("more", [row(f"{thing} 6", right=True) for thing in THINGS[1::4]])
    assert not graph.refresh().failed
    assert report(graph, "wrong").tuned + report(graph, "right").tuned == 1
    for weights in runs.glob("*/weights/*"):
        weights.unlink()
    graph.settings(trials=TRIALS | {"keep_models": False})
    assert trial_todo(graph.workspace, "right").tune == 0  # all marks are there
    graph.settings(sources={name: spec for name, spec in sources.items() if name != "held"})
    graph.source("more", [row(f"{thing} 7", right=True) for thing in THINGS[1::4]])
    graph.refresh()
    assert report(graph, "right").tuned == 6
    assert not list((graph.folder / ".dselect" / "trials" / "runs").glob("*/weights/*"))


NULL_DRAWS = 20 if os.environ.get("DSELECT_WALKS") == "all" else 6


def test_of_random_draws_at_most_two_in_twenty_are_called_better_or_worse(graph: Graph, record_property: Any) -> None:
    recipes = {f"draw-{seed}": recipe(seed=seed, trial=True, budget=30) for seed in range(NULL_DRAWS)}
    graph.settings(
        sources={"pool": {"path": "data/pool.json"}, "held": {"path": "data/held.json", "role": "eval"}},
        coresets={name: spec | {"trial": False} for name, spec in recipes.items()},
        trials=TRIALS | {"epochs": 1},
    )
    assert graph.refresh().is_whole
    graph.settings(coresets=recipes)
    words = [make_trial(graph.workspace, name).against_random.word for name in recipes]
    record_property(f"verdicts on {NULL_DRAWS} random draws", {word: words.count(word) for word in set(words)})
    assert sum(word != "no difference" for word in words) <= 2


def test_a_killed_trial_goes_on_and_tunes_what_was_left(graph: Graph, tmp_path: Path) -> None:
    graph.settings(coresets={"tried": recipe(seed=77)}, trials=TRIALS | {"seeds": 3, "keep_models": True})
    graph.refresh()
    graph.settings(coresets={"tried": recipe(seed=77, trial=True)})
    missing = trial_todo(graph.workspace, "tried").tune
    runs = graph.folder / ".dselect" / "trials" / "runs"
    before = set(runs.glob("*/run.json"))
    process = subprocess.Popen(
        [sys.executable, "-m", "dselect_dagster.cli", "refresh", "-c", str(graph.config)],
        cwd=graph.folder, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while len(set(runs.glob("*/run.json")) - before) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(set(runs.glob("*/run.json")) - before)
    assert trial_todo(graph.workspace, "tried").tune == missing - kept > 0
    assert not graph.refresh().failed
    assert report(graph, "tried").tuned == missing - kept
    stored = [json.loads(path.read_text()) for path in set(runs.glob("*/run.json")) - before]
    assert len(stored) == missing
