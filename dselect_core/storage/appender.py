"""Collects finished rows in memory and appends them to a store, many rows a part.

Trade-off: larger parts make a faster store; a process that is killed loses the rows that are not yet written. Where
that is too much, for rows that cost money, each row is logged as it comes (row_log.py).
"""

import threading
import time
from collections.abc import Callable

import polars as pl

from dselect_core.storage.files import is_local
from dselect_core.storage.row_log import RowLog
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import stamped

UNLOGGED_ROWS, UNLOGGED_SECONDS = 100, 5.0
"""A part of costly rows is written as often as that where they cannot be logged: in an object store."""

LOGGED_ROWS = 1000
"""And as often as that where they are: a log is read whole, one row at a time."""

_open_appenders: set["Appender"] = set()


class Appender:
    """Appends rows to a store in parts: every `rows` rows or `seconds` seconds, and at the end.

    As a context manager it also writes the collected rows when the body fails, so an error loses no finished row. Only
    a process that is killed loses rows, at most one part of them; none where they are `costly`, and in an object store
    at most UNLOGGED_ROWS of them. Threads may share it.
    """

    def __init__(
        self,
        store: Store,
        rows: int,
        seconds: float,
        conforming: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
        *,
        costly: bool = False,
    ):
        """conforming: returns a frame with the columns and types of the store, or raises."""
        self.store = store
        self.conforming = conforming
        is_logged = costly and store.array_column is None and is_local(store.folder)
        self._log = RowLog(store.folder) if is_logged else None
        if costly:
            rows = min(rows, LOGGED_ROWS if is_logged else UNLOGGED_ROWS)
            seconds = seconds if is_logged else min(seconds, UNLOGGED_SECONDS)
        self.rows = rows
        self.seconds = seconds
        self._frames: list[pl.DataFrame] = []
        self._row_count = 0
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
            if self._log is not None and conforming.height:
                conforming = stamped(conforming)
                self._log.append(conforming)
            self._frames.append(conforming)
            self._row_count += conforming.height
            if self._row_count >= self.rows or time.monotonic() - self._last_flush >= self.seconds:
                self.flush()

    def flush(self) -> None:
        """Write the collected rows now, as one part."""
        with self._lock:
            if self._frames:
                self.store.append(pl.concat(self._frames))
            self._frames = []
            self._row_count = 0
            if self._log is not None:
                self._log.discard()
                self._log = RowLog(self.store.folder)
            self._last_flush = time.monotonic()


def flush_open_appenders() -> None:
    """Write what all appenders in use have collected: before the process ends without returning to them."""
    for appender in list(_open_appenders):
        appender.flush()
