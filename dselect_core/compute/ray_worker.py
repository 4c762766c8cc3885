"""A worker on a Ray cluster: a process that is given shards, one at a time, and keeps its model open between them.

Two more of its threads answer while a shard is computed: how far it is, and that it is to stop.
"""

import platform

from dselect_core.compute.shards import Outcome, Shard, Work
from dselect_core.errors import DselectError, known_error
from dselect_core.stop import Stopped, raise_if_stopped, request_stop
from dselect_core.version import __version__

THREADS = 3


class Worker:
    """The actor; the engine (ray_engine.py) starts it and talks to it. It returns errors of ours and raises others."""

    def __init__(self) -> None:
        self._done = (-1, 0)

    def ready(self) -> tuple[str, str]:
        """Its machine, and its version of dselect."""
        return platform.node(), __version__

    def run(self, number: int, work: Work, shard: Shard) -> Outcome | tuple[str, bool]:
        """Do the work on a shard; returns (the message, whether it may go well at another time) of an error of ours.

        A worker that is asked to stop ends the shard where it is, with its finished rows in the store.
        """

        def progress(done: int, total: int, reused: int = 0) -> None:
            raise_if_stopped()
            self._done = (number, done)

        self._done = (number, 0)
        try:
            return work.there()(shard, progress)
        except Stopped:
            return Outcome()
        except DselectError as error:
            return str(error), error.again
        except Exception as error:
            known = known_error(error)
            if known is None:
                raise
            return str(known), known.again

    def done(self) -> tuple[int, int]:
        """The number of the shard it is at, and how many of its rows are computed."""
        return self._done

    def stop(self) -> None:
        """End the shard at the next whole batch."""
        request_stop()
