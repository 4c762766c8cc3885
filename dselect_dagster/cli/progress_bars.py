"""Progress bars of `dselect refresh`: one a unit of work, on the terminal; plain lines where there is none."""

import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dselect_dagster.cli.console import err
from dselect_dagster.defs.progress_log import listen_to_progress


class ProgressBars:
    """Use as a context: `start_run` names a run as it starts, and the assets' progress moves the bars."""

    def __init__(self) -> None:
        self._progress = Progress(
            # Names of sources are in the description, and these columns would read them as markup.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[reused]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._start = time.monotonic()
        self._listening = listen_to_progress(self._update)

    @property
    def seconds(self) -> float:
        """Since the bars were made."""
        return time.monotonic() - self._start

    def __enter__(self) -> "ProgressBars":
        self._progress.start()
        self._listening.__enter__()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listening.__exit__(None, None, None)
        self.stop()

    def stop(self) -> None:
        """Take the bars off the terminal, and give it its cursor back."""
        self._progress.stop()

    def start_run(self, run: str) -> None:
        """A run of this name starts: its bars are new ones."""
        self._tasks.clear()
        if not err.is_terminal:
            err.print(f"{self.seconds:6.1f} s  {run}")

    def _update(self, unit: str, done: int, total: int, reused: int) -> None:
        reuse = f"{reused:,} reused" if reused else ""
        if unit not in self._tasks:
            self._tasks[unit] = self._progress.add_task(unit, total=total, reused=reuse)
        self._progress.update(self._tasks[unit], completed=done, total=total, reused=reuse)
