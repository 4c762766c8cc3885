"""Random histories of a small corpus: whatever was added, edited, deleted, moved, wanted (a target example), budgeted,
divided over sources, chosen in rounds, killed, stopped by a signal, lost from the storage or refused by a full disk on
the way, the tables are those of a fresh run on what is there in the end. Each undisturbed refresh computes what its
plan said. No coreset is ever visible that no whole run made.

Each history is a state machine's walk on the real graph, a refresh after each step; a killed or stopped refresh is a
real process, with an instance of its own, and a real signal; a full disk is a file system in memory that is made as
small as what it holds, where one may be mounted. `DSELECT_HISTORIES=200` sets how many are walked (a few by default);
the count is printed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import dagster as dg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from dselect_core.coreset.published import FILES, MANIFEST, read_version
from dselect_core.errors import DselectError
from tests.e2e.content import Row, assert_same, assert_same_order, write
from tests.e2e.from_scratch import FromScratch
from tests.e2e.graph import Graph, assert_as_planned, errors
from tests.e2e.killed_refresh import environment
from tests.e2e.test_row_by_row import rows
from tests.tiny import save_llama

HISTORIES = int(os.environ.get("DSELECT_HISTORIES", "2"))
STEPS = 3
ROOT = Path(__file__).parents[2]
SOURCES = ("a", "b")
TARGET = "want"
"""A source of target examples, which `near` compares with."""
BUDGETS = {
    "d3": ["10%", "30%", "60%"],
    "weak": [2, 5, 9],
    "wide": ["20%", "50%", "90%"],
    "near": ["20%", 7, "70%"],
    "fed": ["20%", 8, "60%"],
}
FED = "fed"
"""d3 in two rounds: the second scores the pool by a model that is tuned on what the first chose."""
# Any of them can be met by any pool that the histories come to.
MIXTURES: list[dict[str, object]] = [
    {},
    {"balance": "source"},
    {"balance": {"by": "source", "how": "sqrt"}},
    {"quota": {"a": {"max": "95%"}, "b": {"min": "5%"}}},
    {"quota": {"a": {"min": 1}}},
]
ROUNDS: dict[str, dict[str, object]] = {FED: {"rounds": 2}}
STRATEGIES = {"d3": "d3", "weak": "miwv", "wide": "mads", "near": "targeted", "fed": "d3"}
Rows = dict[str, list[Row]]

START: Rows = {"a": rows(0, 12), "b": [*rows(100, 6), rows(0, 12)[3]], TARGET: rows(200, 3)}


def _mount(*arguments: str) -> bool:
    """Whether the mount succeeded: it needs the right to, and a system that has tmpfs."""
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


DISK = "64m"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "delete": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "flip": _flip,
}


class Histories(RuleBasedStateMachine):
    walked = 0
    compared = 0
    divided = 0
    disturbed_steps: ClassVar[Counter[str]] = Counter()
    fresh: FromScratch
    start: Graph
    place: Path

    @initialize()
    def begin(self) -> None:
        # In one place always: a source in another folder is a source that changed.
        self._unmount()
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.start.folder, self.place, ignore=shutil.ignore_patterns(".dselect"))
        self.storage = self.place / ".dselect"
        self.storage.mkdir()
        self.may_mount = _mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.storage))
        shutil.copytree(self.start.folder / ".dselect", self.storage, dirs_exist_ok=True)
        self.rows: Rows = {source: list(held) for source, held in START.items()}
        self.budgets = {name: options[1] for name, options in BUDGETS.items()}
        self.mixtures: dict[str, dict[str, object]] = {name: {} for name in BUDGETS}
        self.steps: list[str] = []
        # Since the last refresh: another process, with a Dagster instance of its own, or the test itself has written.
        self.disturbed = False
        # In memory, for it is new with each history; what is killed has an instance of its own, on disk.
        # Entered, as an instance that is not takes part of the state of whichever was entered last, dead or alive.
        self.open = contextlib.ExitStack()
        self.graph = Graph(self.place, self.open.enter_context(dg.DagsterInstance.ephemeral()))
        assert not self.graph.refresh().failed
        self.published = {recipe: self.graph.order(recipe) for recipe in BUDGETS}

    def _land(self, what: str) -> None:
        self.steps.append(what)
        for source in self.rows:
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
        # What another process left in the storage is no part of this instance's record.
        if not self.disturbed:
            type(self).compared += assert_as_planned(planned, done)
        self.disturbed = False
        self.published = {recipe: self.graph.order(recipe) for recipe in BUDGETS}

    def _disturb(self, what: str) -> None:
        self.disturbed = True
        type(self).disturbed_steps[what] += 1

    def _assert_coresets_are_whole(self) -> None:
        """Each visible coreset is the one before, or that of a whole run on what is there now; no file is another's."""
        for recipe, before in self.published.items():
            read_version(
                self.graph.workspace.coreset(recipe),
                lambda made: [made.read(name) for name in FILES if name != MANIFEST],
            )
            order = self.graph.order(recipe)
            if not order["sample_id"].equals(before["sample_id"]):
                assert_same_order(order, self.fresh.of(self.graph).order(recipe), recipe)
                self.published[recipe] = order  # a signal that came too late: the next may find this one

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

    @rule(number=st.integers(600, 620), goes=st.booleans())
    def want(self, number: int, goes: bool) -> None:
        wanted = self.rows[TARGET]
        if goes and len(wanted) > 1:
            wanted.pop(number % len(wanted))
        else:
            wanted += rows(number, 1)
        self._refresh(f"a target example {'goes' if goes else 'comes'}")

    @rule(recipe=st.sampled_from(sorted(BUDGETS)), which=st.integers(0, 2))
    def budget(self, recipe: str, which: int) -> None:
        self.budgets[recipe] = BUDGETS[recipe][which]
        self.graph.settings(coresets=recipes(self.budgets, self.mixtures))
        self._refresh(f"budget of {recipe}")

    @rule(recipe=st.sampled_from(sorted(BUDGETS)), which=st.integers(1, len(MIXTURES) - 1))
    def divide(self, recipe: str, which: int) -> None:
        self.mixtures[recipe] = {} if self.mixtures[recipe] == MIXTURES[which] else MIXTURES[which]
        self.graph.settings(coresets=recipes(self.budgets, self.mixtures))
        self._refresh(f"{recipe}: {self.mixtures[recipe]}")
        type(self).divided += 1

    @rule(
        source=st.sampled_from(SOURCES),
        number=st.integers(400, 420),
        moment=st.integers(0, 9),
        how=st.sampled_from([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
    )
    def stop(self, source: str, number: int, moment: int, how: signal.Signals) -> None:
        """New rows, and the refresh that scores them is killed, or stopped, after so many steps of its progress."""
        self.rows[source] += rows(number, 8)
        self._land(how.name)
        log = self.place / "progress.log"
        log.write_text("")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.slow_refresh", str(log), "0"],
            cwd=self.place,
            env=environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while process.poll() is None and len(log.read_text().splitlines()) <= moment:
            time.sleep(0.002)
        process.send_signal(how)
        told = process.communicate(timeout=120)[0]
        if how != signal.SIGKILL:
            assert process.returncode in (0, 130), told  # 0: it came too late
        self._disturb(how.name)
        self._assert_coresets_are_whole()

    @rule(which=st.integers(0, 10_000), how=st.sampled_from(sorted(DAMAGES)))
    def lose(self, which: int, how: str) -> None:
        """A file of the storage is lost or damaged. A refresh makes it again, or names it and its removal helps."""
        files = sorted(path for path in self.storage.rglob("*") if path.is_file() and "dagster" not in path.parts)
        path = files[which % len(files)]
        self.steps.append(f"{how} {path.relative_to(self.storage)}")
        DAMAGES[how](path)
        self._disturb(how)
        done = self.graph.refresh()
        if done.failed:
            assert path.name in errors(done) or path.parent.name in errors(done), (path, errors(done))
            path.unlink(missing_ok=True)
            done = self.graph.refresh()
        assert not done.failed, (path, errors(done))
        assert_same(self.graph, self.fresh.of(self.graph))

    @precondition(lambda self: self.may_mount)
    @rule(source=st.sampled_from(SOURCES), number=st.integers(500, 520), room=st.integers(0, 40))
    def fill_disk(self, source: str, number: int, room: int) -> None:
        """New rows, and a disk with room for so many pages: the refresh fails and says why, or there is room enough."""
        self.rows[source] += rows(number, 8)
        self._land("full disk")
        used = shutil.disk_usage(self.storage).used
        assert _mount("-o", f"remount,size={used + room * 4096}", str(self.storage))
        try:
            done = self.graph.refresh()
            assert not done.failed or "disk is full" in errors(done), errors(done)
        except (DselectError, OSError) as error:
            assert "disk is full" in str(error) or "No space left" in str(error), error
        finally:
            assert _mount("-o", f"remount,size={DISK}", str(self.storage))
        self._disturb("full disk")
        self._assert_coresets_are_whole()

    def teardown(self) -> None:
        if not hasattr(self, "graph"):
            return
        try:
            with self.open:
                self._refresh("end")
                assert self.graph.refresh().runs == []
                assert_same(self.graph, self.fresh.of(self.graph))
            type(self).walked += 1
        finally:
            self._unmount()

    def _unmount(self) -> None:
        if (self.place / ".dselect").is_mount():
            subprocess.run(["umount", str(self.place / ".dselect")], check=True)


def recipes(budgets: dict[str, object], mixtures: dict[str, dict[str, object]]) -> dict[str, object]:
    return {
        name: {"strategy": STRATEGIES[name], "budget": budget, **mixtures.get(name, {}), **ROUNDS.get(name, {})}
        for name, budget in budgets.items()
    }


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """The corpus all histories begin with, scored once, at the place where they are walked."""
    place = tmp_path_factory.mktemp("histories") / "project"
    graph = Graph(place)
    place.mkdir()
    for source in START:
        half = len(START[source]) // 2
        write(place / "data" / source / "0.jsonl", START[source][:half])
        write(place / "data" / source / "1.jsonl", START[source][half:])
    graph.settings(
        model={"path": str(save_llama(tmp_path_factory.mktemp("model")))},
        sources={name: {"path": f"data/{name}", "role": "target" if name == TARGET else "train"} for name in START},
        coresets=recipes({name: options[1] for name, options in BUDGETS.items()}, {}),
        parts={"rows": 3},
        feedback={"method": "full", "epochs": 1, "batch_tokens": 256, "learning_rate": 1e-3},
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
    # Drawing pictures is a large part of a small refresh, and other tests see to them.
    monkeypatch.setattr("dselect_dagster.defs.asset_metadata.png", lambda figure, title: dg.MetadataValue.md(title))
    monkeypatch.setattr("dselect_core.html_page.picture", lambda figure, words: words)
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
    record_property("disturbed steps", dict(sorted(Histories.disturbed_steps.items())))
    record_property("steps that divided a budget", Histories.divided)
    record_property("figures of plans that the runs confirmed", Histories.compared)
    assert Histories.walked >= HISTORIES


def test_a_history_of_budgets_divided_over_sources(start: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that both sources hold changes its group when it leaves the first, and no sample comes or goes."""
    monkeypatch.setattr("dselect_dagster.defs.asset_metadata.png", lambda figure, title: dg.MetadataValue.md(title))
    history = Histories()
    history.begin()
    try:
        history.divide("d3", 1)
        history.divide("wide", 4)
        shared = history.rows["a"].index(history.rows["b"][-1])
        history.delete("a", shared, 1)
        history.divide("weak", 3)
        history.budget("wide", 2)
        history.budget("d3", 0)
        history.add("b", 300, 0, 3)
        history.divide("wide", 2)
    finally:
        history.teardown()
