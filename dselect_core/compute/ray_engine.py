"""Work on rows by workers of a Ray cluster: hand out shards, hear how far they are, give those of lost workers again.

This process holds no model. A worker has one shard at a time, so a lost node costs at most one shard of each of its
workers. What the rows are to blame for comes back from a worker as the error that it would be here, and ends the work;
what ends workers is tried again on others, TRIES times in all. Trade-off: while a shard's result travels, its worker
waits, some milliseconds.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from dselect_core.compute.ray_workers import LiveWorker, Workers, workers_of
from dselect_core.compute.shards import Outcome, Shard, Work, cut
from dselect_core.errors import DselectError, UnreachableError
from dselect_core.progress import Progress
from dselect_core.settings.compute_spec import ComputeSpec

TRIES = 4
"""So many workers may end at one shard."""
MIN_SHARD_ROWS = 32
_SHARDS_PER_WORKER = 4
_LOOK_EVERY = 0.5
_STOP_SECONDS = 3.0

_log = logging.getLogger(__name__)


def compute_on_ray(spec: ComputeSpec, work: Work, whole: Shard, part_rows: int, progress: Progress | None) -> Outcome:
    """Do the work on all rows, in shards of at most `part_rows`; returns when all of them are in the store.

    Raises what the work raises; UnreachableError where there is no cluster; DselectError where Ray is not there, or
    where workers end again and again.
    """
    return _Computation(workers_of(spec), work, whole, part_rows, progress).to_its_end()


class _Computation:
    """Shards by number: those to do, and those that a worker has."""

    def __init__(self, workers: Workers, work: Work, whole: Shard, part_rows: int, progress: Progress | None):
        self.workers, self.work, self.progress = workers, work, progress
        self.ray = workers.ray
        self.total, self.done = whole.rows.height, 0
        rows = shard_rows(whole.rows.height, part_rows, workers.limit)
        self.count = -(-self.total // rows)
        self._next: Iterator[tuple[int, Shard]] = enumerate(cut(whole, rows))
        self._again: deque[tuple[int, Shard]] = deque()
        self._to_cut = self.count
        self._tries = Counter[int]()
        # {the result to come: the worker, the shard's number, the shard}
        self.running: dict[Any, tuple[LiveWorker, int, Shard]] = {}
        self._asked: dict[Any, LiveWorker] = {}
        self._rows_done = dict[LiveWorker, tuple[int, int]]()
        self._shards_of = Counter[LiveWorker]()
        self.outcome = Outcome()

    @property
    def left(self) -> int:
        """Shards that no worker has yet."""
        return self._to_cut + len(self._again)

    def to_its_end(self) -> Outcome:
        _log.info("%s rows in %s shards, on Ray", f"{self.total:,}", f"{self.count:,}")
        try:
            while self.left or self.running:
                self.workers.start(self.left + len(self.running), len(self.running))
                while self.left and self.workers.idle:
                    self._hand_out(self.workers.idle.pop())
                self._collect()
                self._tell()
        except BaseException:
            self._stop()
            raise
        shares = ", ".join(f"{n} by worker {each.number} on {each.host}" for each, n in self._shards_of.items())
        _log.info("%s rows computed; shards: %s", f"{self.total:,}", shares)
        return self.outcome

    def _hand_out(self, worker: LiveWorker) -> None:
        if self._again:
            number, shard = self._again.popleft()
        else:
            number, shard = next(self._next)
            self._to_cut -= 1
        self.running[worker.actor.run.remote(number, self.work, shard)] = (worker, number, shard)

    def _collect(self) -> None:
        """Take the first that comes of results and workers that are ready, within _LOOK_EVERY."""
        ready, _ = self.ray.wait([*self.running, *self.workers.starting], num_returns=1, timeout=_LOOK_EVERY)
        for ref in ready:
            if ref in self.workers.starting:
                self.workers.started(ref)
            else:
                self._finished(ref)

    def _finished(self, ref: Any) -> None:
        worker, number, shard = self.running.pop(ref)
        errors = self.ray.exceptions
        try:
            came = self.ray.get(ref)
        except errors.RayTaskError as error:  # an error that nobody foresaw, as it would be here
            self.workers.end(worker)
            raise error.cause from None
        except errors.RayError as error:
            self.workers.end(worker)
            self._lost(worker, number, shard, error)
            return
        self.workers.idle.append(worker)
        if not isinstance(came, Outcome):
            message, again = came
            raise (UnreachableError if again else DselectError)(message)
        self.outcome += came
        self.done += shard.rows.height
        self._shards_of[worker] += 1

    def _lost(self, worker: LiveWorker, number: int, shard: Shard, error: Exception) -> None:
        self._rows_done.pop(worker, None)
        self._tries[number] += 1
        rows = shard.rows.height
        _log.warning(
            "worker %d on %s is lost (%s); its %d rows are given to another", worker.number, worker.host,
            type(error).__name__, rows,
        )  # fmt: skip
        if self._tries[number] >= TRIES:
            first = f"{shard.rows.columns[0].removesuffix('_id')} {shard.rows[0, 0]}"
            raise DselectError(
                f"compute: {TRIES} workers, one after another, were lost at the {rows} rows from {first} on, the last "
                f"one on {worker.host} ({type(error).__name__}). Was the memory full? Set a smaller "
                "`model.batch_tokens`, or fewer workers a node; Ray's logs there say more"
            ) from error
        self._again.append((number, shard))

    def _tell(self) -> None:
        """Tell how far all workers are together; raises Stopped where somebody asked to stop."""
        asked = set(self._asked.values())
        for worker, _, _ in self.running.values():
            if worker not in asked:
                self._asked[worker.actor.done.remote()] = worker
        answered, _ = (
            self.ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        )
        for ref in answered:
            worker = self._asked.pop(ref)
            try:
                self._rows_done[worker] = self.ray.get(ref)
            except self.ray.exceptions.RayError:  # its shard says so too
                self._rows_done.pop(worker, None)
        if self.progress is not None:
            at_work = 0
            for worker, number, _ in self.running.values():
                of_shard, rows = self._rows_done.get(worker, (number, 0))
                at_work += rows if of_shard == number else 0
            self.progress(self.done + at_work, self.total)

    def _stop(self) -> None:
        """End the shards at hand: workers keep what is finished, then they end."""
        try:
            for worker, _, _ in self.running.values():
                worker.actor.stop.remote()
            if self.running:
                self.ray.wait(list(self.running), num_returns=len(self.running), timeout=_STOP_SECONDS)
        finally:
            for worker, _, _ in self.running.values():
                self.workers.end(worker)
            self.workers.end_all()


def shard_rows(rows: int, part_rows: int, workers: int) -> int:
    """Rows of a shard: some shards a worker, so that the last ones end together, and none larger than a part."""
    return min(part_rows, max(MIN_SHARD_ROWS, -(-rows // (_SHARDS_PER_WORKER * workers))))
