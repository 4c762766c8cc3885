"""Write and read whole files in the storage: tables, texts, bytes. A file is visible complete or not at all.

On a local disk a file is written under a temporary name in the same folder and then renamed. An object store shows an
object only when it is complete. So a process that is killed leaves the old file or none.

Trade-off: a table is held in memory as compressed bytes while it is written or read. That suits tables of scores and
samples; vectors have files of their own (vector_file.py).
"""

import io
import uuid
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError
from upath import UPath

from dselect_core.errors import DselectError

_ARROW_SCHEMA = "ARROW:schema"  # a pair that the Parquet writer adds


def write_parquet(frame: pl.DataFrame, path: UPath, metadata: dict[str, str] | None = None) -> None:
    """Write a table (zstd) with `metadata` as Parquet key-value pairs. Makes the folder, replaces the file."""
    write_bytes(parquet_bytes(frame, metadata), path)


def parquet_bytes(frame: pl.DataFrame, metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a Parquet file (zstd) of the table, with `metadata` as key-value pairs."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=metadata)
    return buffer.getvalue()


def read_parquet(path: UPath) -> pl.DataFrame:
    """The table. Raises FileNotFoundError, or DselectError naming a file that is not Parquet."""
    return read_with_metadata(path)[0]


def read_metadata(path: UPath) -> dict[str, str]:
    """The key-value pairs that `write_parquet` wrote. Raises like `read_parquet`."""
    return read_with_metadata(path, [])[1]


def read_with_metadata(path: UPath, columns: list[str] | None = None) -> tuple[pl.DataFrame, dict[str, str]]:
    """The table with its key-value pairs, both of the same version of the file. Raises like `read_parquet`.

    columns: the columns to read; None: all; an empty list: none, so only the pairs are decoded.
    """
    data = path.read_bytes()
    try:
        metadata = pl.read_parquet_metadata(io.BytesIO(data))
        frame = pl.DataFrame() if columns == [] else pl.read_parquet(io.BytesIO(data), columns=columns)
    except PolarsError as error:
        raise _unreadable(path, error) from None
    return frame, {key: value for key, value in metadata.items() if key != _ARROW_SCHEMA}


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

    Makes the folder, replaces the file.
    """
    if not is_local(path):
        path.fs.pipe_file(path.path, b"".join(buffers))
        return
    target = Path(path.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            for buffer in buffers:
                file.write(buffer)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _unreadable(path: UPath, error: Exception) -> DselectError:
    return DselectError(f"{path}: not a readable Parquet file ({error}); delete it and make it again")
