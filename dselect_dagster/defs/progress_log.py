"""Progress of a running asset: lines in the event log, at most one in ten seconds, and calls to listeners.

Dagster has no progress bar; the log is what the UI shows live. `dselect refresh` runs assets in its own process and
listens here to draw bars.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import dagster as dg

from dselect_core.stop import raise_if_stopped
from dselect_dagster.defs.run_errors import clean

SECONDS_BETWEEN_LINES = 10.0

# Called with (unit of work, rows done, rows to do, rows reused).
ProgressListener = Callable[[str, int, int, int], None]
_listeners: list[ProgressListener] = []


@contextlib.contextmanager
def listen_to_progress(listener: ProgressListener) -> Iterator[None]:
    """Within this context the listener is called with every step of progress of assets that run in this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class RunProgress:
    """A `dselect_core.progress.Progress` for one unit of work of a run: call it with (done, total).

    unit: the work as a person would name it, "difficulty of sharegpt". Neither begins nor goes on (it raises Stopped)
    after somebody asked to stop.
    """

    def __init__(self, context: dg.AssetExecutionContext, unit: str):
        raise_if_stopped()
        self._log = context.log
        self._unit = clean(unit)
        self._start = self._last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.monotonic() - self._start

    def __call__(self, done: int, total: int, reused: int = 0) -> None:
        """Tell the listeners, and the log where its last line is old enough. In rows, or tokens where those count."""
        for listener in _listeners:
            listener(self._unit, done, total, reused)
        raise_if_stopped()
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        rate = done / max(now - self._start, 1e-9)
        seconds_left = (total - done) / max(rate, 1e-9)
        reuse = f" ({reused:,} reused)" if reused else ""
        self._log.info(
            f"{self._unit}: {done:,}/{total:,}{reuse}, {rate:,.0f} per second, about {seconds_left:,.0f} s left"
        )
