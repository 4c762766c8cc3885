"""Processes that die in the middle, and processes that work at the same time, end in the tables of one quiet run."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dselect_core.scores.provenance import store_of
from tests.e2e.content import assert_same, computed, write
from tests.e2e.from_scratch import FromScratch
from tests.e2e.graph import Graph, materialised
from tests.e2e.killed_refresh import environment
from tests.e2e.test_row_by_row import RECIPES, rows
from tests.tiny import save_llama

ROOT = Path(__file__).parents[2]
PART_ROWS = 16
KILLS = int(os.environ.get("DSELECT_KILLS", "5"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings and data, nothing made. One row a batch and parts of 16, so that scoring takes many steps."""
    graph = Graph(tmp_path_factory.mktemp("project"))
    model = save_llama(tmp_path_factory.mktemp("model"))
    write(graph.folder / "data" / "a" / "0.jsonl", rows(0, 120))
    write(graph.folder / "data" / "b" / "0.jsonl", rows(600, 40))
    graph.settings(
        model={"path": str(model), "batch_tokens": 1},
        sources={name: {"path": f"data/{name}"} for name in ("a", "b")},
        coresets=RECIPES,
        parts={"rows": PART_ROWS},
    )
    return graph.folder


@pytest.fixture(scope="module")
def undisturbed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return FromScratch(tmp_path_factory.mktemp("undisturbed")).of(Graph(project))


def test_killed_at_random_moments_of_scoring_at_most_one_part_is_lost_each_time(
    project: Path, undisturbed: Graph, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    log = tmp_path / "log"
    chance = random.Random()
    seed = chance.randrange(10**6)
    chance.seed(seed)
    print(f"seed {seed}")
    kills = 0
    # Moments are numbers of scored rows, spread over both passes; a run that ends before its moment is not a kill.
    for _ in range(3 * KILLS):
        if kills == KILLS:
            break
        moment = chance.randrange(2, 40)
        log.write_text("")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.killed_refresh", str(graph.folder), str(log)],
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and scored(log) < moment:
            time.sleep(0.002)
        process.kill()
        process.wait()
        if "finished" in log.read_text():
            continue
        kills += 1
        for kind, done in scored_by_kind(log).items():
            store = store_of(graph.workspace, kind)
            held = sum(part.frame.height for part in store.parts(store.keys))
            assert store.skipped == {}
            assert held > done - PART_ROWS, f"{kind}: {done} rows were done, {held} are kept"
    assert not graph.refresh().failed
    assert graph.refresh().runs == []
    assert kills == KILLS
    record_property("kills at random moments", kills)
    assert_same(graph, undisturbed)


def scored(log: Path) -> int:
    """Rows scored by this process."""
    return sum(max(done) for done in _done(log).values())


def scored_by_kind(log: Path) -> dict[str, int]:
    """Rows that must be held: by this process and by those before it, of the sources it reached."""
    found: dict[str, int] = {}
    for what, done in _done(log).items():
        for kind in ("difficulty", "embeddings", "prompts", "activations", "miwv"):
            if kind in what.split(" of ")[0]:
                found[kind] = found.get(kind, 0) + max(done)
    return found


def _done(log: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        what, *figures = line.split("\t")
        if len(figures) == 2 and ("difficulty" in what or what == "miwv"):
            found.setdefault(what, []).append(int(figures[0]) + int(figures[1]))
    return found


@pytest.mark.parametrize("homes", ["one instance", "an instance each"])
def test_two_refreshes_at_the_same_time_end_in_the_same_tables(
    project: Path, undisturbed: Graph, tmp_path: Path, homes: str
) -> None:
    graph = Graph(Path(shutil.copytree(project, tmp_path / "p")))
    command = [str(Path(sys.executable).with_name("dselect")), "refresh"]
    processes = []
    for i in range(2):
        home = {} if homes == "one instance" else {"DAGSTER_HOME": str(tmp_path / f"home{i}")}
        processes.append(
            subprocess.Popen(
                command,
                cwd=graph.folder,
                env=environment(**home),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    told = [process.communicate(timeout=300)[0] for process in processes]
    for process, said in zip(processes, told, strict=True):
        assert process.returncode == 0, said
        assert "failed" not in said
    waited = sum("Another refresh is at work here; this one waits" in said for said in told)
    assert waited == (homes == "one instance")
    if homes == "one instance":
        assert graph.refresh().runs == []
    else:
        # A third instance has seen nothing, and the store everything.
        figures = materialised(graph.refresh())
        assert set(computed(figures).values()) == {0}
    assert_same(graph, undisturbed)
    assert yaml.safe_load(graph.config.read_text())["parts"] == {"rows": PART_ROWS}
