"""Random histories of a small corpus: whatever was added, edited, deleted, moved, killed or budgeted on the way, the
tables are those of a fresh run on what is there in the end. Each refresh computes what its plan said.

Each history is a state machine's walk on the real graph, a refresh after each step; a kill is a real process, with an
instance of its own, and a real SIGKILL. `DSELECT_HISTORIES=200` sets how many are walked (a few by default); the
count is printed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.e2e.content import Row, assert_same, write
from tests.e2e.from_scratch import FromScratch
from tests.e2e.graph import Graph, assert_as_planned
from tests.e2e.killed_refresh import environment
from tests.e2e.test_row_by_row import rows
from tests.tiny import save_llama

HISTORIES = int(os.environ.get("DSELECT_HISTORIES", "6"))
STEPS = 3
ROOT = Path(__file__).parents[2]
SOURCES = ("a", "b")
BUDGETS = {"d3": ["10%", "30%", "60%"], "weak": [2, 5, 9], "wide": ["20%", "50%", "90%"]}
STRATEGIES = {"d3": "d3", "weak": "miwv", "wide": "mads"}
Rows = dict[str, list[Row]]

START: Rows = {"a": rows(0, 12), "b": [*rows(100, 6), rows(0, 12)[3]]}


class Histories(RuleBasedStateMachine):
    walked = 0
    compared = 0
    fresh: FromScratch
    start: Graph
    place: Path

    @initialize()
    def begin(self) -> None:
        # In one place always: a source in another folder is a source that changed.
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.start.folder, self.place)
        self.rows: Rows = {source: list(held) for source, held in START.items()}
        self.budgets = {name: options[1] for name, options in BUDGETS.items()}
        self.steps: list[str] = []
        self.killed = False  # since the last refresh: its process had a Dagster instance of its own
        # In memory, for it is new with each history; what is killed has an instance of its own, on disk.
        # Entered, as an instance that is not takes part of the state of whichever was entered last, dead or alive.
        self.open = contextlib.ExitStack()
        self.graph = Graph(self.place, self.open.enter_context(dg.DagsterInstance.ephemeral()))
        assert not self.graph.refresh().failed

    def _land(self, what: str) -> None:
        self.steps.append(what)
        for source in SOURCES:
            # Two files a source, written again only where they changed: an editor touches what it edits.
            half = len(self.rows[source]) // 2
            for name, part in (("0", self.rows[source][:half]), ("1", self.rows[source][half:])):
                path = self.place / "data" / source / f"{name}.jsonl"
                text = "".join(json.dumps(row) + "\n" for row in part)
                if not path.exists() or path.read_text() != text:
                    write(path, part)
                    os.utime(path, ns=(time.time_ns(), time.time_ns()))

    def _refresh(self, what: str) -> None:
        self._land(what)
        planned = self.graph.plan()
        done = self.graph.refresh()
        assert not done.failed, [run.errors for run in done.failed]
        # What a killed process with another Dagster instance left in the storage is no part of this instance's record.
        if not self.killed:
            type(self).compared += assert_as_planned(planned, done)
        self.killed = False

    @rule(source=st.sampled_from(SOURCES), number=st.integers(300, 340), at=st.integers(0, 5), n=st.integers(1, 3))
    def add(self, source: str, number: int, at: int, n: int) -> None:
        self.rows[source][at:at] = rows(number, n)
        self._refresh(f"add {n} to {source}")

    @rule(source=st.sampled_from(SOURCES), at=st.integers(0, 50), field=st.sampled_from(["instruction", "output"]))
    def edit(self, source: str, at: int, field: str) -> None:
        at %= len(self.rows[source])
        row = self.rows[source][at]
        self.rows[source][at] = row | {field: row[field] + " And more?"}
        self._refresh(f"edit {field} in {source}")

    @precondition(lambda self: all(len(held) > 4 for held in self.rows.values()))
    @rule(source=st.sampled_from(SOURCES), at=st.integers(0, 50), n=st.integers(1, 2))
    def delete(self, source: str, at: int, n: int) -> None:
        for _ in range(n):
            self.rows[source].pop(at % len(self.rows[source]))
        self._refresh(f"delete {n} from {source}")

    @precondition(lambda self: all(len(held) > 4 for held in self.rows.values()))
    @rule(source=st.sampled_from(SOURCES), at=st.integers(0, 50))
    def move(self, source: str, at: int) -> None:
        (other,) = set(SOURCES) - {source}
        self.rows[other].append(self.rows[source].pop(at % len(self.rows[source])))
        self._refresh(f"move from {source}")

    @rule(recipe=st.sampled_from(sorted(BUDGETS)), which=st.integers(0, 2))
    def budget(self, recipe: str, which: int) -> None:
        self.budgets[recipe] = BUDGETS[recipe][which]
        self.graph.settings(coresets=recipes(self.budgets))
        self._refresh(f"budget of {recipe}")

    @rule(source=st.sampled_from(SOURCES), number=st.integers(400, 420), moment=st.integers(0, 9))
    def kill(self, source: str, number: int, moment: int) -> None:
        """New rows, and the refresh that scores them is killed after so many steps of its progress."""
        self.rows[source] += rows(number, 8)
        self._land("kill")
        log = self.place / "progress.log"
        log.write_text("")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.killed_refresh", str(self.place), str(log)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(log.read_text().splitlines()) <= moment:
            time.sleep(0.002)
        process.kill()
        process.wait()
        self.killed = True

    def teardown(self) -> None:
        if not hasattr(self, "graph"):
            return
        with self.open:
            self._refresh("end")
            assert self.graph.refresh().runs == []
            assert_same(self.graph, self.fresh.of(self.graph))
        type(self).walked += 1


def recipes(budgets: dict[str, object]) -> dict[str, object]:
    return {name: {"strategy": STRATEGIES[name], "budget": budget} for name, budget in budgets.items()}


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """The corpus all histories begin with, scored once, at the place where they are walked."""
    place = tmp_path_factory.mktemp("histories") / "project"
    graph = Graph(place)
    place.mkdir()
    for source in SOURCES:
        half = len(START[source]) // 2
        write(place / "data" / source / "0.jsonl", START[source][:half])
        write(place / "data" / source / "1.jsonl", START[source][half:])
    graph.settings(
        model={"path": str(save_llama(tmp_path_factory.mktemp("model")))},
        sources={name: {"path": f"data/{name}"} for name in SOURCES},
        coresets=recipes({name: options[1] for name, options in BUDGETS.items()}),
        parts={"rows": 3},
    )
    assert not graph.refresh().failed
    Histories.place = place
    Histories.fresh = FromScratch(tmp_path_factory.mktemp("fresh"))
    Histories.start = Graph(Path(shutil.copytree(place, tmp_path_factory.mktemp("start") / "project")))
    yield graph


@pytest.mark.timeout(0)
def test_any_history_ends_in_the_tables_of_a_fresh_run(
    start: Graph, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing the histograms is a third of a small refresh, and other tests see to them.
    monkeypatch.setattr("dselect_dagster.defs.asset_metadata.png", lambda figure, title: dg.MetadataValue.md(title))
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="DSELECT_HISTORIES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            database=None,
            print_blob=False,
        ),
    )
    record_property("histories walked", Histories.walked)
    record_property("figures of plans that the runs confirmed", Histories.compared)
    assert Histories.walked >= HISTORIES
