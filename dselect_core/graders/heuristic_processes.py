"""The builtin grader over many samples: on all cores where there are enough, in their order, with the same values.

Each core has a process that is started by its own command and reads pickled samples. A pool of `multiprocessing` would
run the caller's script again in each, where that has no `if __name__ == "__main__"`, and may not be had at all inside a
process of such a pool. Trade-off: a process takes up to a second to start and 100 MB, so few rows stay in this one.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.graders.heuristic_grader import grade_messages
from dselect_core.graders.judge_reply import shorten

CHUNK_ROWS = 500
FEWEST_ROWS = 20_000
"""Fewer samples are graded in this process: they take some seconds of one core, and two processes were no faster."""

_CHUNKS_AHEAD = 4  # of each process; bounds what is in memory as Python objects

Graded = tuple[float | None, str | None, str | None]
"""Grade, line with the reasons, why there is no grade."""


def grade_in_order(messages: pl.Series) -> Iterator[list[Graded]]:
    """The grades of conversations (lists of structs as in SAMPLES), CHUNK_ROWS at a time, in their order.

    Raises DselectError where a process ends before its time.
    """
    chunks = [messages[start : start + CHUNK_ROWS] for start in range(0, len(messages), CHUNK_ROWS)]
    processes = min(_cores(), len(chunks))
    if processes < 2 or len(messages) < FEWEST_ROWS:
        yield from (grade_chunk(chunk.to_list()) for chunk in chunks)
        return
    with ExitStack() as stack:
        free: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(processes):
            free.put(stack.enter_context(_Process()))
        threads = stack.enter_context(ThreadPoolExecutor(processes))

        def grade(chunk: pl.Series) -> list[Graded]:
            process = free.get()
            try:
                return process.grade(chunk.to_list())
            finally:
                free.put(process)

        under_way: deque[Future[list[Graded]]] = deque()
        stack.callback(lambda: [future.cancel() for future in under_way])
        for chunk in chunks:
            under_way.append(threads.submit(grade, chunk))
            if len(under_way) > processes * _CHUNKS_AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def grade_chunk(conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[Graded]:
    """The grade of each conversation."""
    return [_graded(messages) for messages in conversations]


def _graded(messages: Sequence[Mapping[str, Any]]) -> Graded:
    try:
        return *grade_messages(messages), None
    except Exception as error:  # one strange text must not cost the others their grades
        return None, None, shorten(f"the checks failed: {type(error).__name__}: {error}")


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Process:
    """A process that grades what it is sent. It ends with this one, for then nothing can be read any more."""

    def __init__(self) -> None:
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "POLARS_MAX_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for this process, which ends the other
        )

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()  # it holds nothing
        self._process.communicate()

    def grade(self, conversations: list[list[dict[str, Any]]]) -> list[Graded]:
        """As `grade_chunk`, over there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(conversations, self._process.stdin)
            self._process.stdin.flush()
            graded: list[Graded] = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            raise DselectError(
                f"a process of the builtin grader ended with {code} before its time; is there memory enough? "
                "What was graded is kept: run `dselect refresh` again"
            ) from None
        return graded


def _serve() -> None:
    """Answer what comes by standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints is no answer
    while True:
        try:
            conversations = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(grade_chunk(conversations), answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
