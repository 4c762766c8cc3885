"""Whether a person asked this process to stop, and the one way in which a computation obeys.

A signal sets the request and interrupts nothing. Long computations ask at points where what they did is whole: between
batches, blocks and steps, while they wait for replies, before they publish. So a stop never cuts a write in two.
Trade-off: what is between two such points is waited for; the command that set the request bounds the wait.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

_requested = threading.Event()
# Seconds between two looks while replies are waited for.
_LOOK_EVERY = 0.1
_T = TypeVar("_T")


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop. No `except Exception` catches it, and it ends an event loop and a Dagster run."""


def request_stop() -> None:
    """Ask all computations of this process to stop."""
    _requested.set()


def forget_request() -> None:
    """Take the request back: for a process that goes on after what it ran was stopped."""
    _requested.clear()


def stop_is_requested() -> bool:
    """Whether the process is to stop."""
    return _requested.is_set()


def raise_if_stopped() -> None:
    """Raises Stopped when the process is to stop."""
    if _requested.is_set():
        raise Stopped("stopped as asked")


async def until_stopped(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Await a coroutine, but cancel it and raise Stopped when the process is to stop."""
    task = asyncio.ensure_future(coroutine)
    while not task.done():
        if _requested.is_set():
            task.cancel()
            await asyncio.wait({task})
            raise_if_stopped()
        await asyncio.wait({task}, timeout=_LOOK_EVERY)
    return task.result()
