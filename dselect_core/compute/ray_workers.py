"""The workers that this process has on a Ray cluster: started as there is room, kept from one score to the next.

A worker keeps its model open, so what comes after opens none. They end with this process, whichever way it ends: Ray
sees to that. Trade-off: until then they hold their CPUs and GPUs, idle or not.
"""

import logging
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dselect_core.compute import ray_cluster
from dselect_core.compute.ray_worker import THREADS, Worker
from dselect_core.errors import DselectError, UnreachableError
from dselect_core.settings.compute_spec import ComputeSpec
from dselect_core.version import __version__

STARTS = 4
"""So many workers may die one after another before any of them is ready."""
NO_ROOM_SECONDS = 900.0
"""So long a run waits for a node that could hold a worker at all: a cluster may have to start one."""
_ROOM_EVERY = 2.0

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class LiveWorker:
    """A worker that is ready. number: from 1 on; host: its machine."""

    actor: Any = field(repr=False)
    number: int
    host: str


class Workers:
    """Workers under one `compute` of the settings: those that start, and those that are idle."""

    def __init__(self, ray: Any, spec: ComputeSpec):
        self.ray = ray
        self.idle: list[LiveWorker] = []
        self.starting: dict[Any, Any] = {}
        self._spec = spec
        self._actor = ray.remote(
            num_cpus=ray_cluster.CPUS_PER_WORKER, num_gpus=spec.gpus_per_worker, max_concurrency=THREADS
        )(Worker)
        self._number = 0
        self._failed_starts = 0
        self._room, self._room_seen = ray_cluster.room(ray, spec), 0.0
        self._no_room_since: float | None = None

    @property
    def limit(self) -> int:
        """So many at a time. One is asked for even where no node could hold it: a cluster that can grow then does."""
        return self._spec.workers or max(1, self._room)

    def start(self, wanted: int, busy: int) -> None:
        """Start workers where there is room, until `wanted` are there. busy: those that compute.

        Raises UnreachableError where for NO_ROOM_SECONDS no node is large enough for a worker.
        """
        now = time.monotonic()
        if now - self._room_seen >= _ROOM_EVERY:
            self._room, self._room_seen = ray_cluster.room(self.ray, self._spec), now
            self._wait_for_room(now)
        for _ in range(min(self.limit, wanted) - busy - len(self.idle) - len(self.starting)):
            actor = self._actor.remote()
            self.starting[actor.ready.remote()] = actor

    def _wait_for_room(self, now: float) -> None:
        if self._room:
            self._no_room_since = None
            return
        needs = f"{ray_cluster.CPUS_PER_WORKER} CPU and {self._spec.gpus_per_worker:g} GPUs"
        if self._no_room_since is None:
            self._no_room_since = now
            _log.warning("no node of the Ray cluster holds a worker, which needs %s; waiting for one", needs)
        elif now - self._no_room_since > NO_ROOM_SECONDS:
            raise UnreachableError(
                f"compute: no node of the Ray cluster holds a worker, which needs {needs}. Add a node, or change "
                "`gpus_per_worker`"
            )

    def started(self, ref: Any) -> None:
        """A worker that was starting is ready, or died.

        Raises DselectError where it is of another version of dselect, or where STARTS have died.
        """
        actor = self.starting.pop(ref)
        try:
            host, version = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._failed_starts += 1
            said = ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
            _log.warning("a Ray worker could not be started: %s", said)
            if self._failed_starts >= STARTS:
                raise DselectError(
                    f"compute: {STARTS} Ray workers, one after another, could not be started: {said}. Each node needs "
                    f"Python with dselect {__version__} (pip install 'dselect[ray]')"
                ) from error
            return
        if version != __version__:
            self.ray.kill(actor)
            raise DselectError(
                f"compute: the worker on {host} has dselect {version}, this run {__version__}. Install one version on "
                "all nodes"
            )
        self._failed_starts = 0
        self._number += 1
        self.idle.append(LiveWorker(actor, self._number, host))
        _log.info("worker %d is ready, on %s", self._number, host)

    def end(self, worker: LiveWorker) -> None:
        """End a worker at once, if it lives."""
        self.ray.kill(worker.actor)

    def end_all(self) -> None:
        """End those that are idle or starting."""
        for actor in [*self.starting.values(), *(worker.actor for worker in self.idle)]:
            self.ray.kill(actor)
        self.idle, self.starting = [], {}


@lru_cache(maxsize=1)
def _workers_of(cluster: str, job: str, spec: ComputeSpec) -> Workers:
    return Workers(ray_cluster.connected(spec), spec)


def workers_of(spec: ComputeSpec) -> Workers:
    """The workers of this process under these settings, as they are kept. Raises as `ray_cluster.connected`."""
    ray = ray_cluster.connected(spec)
    here = ray.get_runtime_context()
    return _workers_of(here.gcs_address, here.get_job_id(), spec)
