"""Tables and texts in the storage, whole or not at all.

On a local disk a file is written under a temporary name beside its place and renamed; an object store shows an object
only once it is complete. Either way a killed process leaves the old file or none. A table passes through memory as
compressed bytes: right for tables of scores and samples, not for vectors (vector_file.py).
"""

import io
import uuid
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError
from upath import UPath

from dselect_core.errors import DselectError

_ARROW_SCHEMA = "ARROW:schema"  # written by the Parquet writer for itself


def write_parquet(frame: pl.DataFrame, upath: UPath, metadata: dict[str, str] | None = None) -> None:
    """Write `frame` (zstd) with `metadata` as Parquet key-value pairs; makes the folder, replaces the file."""
    write_bytes(parquet_bytes(frame, metadata), upath)


def parquet_bytes(frame: pl.DataFrame, metadata: dict[str, str] | None = None) -> bytes:
    """`frame` as the bytes of a Parquet file (zstd)."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=metadata)
    return buffer.getvalue()


def read_parquet(upath: UPath) -> pl.DataFrame:
    """The table. Raises FileNotFoundError, or DselectError naming a file that is not Parquet."""
    return read_with_metadata(upath)[0]


def read_metadata(upath: UPath) -> dict[str, str]:
    """The key-value pairs given to `write_parquet`. Raises as `read_parquet`."""
    return read_with_metadata(upath, [])[1]


def read_with_metadata(upath: UPath, columns: list[str] | None = None) -> tuple[pl.DataFrame, dict[str, str]]:
    """The table, or some of its columns, with its key-value pairs: one state of the file. Raises as `read_parquet`."""
    data = upath.read_bytes()
    try:
        pairs = pl.read_parquet_metadata(io.BytesIO(data))
        frame = pl.DataFrame() if columns == [] else pl.read_parquet(io.BytesIO(data), columns=columns)
    except PolarsError as error:
        raise _unreadable(upath, error) from None
    return frame, {key: value for key, value in pairs.items() if key != _ARROW_SCHEMA}


def write_text(text: str, upath: UPath) -> None:
    """Write `text` as UTF-8; makes the folder, replaces the file."""
    write_bytes(text.encode("utf-8"), upath)


def write_bytes(data: bytes, upath: UPath) -> None:
    """Write `data`; makes the folder, replaces the file."""
    write_buffers([data], upath)


def is_local(upath: UPath) -> bool:
    return upath.protocol in ("", "file", "local")


def write_buffers(buffers: Sequence[bytes | memoryview], upath: UPath) -> None:
    """Write the buffers one after the other as one file; on a disk they are not copied."""
    if not is_local(upath):
        upath.fs.pipe_file(upath.path, b"".join(buffers))
        return
    target = Path(upath.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            for buffer in buffers:
                file.write(buffer)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _unreadable(upath: UPath, error: Exception) -> DselectError:
    return DselectError(f"{upath}: not a readable Parquet file ({error}); delete it and make it again")
