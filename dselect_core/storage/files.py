"""Write and read whole files in the storage: tables and bytes. A file is visible complete or not at all.

On a local disk a file is written under a temporary name in the same folder, flushed to the disk, and then renamed; the
folder is flushed too. An object store shows an object only when it is complete. So a process that is killed, or a
machine that loses its power, leaves the old file or none; the next write of that file removes the temporary one, once
it is too old for its writer to be still at work. A table carries a checksum of its bytes, which is verified
whenever it is read.

Trade-offs: a table is held in memory as compressed bytes while it is written or read. That suits tables of scores and
samples; vectors have files of their own (vector_file.py). A flush costs milliseconds a file; parts are large and heads
are few.
"""

import contextlib
import errno
import io
import os
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.storage.parquet_checksum import CHECKSUM, UNSEALED, is_intact, seal

ORPHAN_SECONDS = 3600.0
"""Age from which a temporary file, or an array without a part, is left over: its writer is done within minutes."""

_ARROW_SCHEMA = "ARROW:schema"  # a pair that the Parquet writer adds


def write_parquet(
    frame: pl.DataFrame, path: UPath, metadata: dict[str, str] | None = None, group_rows: int | None = None
) -> None:
    """Write a table (zstd) with `metadata` as Parquet key-value pairs. Makes the folder, replaces the file.

    group_rows: as of `parquet_bytes`.
    """
    write_bytes(sealed_parquet_bytes(frame, metadata, group_rows), path)


def sealed_parquet_bytes(
    frame: pl.DataFrame, metadata: dict[str, str] | None = None, group_rows: int | None = None
) -> bytes:
    """The bytes of a Parquet file with a checksum, as `write_parquet` writes them."""
    return seal(parquet_bytes(frame, (metadata or {}) | UNSEALED, group_rows))


def parquet_bytes(frame: pl.DataFrame, metadata: dict[str, str] | None = None, group_rows: int | None = None) -> bytes:
    """The bytes of a Parquet file (zstd) of the table, with `metadata` as key-value pairs and no checksum.

    group_rows: rows that are read together where some are wanted (`read_where`); None: as polars has it, 262,144.
    """
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=metadata, row_group_size=group_rows)
    return buffer.getvalue()


def read_parquet(path: UPath) -> pl.DataFrame:
    """The table. Raises FileNotFoundError, or DamagedFileError for a file that is not what was written."""
    return read_with_metadata(path)[0]


def read_metadata(path: UPath) -> dict[str, str]:
    """The key-value pairs that `write_parquet` wrote. Raises like `read_parquet`."""
    return read_with_metadata(path, [])[1]


def read_with_metadata(path: UPath, columns: list[str] | None = None) -> tuple[pl.DataFrame, dict[str, str]]:
    """The table with its key-value pairs, both of the same version of the file. Raises like `read_parquet`.

    columns: the columns to read; None: all; an empty list: none, so only the pairs are decoded.
    """
    return parse_parquet(read_bytes(path), path, columns)


def read_where(path: UPath, where: pl.Expr) -> pl.DataFrame:
    """The rows of the table for which `where` holds, in their order. Raises like `read_parquet`.

    The file is read and verified whole, but of its columns never more than some groups of rows are in memory beside
    what is returned, and none of a group that cannot have such a row by its smallest and largest values.
    """
    return parse_parquet(read_bytes(path), path, where=where)[0]


def parse_parquet(
    data: bytes, path: UPath, columns: list[str] | None = None, where: pl.Expr | None = None
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The table with its key-value pairs in the bytes of the file `path`. Raises DamagedFileError.

    columns, where: as of `read_with_metadata` and `read_where`; not both.
    """
    if not data:
        raise DamagedFileError(path, "it is empty")
    if not is_intact(data):
        raise DamagedFileError(path, "its content does not match its checksum")
    try:
        metadata = pl.read_parquet_metadata(io.BytesIO(data))
        if where is not None:
            frame = pl.scan_parquet(io.BytesIO(data)).filter(where).collect()
        else:
            frame = pl.DataFrame() if columns == [] else pl.read_parquet(io.BytesIO(data), columns=columns)
    # Polars panics at some of the files that it cannot read.
    except (PolarsError, PanicException) as error:
        raise DamagedFileError(path, f"not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return frame, {key: value for key, value in metadata.items() if key not in (_ARROW_SCHEMA, CHECKSUM)}


def read_bytes(path: UPath) -> bytes:
    """The content of a file, of one version of it. Raises FileNotFoundError.

    From an object store by one request: a file that is opened is asked for its size first, and may be another by then.
    """
    if is_local(path):
        return Path(path.path).read_bytes()
    data: bytes = path.fs.cat_file(path.path)
    return data


def write_text(text: str, path: UPath) -> None:
    """Write `text` as UTF-8. Makes the folder, replaces the file."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(data: bytes, path: UPath) -> None:
    """Write `data`. Makes the folder, replaces the file."""
    write_buffers([data], path)


def is_local(path: UPath) -> bool:
    """Whether the path is on a local disk, and not in an object store."""
    return path.protocol in ("", "file", "local")


def write_buffers(buffers: Sequence[bytes | memoryview], path: UPath) -> None:
    """Write the buffers one after the other as one file, on a disk without a copy in memory.

    Makes the folder, replaces the file. On a local disk it has reached the disk when this returns.
    """
    if not is_local(path):
        path.fs.pipe_file(path.path, b"".join(buffers))
        return
    target = Path(path.path)
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(target.parent)
    _remove_leftovers(target)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files that killed writers of the same file left."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.tmp")
    with contextlib.suppress(FileNotFoundError), os.scandir(target.parent) as entries:
        for entry in entries:
            if leftover.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > ORPHAN_SECONDS:
                Path(entry.path).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a local folder and those above it, so that their names have reached the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Flush the names in a local folder to the disk, where its file system can do that."""
    with contextlib.suppress(FileNotFoundError):  # removed by now, so there is no name to keep
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
                raise
        finally:
            os.close(descriptor)
