"""Grades by batches in the graph: submitted, told, waited for without a worker, collected by a run of the sensor."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dselect_core.scores.try_grades import try_grades
from dselect_core.settings.grader_spec import GraderSpec
from dselect_dagster.cli import grades
from dselect_dagster.cli.batches import print_waiting
from dselect_dagster.cli.money import print_spend_of_refresh
from dselect_dagster.defs.graph import build_definitions
from tests.batch_server import BatchServer
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, errors, materialised, settings_of
from tests.openai_server import Reply, Request, rating
from tests.tiny import save_llama

ROWS = 12


def judge(request: Request) -> Reply:
    return rating(2 + len(request.text) % 3, usage=(100, 10))


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(judge, hold=True) as server:
        yield server


@pytest.fixture
def graph(tmp_path: Path, server: BatchServer) -> Graph:
    graph = Graph(tmp_path)
    graph.source("a", alpaca(WORDS[:ROWS]))
    graph.sources("a")
    graph.settings(
        model={"path": str(save_llama(tmp_path / "model"))},
        coresets={"best": {"strategy": "topk:grade", "budget": 4}},
    )
    return use(graph, server)


def use(graph: Graph, server: BatchServer, **options: object) -> Graph:
    grader = {
        "base_url": server.base_url, "model": "judge-1", "mode": "batch", "max_tokens": 10,
        "usd_per_million_tokens": {"prompt": 1000.0, "completion": 10_000.0},
        "batch": {"wait_seconds": 0},
    }  # fmt: skip
    graph.settings(grader=grader | options)
    return graph


def sensed(graph: Graph) -> list[dg.RunRequest] | str:
    """What the sensor asks for, or why it asks for nothing."""
    defs = build_definitions(settings_of(graph), str(graph.config))
    with graph.instance() as instance:
        result = defs.resolve_sensor_def("grading_batches")(dg.build_sensor_context(instance=instance))
    if isinstance(result, dg.SkipReason):
        return str(result.skip_message)
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or [])


def test_a_batch_is_submitted_told_and_collected(
    graph: Graph, server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sensed(graph) == "no open batch"
    done = graph.refresh()
    assert materialised(done)["dependability_grades", "a"]["rows in batches"] == ROWS
    assert f"{ROWS} failed grades are tried again" in str(done.still_lost)  # so `dselect refresh` exits with 1
    print_waiting(graph.workspace)
    print_spend_of_refresh(graph.workspace, done.refresh_id)
    grades.batches(graph.config)
    told = " ".join(capsys.readouterr().out.split())
    assert f"waiting: {ROWS} rows of a are in batch batch_0 since" in told
    assert f"{ROWS} calls are in batches: not counted above, $" in told
    assert f"batch_0 a in_progress, 0 answered {ROWS} 0.0 $" in told
    (step,) = [step for step in graph.plan().steps if step.asset == "dependability_grades"]
    assert (step.computed, step.bought) == (ROWS, {})
    assert try_grades(graph.workspace, 5).frame.is_empty()
    assert str(sensed(graph)) == "batch_0: in_progress, 0 answered"

    server.hold = False
    (request,) = sensed(graph)
    assert isinstance(request, dg.RunRequest) and request.partition_key == "a"
    assert request.asset_selection == [dg.AssetKey("dependability_grades")]
    defs = build_definitions(settings_of(graph), str(graph.config))
    with graph.instance() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(
            instance=instance, asset_selection=request.asset_selection, partition_key=request.partition_key
        ).success
    assert sensed(graph) == "no open batch"
    done = graph.refresh()
    assert done.is_whole, errors(done)
    assert graph.order("best").height == 4
    assert list(server.batches) == ["batch_0"] and set(server.asked.values()) == {1} and server.live == 1

    use(graph, server, mode="live")  # which is no other grader
    assert graph.plan().steps == []
    whole = GraderSpec.model_validate(graph.workspace.settings.grader.model_dump()).price
    use(graph, server)
    graph.source("a", alpaca(WORDS[: ROWS + 1]))
    plan, settings = graph.plan(), settings_of(graph)
    assert whole is not None and plan.usd(settings) == pytest.approx(whole.usd(*plan.judge_tokens) / 2)
