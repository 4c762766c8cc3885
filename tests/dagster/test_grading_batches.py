"""The sensor on open batches, and the command that lists them: which a run would find something to do with."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dselect_core.graders.batch.shelf import Batch, Shelf
from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.cli import grades
from dselect_dagster.defs.graph import build_definitions
from tests.batch_server import BatchServer
from tests.core.test_batch_grading import answer, graded, workspace
from tests.core.test_openai_grader import _direct, samples  # noqa: F401  (a fixture)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(answer, hold=True) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, server: BatchServer) -> Path:
    """dselect.yaml of a storage with one batch of three rows, which the endpoint holds."""
    place = workspace(tmp_path / "storage", server, batch={"wait_seconds": 0})
    graded(place, samples(3))
    path = tmp_path / "dselect.yaml"
    path.write_text(yaml.safe_dump(place.settings.model_dump(mode="json", exclude_unset=True)))
    return path


def shelf_of(config: Path) -> Shelf:
    return Shelf(Workspace(load_settings(config)).batches)


def the_batch(config: Path) -> Batch:
    (batch,) = shelf_of(config).batches()
    return batch


def sensed(config: Path, *partitions: str) -> list[tuple[str | None, str | None]] | str:
    """(run key, partition) of what is asked for, or why nothing is."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("source", list(partitions))
        sensor = build_definitions(load_settings(config), str(config)).resolve_sensor_def("grading_batches")
        result = sensor(dg.build_sensor_context(instance=instance))
    if isinstance(result, dg.SkipReason):
        return str(result.skip_message)
    assert isinstance(result, dg.SensorResult)
    return [(request.run_key, request.partition_key) for request in result.run_requests or []]


def test_a_batch_that_has_ended_has_one_run_an_hour_of_its_source(config: Path, server: BatchServer) -> None:
    assert sensed(config, "a") == "batch_0: in_progress, 0 answered"
    server.hold = False
    ((first, source),), ((second, _),) = sensed(config, "a", "b"), sensed(config, "a")
    assert source == "a"
    assert str(first).rsplit(":", 1)[0] == str(second).rsplit(":", 1)[0]
    assert str(sensed(config, "b")).startswith("batch_0: completed")  # its source is not in the graph


def test_an_endpoint_that_does_not_answer_is_told(config: Path, server: BatchServer) -> None:
    server.batches.clear()
    assert "does not know that file or batch" in str(sensed(config, "a"))


def test_a_batch_that_nobody_waits_for_is_told_and_can_be_forgotten(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["grader"]["model"] = "judge-2"
    config.write_text(yaml.safe_dump(settings))
    grades.batches(config)
    told = " ".join(capsys.readouterr().out.split())
    assert "not asked for: no grader in force has its question" in told
    assert "is collected once they are in force again" in told
    assert "no grader in force" in str(sensed(config, "a"))
    grades.batches(config, forget="batch_0")
    assert "No batch is open." in capsys.readouterr().out
    assert shelf_of(config).batches() == []


def test_what_a_killed_process_did_not_submit_is_asked_for_after_a_while(config: Path, server: BatchServer) -> None:
    shelf, batch = shelf_of(config), the_batch(config)
    shelf.write(batch, batch_id=None)
    assert "not submitted yet" in str(sensed(config, "a"))
    shelf.write(batch, batch_id=None, begun_at=datetime.now(UTC) - timedelta(hours=1))
    assert len(sensed(config, "a")) == 1
    server.hold = False
    graded(Workspace(load_settings(config)), samples(3), run="s")  # it is found by its metadata
    assert list(server.batches) == ["batch_0"] and shelf.batches() == []
