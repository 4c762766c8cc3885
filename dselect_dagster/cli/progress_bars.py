"""Progress bars of `dselect refresh`: one a unit of work, on the terminal; plain lines where there is none."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dselect_dagster.defs.progress_log import listening


class Bars:
    """Use as a context: `run` names a run as it starts, and the assets' progress moves the bars."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[reused]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._start = time.monotonic()
        self._listening = listening(self._moved)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def __enter__(self) -> "Bars":
        self._progress.start()
        self._listening.__enter__()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listening.__exit__(None, None, None)
        self._progress.stop()

    def run(self, what: str) -> None:
        self._tasks.clear()
        if not self.console.is_terminal:
            self.console.print(f"{self.seconds:6.1f} s  {what}", markup=False, highlight=False)

    def _moved(self, what: str, done: int, total: int, reused: int) -> None:
        told = f"{reused:,} reused" if reused else ""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, reused=told)
        self._progress.update(self._tasks[what], completed=done, total=total, reused=told)
