"""Tasks of lm-evaluation-harness in the graph: what planted selections score, and what is measured when one changes."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.lm import load
from dselect_core.select import strategies
from dselect_core.trials.compare import compare
from dselect_core.trials.compare_page import comparison_page
from dselect_core.trials.lm_eval_tasks import TaskError
from dselect_core.trials.report import TrialReport, read_report
from dselect_dagster.cli.render import print_comparison
from tests.core.test_trial_tasks import write_task
from tests.e2e.graph import Graph, assert_as_planned, errors, materialised
from tests.e2e.test_trials_runs import HELD, ROWS, THINGS, TRIALS, planted, row
from tests.tiny import save_llama

pytestmark = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason='lm-evaluation-harness is not installed: pip install -e ".[lm-eval]"'
)
SETS = {"wrong": "takes_wrong", "right": "takes_right"}
RUNS = 2 * 2 + 4  # the coresets' seeds, and the draws that they share


def choices(things: list[str]) -> list[dict[str, Any]]:
    """Which answer belongs to the question: the right one, or one of other letters that is as long."""
    rows = ((thing, [row(thing, right=right)["output"] for right in (True, False)]) for thing in things)
    return [{"question": f"Say it: {thing}", "choices": answers, "gold": 0} for thing, answers in rows]


def tasks(graph: Graph, *names: str, **changed: Any) -> dict[str, Any]:
    return TRIALS | {"tasks": list(names), "task_path": "tasks"} | changed


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    for strategy in (planted("takes_wrong", first=True), planted("takes_right", first=False)):
        strategies.register(strategy)
    graph = Graph(tmp_path_factory.mktemp("tasks"))
    graph.source("pool", ROWS)
    graph.source("held", HELD)
    write_task(graph.folder / "tasks", "choice", choices(THINGS))
    graph.settings(
        model={"path": str(save_llama(tmp_path_factory.mktemp("model")))},
        sources={"pool": {"path": "data/pool.json"}, "held": {"path": "data/held.json", "role": "eval"}},
        coresets={name: {"strategy": strategy, "budget": 60, "trial": True} for name, strategy in SETS.items()},
        trials=tasks(graph, "choice"),
    )
    planned = graph.plan()
    assert planned.evaluations == 2 * (2 + 4 + 1) * 2
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert_as_planned(planned, done)
    yield graph
    for name in SETS.values():
        strategies.unregister(name)


def report(graph: Graph, recipe: str) -> TrialReport:
    found = read_report(graph.workspace, recipe)
    assert found is not None
    return found


def test_right_answers_score_above_random_and_wrong_ones_below(graph: Graph) -> None:
    against_random = {}
    for name in SETS:
        found = report(graph, name)
        assert found.tasks == ["choice"]
        assert set(found.frame.filter(metric="loss")["eval"]) == {"all", "held"}
        accuracy = found.frame.filter(eval="choice", metric="acc")
        assert accuracy["set"].to_list() == ["coreset", "random", "untuned"]
        of_random = accuracy.filter(set="random").row(0, named=True)
        mean = accuracy.filter(set="coreset")["mean"][0]
        assert of_random["better_by"] == pytest.approx(mean - of_random["mean"])
        against_random[name] = of_random
    assert against_random["right"]["low"] > 0
    assert against_random["wrong"]["high"] < 0


def test_the_marks_of_every_run_are_kept_row_by_row(graph: Graph) -> None:
    stored = [pl.read_parquet(path) for path in (graph.folder / ".dselect/trials/marks").glob("*/task-*.parquet")]
    assert len(stored) == RUNS + 1
    assert {frame.height for frame in stored} == {len(THINGS)}
    means = sorted(frame["value"].mean() for frame in stored)  # type: ignore[type-var]
    of_sets = report(graph, "right").frame.filter(eval="choice")
    assert of_sets.filter(set="coreset")["mean"][0] == pytest.approx(sum(means[-2:]) / 2)


def test_they_are_shown_by_compare_and_by_its_page(graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    compared = compare(graph.workspace)
    print_comparison(compared)
    accuracy = report(graph, "right").frame.filter(eval="choice", set="coreset")["mean"][0]
    assert f"right choice acc {accuracy:.4f}" in " ".join(capsys.readouterr().out.split())
    page = comparison_page(compared, graph.workspace.settings.trials, "0")
    assert "<h2>On tasks</h2>" in page and "<td>choice</td>" in page


def test_a_new_task_costs_evaluations_only_and_an_edited_one_is_measured_again_alone(graph: Graph) -> None:
    write_task(graph.folder / "tasks", "more", choices(THINGS[::2]))
    for given, measured in (
        (tasks(graph, "choice", "more"), RUNS + 1),
        (tasks(graph, "more"), 0),
        (tasks(graph, "choice", "more", task_limit=5), 2 * (RUNS + 1)),
        (tasks(graph, "choice", "more"), 0),
    ):
        graph.settings(trials=given)
        planned = graph.plan()
        done = graph.refresh()
        assert_as_planned(planned, done)
        figures = materialised(done)
        assert {figures["trial", name]["runs tuned"] for name in SETS} == {0}
        assert sum(figures["trial", name]["marks measured"] for name in SETS) == measured
        assert "choice acc: better than random by" in figures["trial", "right"] or "choice" not in given["tasks"]
        assert graph.plan().steps == []
        assert graph.refresh().runs == []
    write_task(graph.folder / "tasks", "more", choices(THINGS[::3]))
    assert {(step.asset, step.computed) for step in graph.plan().steps} == {("trial", 0)}
    figures = materialised(graph.refresh())
    assert sum(figures["trial", name]["marks measured"] for name in SETS) == RUNS + 1
    assert graph.refresh().runs == []


def test_what_a_task_took_prices_the_next_plan(graph: Graph) -> None:
    write_task(graph.folder / "tasks", "priced", choices(THINGS[:6]))
    graph.settings(trials=tasks(graph, "priced"))
    before = graph.plan().tokens
    graph.refresh()
    graph.settings(trials=tasks(graph, "priced") | {"draws": 5})
    tuned = TRIALS | {"draws": 5}
    with_task = graph.plan().tokens
    graph.settings(trials=tuned)
    of_task = with_task - graph.plan().tokens
    assert 0 < of_task < 6 * 2 * 100 * 2 < before  # a draw more of both recipes, on 6 rows of 2 short answers


def test_a_task_that_is_not_there_is_told_before_anything_is_tuned(graph: Graph) -> None:
    graph.settings(trials=tasks(graph, "arc_esy") | {"epochs": 3})
    with pytest.raises(TaskError, match=r"no task `arc_esy`; did you mean `arc_easy`\?"):
        graph.plan()
    tuned = set((graph.folder / ".dselect/trials/runs").iterdir())
    assert "no task `arc_esy`" in errors(graph.refresh())
    assert set((graph.folder / ".dselect/trials/runs").iterdir()) == tuned


def test_a_plan_of_a_model_of_the_trials_own_opens_no_weights(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.settings(trials=TRIALS | {"model": str(save_llama(tmp_path / "other", seed=3))})

    def opened(*_: Any) -> Any:
        raise AssertionError("the plan opened a model")

    monkeypatch.setattr(load, "load", opened)
    steps = {step.partition: (step.asset, step.computed) for step in graph.plan().steps}
    assert steps == {"right": ("trial", 6), "wrong": ("trial", 6)}
