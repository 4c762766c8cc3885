"""Rows that arise in one turn of an event loop are written together, as databases do it: a group commit.

For rows that cost money and are kept one by one (row_log.py): to write a row alone takes longer than to make it, and
where hundreds of calls are under way many end in one turn. Who hands in a row waits until it is written, so nothing
goes on that could be lost. Trade-off: a row is written one turn later, at most some milliseconds.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Collects rows until the next turn of the running loop, then writes them with one call."""

    def __init__(self, write: Callable[[list[T]], None]) -> None:
        """write: keeps the rows it is given; what it raises is raised by each of their `kept`."""
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []

    def kept(self, row: T) -> asyncio.Future[None]:
        """Hand in a row. The future is done when it is written, and it is written whether or not it is awaited."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._write_all)
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((row, done))
        return done

    def _write_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        failed: Exception | None = None
        try:
            self._write([row for row, _ in waiting])
        except Exception as error:
            failed = error
        for _, done in waiting:
            if done.done():  # who waited was cancelled; the row is written
                continue
            if failed is None:
                done.set_result(None)
            else:
                done.set_exception(failed)
