"""A log of rows beside the parts of a store: each row is kept as it is made, long before a part is worth writing.

    <a name of its own>.log     records, one after the other: length, check, rows as an Arrow IPC stream

For rows that cost money. A record is handed to the operating system at once, so a process that is killed loses none,
and it is flushed to the disk at least every SYNC_ROWS rows, so a machine that loses its power loses no more than these.
Readers of the store see the rows as they see those of a part. The check of a record also covers the provenance, so a
log in another store's folder is not taken for its rows. A record that is torn (its writer was killed in the middle of
it) ends the log.

Trade-off: a row takes 2 to 3 KB here, so a log is short: the appender writes a part of it soon and removes it. An
object store cannot append; there rows are written as small parts instead.
"""

import io
import os
import struct
import uuid
from pathlib import Path
from typing import NamedTuple

import polars as pl
from polars.exceptions import PanicException, PolarsError
from upath import UPath

from dselect_core.fingerprint import digest
from dselect_core.storage.files import flush_folder, make_folder

SYNC_ROWS = 50
"""Rows after which the log is flushed to the disk: before the next hundred are asked."""

_SYNC = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
_HEAD = struct.Struct("<I32s")  # bytes of the rows, and the check in hexadecimal


class LoggedRows(NamedTuple):
    """frame: the rows of the whole records; None where there is none. altered: whether a whole record is not intact."""

    frame: pl.DataFrame | None
    altered: bool


class RowLog:
    """One log, by one writer. The file is made with its first row."""

    def __init__(self, folder: UPath) -> None:
        """folder: of a store on a local disk; its name is the fingerprint of the provenance."""
        self._folder = Path(folder.path)
        self._path = self._folder / f"{uuid.uuid4().hex}.log"
        self._descriptor: int | None = None
        self._unsynced_rows = 0

    def append(self, frame: pl.DataFrame) -> None:
        """Keep rows. When this returns no killed process loses them."""
        if self._descriptor is None:
            make_folder(self._folder)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            flush_folder(self._folder)
        buffer = io.BytesIO()
        frame.write_ipc_stream(buffer)
        rows = buffer.getvalue()
        record = memoryview(_HEAD.pack(len(rows), _check(self._folder.name, rows)) + rows)
        while record:  # a disk that is nearly full takes a part of it
            record = record[os.write(self._descriptor, record) :]
        self._unsynced_rows += frame.height
        if self._unsynced_rows >= SYNC_ROWS:
            _SYNC(self._descriptor)
            self._unsynced_rows = 0

    def discard(self) -> None:
        """Remove the log: its rows stand in a part by now."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._path.unlink(missing_ok=True)


def read_rows(data: bytes, fingerprint: str) -> LoggedRows:
    """The rows in the bytes of a log, up to the first record that is not whole or not intact."""
    frames: list[pl.DataFrame] = []
    at = 0
    while at + _HEAD.size <= len(data):
        length, check = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size
        rows = data[begin : begin + length]
        if len(rows) < length:
            break
        if check != _check(fingerprint, rows):
            return LoggedRows(_joined(frames), altered=True)
        try:
            frames.append(pl.read_ipc_stream(io.BytesIO(rows)))
        except (PolarsError, PanicException):  # of a version of polars that writes what this one does not read
            return LoggedRows(_joined(frames), altered=True)
        at = begin + length
    return LoggedRows(_joined(frames), altered=False)


def _joined(frames: list[pl.DataFrame]) -> pl.DataFrame | None:
    return pl.concat(frames, how="diagonal") if frames else None


def _check(fingerprint: str, rows: bytes) -> bytes:
    return digest([fingerprint, rows]).encode()
