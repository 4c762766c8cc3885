"""Progress of a running asset: lines in the event log, at most one in ten seconds, and bars where someone listens.

Dagster has no progress bar; the log is what the UI shows live. `dselect refresh` runs in the foreground and
listens here to draw bars.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import dagster as dg

LOG_SECONDS = 10.0

# (what, rows done, rows to do, rows reused); set by the command line while it runs assets in its own process.
Listener = Callable[[str, int, int, int], None]
_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Progress:
    """Call it with (done, total). One per unit of work, named as a person would name it."""

    def __init__(self, context: dg.AssetExecutionContext, what: str):
        self.log = context.log
        self.what = what
        self.start = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def __call__(self, done: int, total: int, reused: int = 0) -> None:
        for listener in _listeners:
            listener(self.what, done, total, reused)
        now = time.monotonic()
        if now - self.last < LOG_SECONDS:
            return
        self.last = now
        rate = done / max(now - self.start, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        kept = f" ({reused:,} reused)" if reused else ""
        self.log.info(f"{self.what}: {done:,}/{total:,}{kept}, {rate:,.0f} per second, about {left:,.0f} s left")
