"""A process that ends in the middle of grading by batches: the next one goes on, and nothing is bought twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.graders.batch import batch_grader
from dselect_core.graders.batch.endpoint import BatchEndpoint
from dselect_core.graders.batch.shelf import Batch, Shelf
from dselect_core.graders.spend import Ledger
from tests.batch_server import BatchServer
from tests.core.test_batch_grading import answer, billed, counting, graded, open_batches, workspace
from tests.core.test_openai_grader import _direct, samples  # noqa: F401  (a fixture)
from tests.openai_server import Reply, error

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(answer) as server:
        yield server


class Killed(BaseException):
    """A process that ends at once, as far as the storage can tell."""


# On record, booked, reserved, uploaded, may exist, made, booked, taken off.
WRITES = range(1, 9)


@pytest.mark.walk(4)
@pytest.mark.parametrize("at", WRITES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_ends_at_any_write_is_gone_on_with(
    tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch, when: str, at: int
) -> None:
    """A kill before, or after, one of the writes to the shelf and the ledger; then a run that goes on."""
    server.answer = counting(server, answer)
    rows, place, begun = samples(2), workspace(tmp_path, server), 0

    def killing(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal begun
            begun += 1
            is_now = begun == at
            if is_now and when == "before":
                raise Killed
            result = inner(*args, **kwargs)
            if is_now:
                raise Killed
            return result

        return call

    for name in ("write", "remove"):
        monkeypatch.setattr(Shelf, name, killing(getattr(Shelf, name)))
    monkeypatch.setattr(batch_grader, "book", killing(batch_grader.book))
    kept: list[pl.DataFrame] = []
    with pytest.raises(Killed):
        graded(place, rows, kept=kept)
    if not kept:  # else the store has them, and nothing is missing
        graded(place, rows, kept=kept)
        assert open_batches(place) == 0
    assert pl.concat(kept)["grade"].null_count() == 0
    assert server.asked.total() == rows.height
    assert billed(place) == server.billed
    assert Ledger.of(place).calls()["may_have_cost"].sum() == 0
    assert begun >= max(WRITES)


GRADING = """
import sys
from pathlib import Path
from tests.core import test_batch_grading as t
class Server:
    base_url = sys.argv[2]
t.graded(t.workspace(Path(sys.argv[1]), Server()), t.samples(9))
"""


@pytest.mark.walk(1)
@pytest.mark.parametrize("moment", ["upload", "create", "made", "content"])
def test_a_process_that_is_killed_while_the_endpoint_works_buys_nothing_twice(
    tmp_path: Path, server: BatchServer, moment: str
) -> None:
    """Killed as the file arrives, before the batch is made, after it is and before that is told, and at the output."""
    server.answer = counting(server, answer)
    process: subprocess.Popen[bytes]

    def kill(n: int) -> Reply | None:
        if n:
            return None
        process.send_signal(signal.SIGKILL)
        process.wait()
        return error(500)

    setattr(server.faults, moment, kill)
    command = [sys.executable, "-c", GRADING, str(tmp_path), server.base_url]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.wait(60) == -9
    place = workspace(tmp_path, server)
    assert graded(place, samples(9), run="s")["grade"].null_count() == 0
    assert len(server.batches) == 1 and set(server.asked.values()) == {1}
    assert open_batches(place) == 0
    assert billed(place) == server.billed


@pytest.mark.parametrize("made", [False, True])
def test_after_a_switch_what_was_not_submitted_is_asked_live(
    tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    create = BatchEndpoint.create

    def killed(self: BatchEndpoint, batch: Batch) -> None:
        if made:
            create(self, batch)
        raise Killed

    monkeypatch.setattr(BatchEndpoint, "create", killed)
    with pytest.raises(Killed):
        graded(workspace(tmp_path, server), samples(3))
    place = workspace(tmp_path, server, mode="live")
    assert graded(place, samples(3))["grade"].null_count() == 0
    assert (server.asked.total(), server.live) == ((3, 1) if made else (0, 4))
    assert open_batches(place) == 0
