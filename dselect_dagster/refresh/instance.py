"""The Dagster instance: $DAGSTER_HOME, or `.dselect/dagster` beside dselect.yaml, made on first use.

Always local, also when the tables are on S3: a deployment sets $DAGSTER_HOME and its own dagster.yaml.
"""

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import yaml
from filelock import FileLock, Timeout

from dselect_core.errors import DselectError
from dselect_dagster.dagster_private import hold_database_lock, open_instance_without_compute_logs

DAGSTER_YAML = """\
telemetry: {enabled: false}
nux: {enabled: false}
# For the daemon (`dselect dev`); `dselect refresh` has no queue. Most runs take less than a second, so to look at the
# queue every five seconds, for one run at a time, would be most of their time.
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1, dequeue_use_threads: true, dequeue_num_workers: 4}
concurrency:
  runs: {max_concurrent_runs: 4}
  # One run at a time in each pool, `model` and `grader`; who has to wait does so in the queue, not in memory.
  # A killed run would hold its slot for ever without the line below in run_monitoring.
  pools: {default_limit: 1, granularity: run}
run_monitoring: {enabled: true, start_timeout_seconds: 180, free_slots_after_run_end_seconds: 60}
retention:
  sensor: {purge_after_days: {skipped: 1, failure: 30, success: 30}}
"""


def make_dagster_home(config: Path) -> Path:
    """The instance's folder, made if need be, and put into $DAGSTER_HOME for the processes started from here."""
    folder = Path(os.environ.get("DAGSTER_HOME") or config.parent / ".dselect" / "dagster").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "dagster.yaml"
    if not settings.exists():
        settings.write_text(DAGSTER_YAML, "utf-8")
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder


def open_instance(config: Path) -> dg.DagsterInstance:
    """The instance for a command in the foreground: what steps print goes to its terminal, not to files.

    Capturing it costs two processes a step, more than most steps take. Events and log lines are kept as always. Raises
    DselectError for a dagster.yaml that Dagster does not take; what its database says comes as it is.
    """
    folder = make_dagster_home(config)
    # Two processes that open a new home at once would both make its tables, and one would fail.
    with FileLock(folder / ".opening.lock"):
        try:
            return open_instance_without_compute_logs(folder)
        except (yaml.YAMLError, dg.DagsterInvalidConfigError, UnicodeError) as error:
            what = " ".join(str(error).split())[:300]
            raise DselectError(
                f"{folder / 'dagster.yaml'}: Dagster does not take it ({what}). Mend it, or remove it: a command of "
                "dselect writes a new one."
            ) from error


@contextlib.contextmanager
def hold_refresh_lock(config: Path, instance: dg.DagsterInstance, on_wait: Callable[[], None]) -> Iterator[None]:
    """One refresh at a time on an instance: in its folder, and in its database where that is PostgreSQL.

    on_wait: called before waiting, when another refresh holds the lock.

    Two at once may run one partition twice. The blocking check that was recorded last may then be of the run that
    ended first. To Dagster that check says nothing about the latest materialization, and all assets downstream wait
    for ever.
    """
    lock = FileLock(make_dagster_home(config) / ".refresh.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        with hold_database_lock(instance, zlib.crc32(b"dselect refresh"), on_wait):
            yield
    finally:
        lock.release()
