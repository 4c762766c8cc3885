"""Finished rows on their way into a store: held for a little, then written as a part."""

import time
from collections.abc import Callable

import polars as pl

from dselect_core.storage.score_store import Store


class Appender:
    """Collects rows and appends them to a store as parts: every `rows` rows or `seconds` seconds, and at the end.

    As a context it writes what it holds also when the work inside fails, so an error costs no finished row; only a
    process that is killed loses what had not been written, at most one part.
    """

    def __init__(
        self,
        store: Store,
        rows: int,
        seconds: float,
        conforming: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
    ):
        """conforming: brings each frame to the columns and types of the store, or raises."""
        self.store = store
        self.conforming = conforming
        self.rows = rows
        self.seconds = seconds
        self._held: list[pl.DataFrame] = []
        self._since = time.monotonic()

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, frame: pl.DataFrame) -> None:
        self._held.append(self.conforming(frame))
        if sum(f.height for f in self._held) >= self.rows or time.monotonic() - self._since >= self.seconds:
            self.flush()

    def flush(self) -> None:
        if self._held:
            self.store.append(pl.concat(self._held))
        self._held = []
        self._since = time.monotonic()
