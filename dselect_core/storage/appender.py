"""Collects finished rows in memory and appends them to a store, many rows a part.

Trade-off: larger parts make a faster store; a process that is killed loses the rows that are not yet written.
"""

import threading
import time
from collections.abc import Callable

import polars as pl

from dselect_core.storage.score_store import Store

_open_appenders: set["Appender"] = set()


class Appender:
    """Appends rows to a store in parts: every `rows` rows or `seconds` seconds, and at the end.

    As a context manager it also writes the collected rows when the body fails, so an error loses no finished row. Only
    a process that is killed loses rows, at most one part of them. Threads may share it.
    """

    def __init__(
        self,
        store: Store,
        rows: int,
        seconds: float,
        conforming: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
    ):
        """conforming: returns a frame with the columns and types of the store, or raises."""
        self.store = store
        self.conforming = conforming
        self.rows = rows
        self.seconds = seconds
        self._frames: list[pl.DataFrame] = []
        self._last_flush = time.monotonic()
        self._lock = threading.RLock()

    def __enter__(self) -> "Appender":
        _open_appenders.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            _open_appenders.discard(self)

    def add(self, frame: pl.DataFrame) -> None:
        """Collect the rows of a frame. Writes a part when there are enough rows, or the last part is old enough."""
        conforming = self.conforming(frame)
        with self._lock:
            self._frames.append(conforming)
            row_count = sum(collected.height for collected in self._frames)
            if row_count >= self.rows or time.monotonic() - self._last_flush >= self.seconds:
                self.flush()

    def flush(self) -> None:
        """Write the collected rows now, as one part."""
        with self._lock:
            if self._frames:
                self.store.append(pl.concat(self._frames))
            self._frames = []
            self._last_flush = time.monotonic()


def flush_open_appenders() -> None:
    """Write what all appenders in use have collected: before the process ends without returning to them."""
    for appender in list(_open_appenders):
        appender.flush()
