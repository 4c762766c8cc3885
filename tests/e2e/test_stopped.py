"""Ctrl-C and SIGTERM: a real process gets a real signal while it is at each kind of work."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from filelock import FileLock

from dselect_core.scores.provenance import store_of
from dselect_core.stop import Stopped, raise_if_stopped, request_stop, stop_is_requested
from dselect_dagster.cli.app import STOPPING
from dselect_dagster.refresh.stop_signals import run_stoppable
from tests.e2e.content import assert_same, write
from tests.e2e.from_scratch import FromScratch
from tests.e2e.graph import TINY, Graph, materialised
from tests.e2e.killed_refresh import environment
from tests.e2e.test_row_by_row import RECIPES, rows
from tests.openai_server import OpenAIServer, Request, rating
from tests.tiny import save_llama

pytestmark = pytest.mark.some(2)

ROOT = Path(__file__).parents[2]
A, B = 40, 16
# No batch here takes a tenth of a second; the rest is Dagster's record of the run, on a machine that may be busy.
SECONDS_TO_EXIT = 10.0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings and data, nothing made. One row a batch, and parts so large that none is written before the end."""
    graph = Graph(tmp_path_factory.mktemp("project"))
    model = save_llama(tmp_path_factory.mktemp("model"))
    write(graph.folder / "data" / "a" / "0.jsonl", rows(0, A))
    write(graph.folder / "data" / "b" / "0.jsonl", rows(600, B))
    graph.settings(
        model={"path": str(model), "batch_tokens": 1},
        sources={name: {"path": f"data/{name}"} for name in ("a", "b")},
        coresets=RECIPES,
        parts={"rows": 10_000, "seconds": 1000.0},
    )
    return graph.folder


@pytest.fixture(scope="module")
def undisturbed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return FromScratch(tmp_path_factory.mktemp("undisturbed")).of(Graph(project))


@contextmanager
def at_work(
    graph: Graph, log: Path, reached: Callable[[], bool], seconds: float = 0.05, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """A refresh in a process of its own that has reached some moment."""
    log.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.slow_refresh", str(log), str(seconds)],
        cwd=graph.folder, env=environment(PYTHONPATH=str(ROOT), **more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not reached():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.wait()


def stop(process: subprocess.Popen[str], number: int) -> tuple[float, str]:
    """(seconds from the signal to the exit, what was printed). Fails unless it stopped in good order."""
    start = time.monotonic()
    process.send_signal(number)
    told = process.communicate(timeout=60)[0]
    seconds = time.monotonic() - start
    assert process.returncode == 130, told
    assert told.count(STOPPING) == 1
    after = told.partition(STOPPING)[2]
    assert after.strip() == "", after
    assert "Traceback" not in told
    return seconds, told


@pytest.mark.walk(1)
@pytest.mark.parametrize("unit", ["difficulty", "corpus_index"])
def test_an_interrupt_that_a_library_raises_stops_the_refresh_and_is_no_failure_of_a_step(
    unit: str, project: Path, undisturbed: Graph, tmp_path: Path
) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    with at_work(graph, tmp_path / "log", lambda: True, seconds=0, INTERRUPT_IN=unit) as process:
        told = process.communicate(timeout=120)[0]
    assert process.returncode == 130, told
    assert told.count(STOPPING) == 1 and "failed" not in told
    assert not (graph.folder / ".dselect" / "coresets").exists()
    done = graph.refresh()
    assert not done.failed and not done.still_stale
    assert_same(graph, undisturbed)


def lines(log: Path, unit: str) -> list[str]:
    return [line for line in log.read_text().splitlines() if unit in line.partition("\t")[0]]


def held(graph: Graph, kind: str) -> int:
    store = store_of(graph.workspace, kind)
    assert store.skipped == {}
    return sum(part.frame.height for part in store.parts(store.keys))


MOMENTS = {
    "the forward pass over the first source": ("difficulty", 9, signal.SIGINT),
    "the pass over samples with their shots": ("miwv", 9, signal.SIGTERM),
    "the search of neighbours": ("neighbors", 1, signal.SIGINT),
    "the choice of a coreset": ("coreset", 1, signal.SIGTERM),
    "landing": ("raw_dataset", 1, signal.SIGHUP),
}


@pytest.mark.walk(2)
@pytest.mark.parametrize("moment", MOMENTS)
def test_one_signal_stops_and_the_next_refresh_goes_on(
    moment: str, project: Path, undisturbed: Graph, tmp_path: Path, record_property: Any
) -> None:
    unit, step, number = MOMENTS[moment]
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    log = tmp_path / "log"
    with at_work(graph, log, lambda: len(lines(log, unit)) >= step) as process:
        units_before = {line.partition("\t")[0] for line in log.read_text().splitlines()}
        seconds, _ = stop(process, number)
    record_property(f"seconds from signal to exit in {moment}", round(seconds, 2))
    assert seconds < SECONDS_TO_EXIT
    with graph.instance() as instance:
        unfinished = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]
        assert not instance.get_runs(dg.RunsFilter(statuses=unfinished)), "it was left, and did not stop"
    # Nothing started after the signal, and nothing was published.
    assert {line.partition("\t")[0] for line in log.read_text().splitlines()} == units_before
    assert not list((graph.folder / ".dselect").glob("coresets/*/manifest.json"))
    kinds = ("difficulty", "embeddings", "prompts", "activations", "miwv")
    reached = {kind: len(lines(log, kind)) for kind in kinds}
    kept = {kind: held(graph, kind) if reached[kind] else 0 for kind in kinds}
    assert kept == reached, "a finished row was not written, or one was written that no step told"
    figures = materialised(graph.refresh())
    for kind, asset in (("difficulty", "difficulty_scores"), ("miwv", "miwv_values")):
        computed = sum(shown["rows computed"] for (name, _), shown in figures.items() if name == asset)
        assert computed == A + B - kept[kind]
    assert graph.refresh().runs == []
    assert_same(graph, undisturbed)


def test_a_grader_that_waits_for_replies_stops_and_keeps_the_grades_it_has(project: Path, tmp_path: Path) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    answered = 5

    def reply(request: Request) -> Any:
        # Five replies at once; the others an hour later than anybody waits.
        return rating(4) if len(server.requests) <= answered else rating(4, delay=30)

    with OpenAIServer(reply) as server:
        graph.settings(grader={"base_url": server.base_url, "model": "judge", "concurrency": 4})
        log = tmp_path / "log"
        with at_work(graph, log, lambda: len(server.requests) >= answered + 4, 0.0) as process:
            time.sleep(0.3)  # all are waiting now
            seconds, _ = stop(process, signal.SIGINT)
        assert seconds < SECONDS_TO_EXIT
        assert held(graph, "grades") == answered
        server.requests.clear()
        server.answer = lambda request: rating(4)
        figures = materialised(graph.refresh())
        grades = [shown for (name, _), shown in figures.items() if name == "dependability_grades"]
        assert sum(shown["rows computed"] for shown in grades) == A + B - answered == len(server.requests)


def test_the_warm_up_stops_between_two_steps(project: Path, tmp_path: Path) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    graph.settings(model={"path": "builtin"}, warmup=TINY | {"steps": 100_000})
    log = tmp_path / "log"
    with at_work(graph, log, lambda: len(lines(log, "warmup_model")) >= 3) as process:
        seconds, _ = stop(process, signal.SIGTERM)
    assert seconds < SECONDS_TO_EXIT
    assert not (graph.folder / ".dselect" / "models").exists()


def test_a_second_signal_stops_at_once(project: Path, tmp_path: Path) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    log = tmp_path / "log"
    with at_work(graph, log, lambda: len(lines(log, "difficulty")) >= 2, seconds=3.0) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)  # it is inside a step that takes three seconds
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert time.monotonic() - start < 1.0
        assert process.returncode == -signal.SIGINT, "130, as a shell counts it"


