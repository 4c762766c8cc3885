"""The builtin grader on several cores: the grades, the order and the failures of one, and no process left behind."""

import os
import signal
from pathlib import Path

import polars as pl
import pytest

from dselect_core.corpus.sample import MESSAGES
from dselect_core.errors import DselectError
from dselect_core.graders import heuristic_processes
from dselect_core.graders.grades import GRADES, grade
from dselect_core.settings.grader_spec import GraderSpec

ANSWERS = [
    "",
    "I am sorry, but I cannot help.",
    "2 + 2 = 5",
    "a a a a a a a a a a a a",
    "It is cut off in the mid",
    "Yes.",
]


def samples(count: int) -> pl.DataFrame:
    """Answers with and without faults; every 11th is no conversation at all, on which the checks fail."""
    conversations = [
        [None] if row % 11 == 5 else [("user", f"What is {row}?"), ("assistant", ANSWERS[row % 6] + " " * (row % 2))]
        for row in range(count)
    ]
    rows = [[turn and {"role": turn[0], "content": turn[1]} for turn in turns] for turns in conversations]
    return pl.DataFrame(
        {"sample_id": [f"{row:032x}" for row in range(count)], "messages": pl.Series(rows, dtype=MESSAGES)}
    )


def children() -> set[int]:
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_several_processes_grade_as_one_does_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heuristic_processes, "CHUNK_ROWS", 7)
    monkeypatch.setattr(heuristic_processes, "_cores", lambda: 2)
    rows = samples(143)
    alone = grade(rows, GraderSpec()).drop("graded_at")
    before, emitted, told = children(), [], []
    monkeypatch.setattr(heuristic_processes, "FEWEST_ROWS", 143)
    seen: set[int] = set()

    def emit(frame: pl.DataFrame) -> None:
        emitted.append(frame)
        seen.update(children() - before)

    together = grade(rows, GraderSpec(), lambda done, total, reused=0: told.append((done, total)), emit)
    assert len(seen) == 2, "it did not run in other processes"
    assert together.drop("graded_at").equals(alone)
    assert pl.concat(emitted).drop("graded_at").equals(alone)
    assert told == [(min(done, 143), 143) for done in range(7, 150, 7)]
    assert alone["grade"].null_count() == alone["error"].count() == 13
    assert alone["grade"].n_unique() > 3
    assert children() == before
    assert together.schema == GRADES.schema()


def test_a_process_that_dies_is_an_error_and_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heuristic_processes, "CHUNK_ROWS", 5)
    monkeypatch.setattr(heuristic_processes, "FEWEST_ROWS", 10)
    monkeypatch.setattr(heuristic_processes, "_cores", lambda: 2)
    before = children()
    chunks = heuristic_processes.grade_in_order(samples(400)["messages"])
    next(chunks)
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(DselectError, match="ended with -9"):
        list(chunks)
    assert children() == before
