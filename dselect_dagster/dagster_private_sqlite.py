"""Dagster's local storage for a process that makes many short runs: the same files, opened less often.

Dagster keeps a database a run beside one of all runs. It makes each by its migrations, 90 ms of CPU, and an engine
and a connection for each event. Here the first run's empty database is copied for those that follow, and connections
are kept: those to what is of all runs, and that to the run in hand. The files are those that the UI, the daemon and
other versions read and write, so a home goes on as it is. The price: a commit is on the disk when the system writes it,
so that a power cut (not a killed process) can lose the last ones, and what they say was made is made again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool, QueuePool

_INDEX = "index"
_DAGSTERS = (DagsterSqliteStorage.__module__, DagsterSqliteStorage.__name__)
# Seconds to wait for another process that writes, as Dagster's event log does.
_OPTIONS = {"timeout": 30}


def with_kept_connections(ref: InstanceRef) -> InstanceRef:
    """The instance on this storage, where it is on Dagster's local one; else as it is."""
    data = ref.storage_data
    if data is None or (data.module_name, data.class_name) != _DAGSTERS:
        return ref
    return ref._replace(storage_data=ConfigurableClassData(__name__, LocalStorage.__name__, data.config_yaml))


class LocalStorage(DagsterSqliteStorage):
    """Dagster's local storage, with the two of its parts that each event needs in the form of here."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None):
        # Not by its parent, which would open three others first.
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]
        self.base_dir, self._inst_data = base_dir, inst_data
        history = Path(base_dir) / "history"
        self._run_storage = _Runs.from_local(str(history))
        self._event_log_storage = _Events(str(history / "runs"))
        self._schedule_storage = SqliteScheduleStorage.from_local(str(Path(base_dir) / "schedules"))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> "LocalStorage":
        """As its parent, which names itself."""
        return cls.from_local(inst_data=inst_data, **config_value)


class _Runs(SqliteRunStorage):
    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None):
        super().__init__(conn_string, inst_data)
        self._engine = _engine(conn_string)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()
        super().dispose()


class _Events(SqliteEventLogStorage):
    def __init__(self, base_dir: str):
        # The engine of all runs, and that of the run that was written to last.
        self._engines: dict[str, Engine] = {}
        self._empty: bytes | None = None
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            with self._engine_of(shard).connect() as connection, connection.begin():
                yield connection
            if shard != _INDEX:
                # What is committed stands beside the file until it is closed, and the UI watches the file.
                with suppress(FileNotFoundError):  # somebody deleted the run
                    os.utime(self.path_for_shard(shard))

    def _engine_of(self, shard: str) -> Engine:
        engine = self._engines.get(shard)
        if engine is not None:
            return engine
        for other in set(self._engines) - {_INDEX}:
            self._engines.pop(other).dispose()
        address = self.conn_string_for_shard(shard)
        if shard not in self._initialized_dbs:
            self._make_database(shard, address)
            self._initialized_dbs.add(shard)
        self._engines[shard] = engine = _engine(address)
        return engine

    def _make_database(self, shard: str, address: str) -> None:
        path = Path(self.path_for_shard(shard))
        is_first = shard != _INDEX and not path.exists()
        if is_first and self._empty is not None:
            _write_whole(path, self._empty)
            return
        # Closed again, so that all of it is in the file.
        self._initdb(create_engine(address, poolclass=NullPool, connect_args=_OPTIONS))
        if is_first and not path.with_name(f"{path.name}-wal").exists():  # else somebody has it open
            self._empty = path.read_bytes()

    def dispose(self) -> None:
        while self._engines:
            self._engines.popitem()[1].dispose()
        super().dispose()


def _engine(address: str) -> Engine:
    engine = create_engine(address, poolclass=QueuePool, connect_args=_OPTIONS)
    event.listen(engine, "connect", _sync_at_checkpoints)
    return engine


def _sync_at_checkpoints(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _write_whole(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