STUCK = """
import os, sys, time
from dselect_dagster.refresh.stop_signals import run_stoppable
from dselect_core.storage.appender import Appender
import polars as pl

class Store:
    def append(self, frame):
        open(sys.argv[1], "a").write(f"{frame.height}\\n")

def work():
    with Appender(Store(), 1000, 1000.0) as appender:
        appender.add(pl.DataFrame({"a": [1, 2, 3]}))
        print("stuck", flush=True)
        time.sleep(60)

run_stoppable(work, lambda: print("stopping", flush=True))
"""


def test_work_that_never_looks_is_left_after_a_few_seconds_and_its_finished_rows_are_written(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path / "rows")], env=environment(PYTHONPATH=str(ROOT)), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert time.monotonic() - start < 8
    assert process.stdout.read() == "stopping\n"
    assert (tmp_path / "rows").read_text() == "3\n"


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    code = STUCK.replace("time.sleep(60)", "time.sleep(2)")
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", code, str(tmp_path / "rows")], env=environment(PYTHONPATH=str(ROOT)), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


@pytest.mark.parametrize("command", ["plan", "status", "refresh"])
def test_a_command_that_waits_or_only_looks_says_one_line(command: str, project: Path, tmp_path: Path) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    home = graph.folder / ".dselect" / "dagster"
    home.mkdir(parents=True)
    # Another process holds what it needs: the right to refresh, or to open the instance.
    lock = FileLock(home / (".refresh.lock" if command == "refresh" else ".opening.lock"))
    with lock:
        process = subprocess.Popen(
            [sys.executable, "-m", "dselect_dagster.cli", command], cwd=graph.folder,
            env=environment(PYTHONPATH=str(ROOT)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        time.sleep(6)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=20)[0]
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "Stopped; no run was under way."
    assert "Traceback" not in told


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_stop_is_told_once_however_soon_the_work_ends_after_it(seconds: float) -> None:
    told: list[str] = []

    def work() -> None:
        request_stop()
        time.sleep(seconds)
        raise_if_stopped()

    with pytest.raises(Stopped):
        run_stoppable(work, lambda: told.append("stopping"))
    assert told == ["stopping"]
    assert not stop_is_requested()
    assert run_stoppable(lambda: 1, lambda: told.append("again")) == 1
    assert told == ["stopping"]
