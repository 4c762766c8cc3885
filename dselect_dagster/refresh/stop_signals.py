"""Ctrl-C, SIGTERM and the end of a terminal during work: one signal stops in good order, a second one at once.

Dagster takes the signals of the main thread for itself while a run is at work, raises its own exception wherever the
code of an asset stands, and counts the run as a failure like any other. So the work is done in another thread, which
no signal reaches, and the main thread waits. The work looks for the request where what it did is whole
(dselect_core/stop.py), and Dagster ends the run that it stops in.

Trade-off: work that does not look in time (a model is being opened, one batch takes long) is left where it is after
GRACE_SECONDS. That is no more than a kill, which the store survives, and the finished rows are written before.
"""

import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from dselect_core.stop import Stopped, forget_request, request_stop, stop_is_requested
from dselect_core.storage.appender import flush_open_appenders

GRACE_SECONDS = 5.0
EXIT_CODE = 130
_LOOK_EVERY = 0.05
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_T = TypeVar("_T")


def run_stoppable(work: Callable[[], _T], on_stop: Callable[[], None]) -> _T:
    """Do the work in a thread of its own, and return or raise what it does.

    on_stop: called once, in this thread, when a stop was asked for and the work is not whole. Raises Stopped after the
    work has stopped for it; where it does not in time, the process ends here, with EXIT_CODE. Call it in the main
    thread.
    """
    finished = threading.Event()
    results: list[_T] = []
    errors: list[BaseException] = []

    def do() -> None:
        try:
            results.append(work())
        except KeyboardInterrupt as error:
            # A library may have taken Ctrl-C for itself: then the handler here was not called.
            request_stop()
            errors.append(error)
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    worker = threading.Thread(target=contextvars.copy_context().run, args=(do,), name="dselect", daemon=True)
    with _first_signal_stops() as received:
        worker.start()
        told = _wait(finished, on_stop)
        was_stopped = stop_is_requested()
    if (received or was_stopped) and not results:
        if not told:
            _tell(on_stop)
        raise Stopped("stopped by a signal") from (errors[0] if errors else None)
    if errors:
        raise errors[0]
    return results[0]


def _wait(finished: threading.Event, on_stop: Callable[[], None]) -> bool:
    """Wait for the work; returns whether on_stop was called. Work may stop between two looks, before it is told."""
    deadline = None
    while not finished.wait(_LOOK_EVERY):
        if stop_is_requested() and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
            _tell(on_stop)
        if deadline is not None and time.monotonic() > deadline:
            _leave()
    return deadline is not None


def _tell(on_stop: Callable[[], None]) -> None:
    # The terminal may be gone, which is why we stop.
    with contextlib.suppress(OSError):
        on_stop()


@contextlib.contextmanager
def _first_signal_stops() -> Iterator[list[int]]:
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        request_stop()
        # The next one needs no Python: it ends the process even while a library keeps the interpreter.
        for each in handlers:
            signal.signal(each, signal.SIG_DFL)

    # What the parent process ignores (nohup) stays ignored.
    handlers = {each: signal.getsignal(each) for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN}
    try:
        for each in handlers:
            signal.signal(each, stop)
        yield received
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        forget_request()


def _leave() -> None:
    try:
        flush_open_appenders()
    except Exception as error:  # whatever it is, the process ends, and the rows are computed again
        with contextlib.suppress(Exception):
            print(f"The part in hand could not be written: {error}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(EXIT_CODE)
