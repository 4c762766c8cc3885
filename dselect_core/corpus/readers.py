"""One data file, wherever it lies, to its rows: JSON array, JSON Lines, Parquet, Arrow; plain, .gz, .zst, .bz2.

What a file is, is read from its first bytes, not from its name: only `.jsonl` and `.ndjson` are believed, so that
a broken first line is a bad row there and not another format. JSON Lines and tables are streamed; a JSON
array is held whole. A broken line is one bad row; a file that cannot be read to its end is a DselectError,
because what it lost has no row to be quarantined under. Decompression is pyarrow's: it reads files of several
frames, and, unlike Python's zstd stream, says so when one is cut off. An Arrow *stream* cut exactly between two
batches cannot be told from a whole one.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dselect_core.errors import DselectError

BATCH_ROWS = 512
COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zstd"))
LINES = re.compile(r"\.(jsonl|ndjson)(\.\w+)?$", re.IGNORECASE)
TABLES = re.compile(r"\.(parquet|pq|arrow|ipc|feather)(\.\w+)?$", re.IGNORECASE)
READABLE = "JSON arrays, JSON Lines, Parquet and Arrow, plain or .gz, .zst, .bz2"


class RawRow(NamedTuple):
    """A row as its file holds it: `value`, or the `error` why there is none; `text` as far as it is known."""

    number: int
    value: Any = None
    error: str | None = None
    text: bytes | None = None


@dataclass(frozen=True)
class DataFile:
    """A file to read rows from. `name` is what the user calls it; `version` is its etag or modification time."""

    name: str
    version: str
    fs: fsspec.AbstractFileSystem
    path: str

    def rows(self, columns: Iterable[str]) -> Iterator[RawRow]:
        """All rows, numbered from 1. Of a table only `columns` are read, if it has any of them.

        Raises DselectError, naming the file, when it is missing, empty, torn, or none of the formats.
        """
        with named(self.name), self.fs.open(self.path, "rb") as raw:
            stream = _decompressed(raw, self.name)
            head = stream.peek(8)[:8]
            if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
                # Tables are read by seeking, which a compressed stream cannot.
                source: Any = raw if stream.raw is raw else io.BytesIO(stream.read())
                source.seek(0)
                yield from table_rows(_batches(source, head, list(columns)))
            elif TABLES.search(self.name):
                raise DselectError(f"{self.name}: not a whole Parquet or Arrow file. Write or fetch it again.")
            else:
                yield from _json_rows(stream, self.name)


@contextmanager
def named(name: str) -> Iterator[None]:
    """What goes wrong inside while reading, as a DselectError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DselectError(f"{name}: no such file.") from None
    except PermissionError as error:
        raise DselectError(f"{name}: no permission to read it ({error}).") from error
    except (OSError, EOFError, pa.ArrowException) as error:
        raise DselectError(f"{name}: torn or unreadable ({error}). Write or fetch it again.") from error


def _decompressed(raw: BinaryIO, name: str) -> io.BufferedReader:
    head = raw.read(8)
    raw.seek(0)
    if not head:
        raise DselectError(f"{name}: the file is empty. Remove it, or fetch it again.")
    codec = next((codec for magic, codec in COMPRESSIONS if head.startswith(magic)), None)
    return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(raw, codec) if codec else raw), 1 << 20)


def _json_rows(stream: io.BufferedReader, name: str) -> Iterator[RawRow]:
    head = stream.peek(4)
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DselectError(f"{name}: the text is UTF-16. Save it as UTF-8.")
    first, start = stream.readline(), 1
    while first and not first.strip():
        first, start = stream.readline(), start + 1
    if LINES.search(name) or (_parse(start, first).error is None and not first.lstrip().startswith(b"[")):
        yield from _lines(chain([first], stream), start)
        return
    body = first + stream.read()
    if body.lstrip().startswith(b"["):
        yield from (RawRow(i, value) for i, value in enumerate(_array(body, name, start), start=1))
        return
    whole = _parse(1, body)
    if isinstance(whole.value, dict):  # one object over several lines is one row
        yield whole
    else:
        yield from _lines(io.BytesIO(body), start)


def _lines(lines: Iterable[bytes], start: int) -> Iterator[RawRow]:
    return (_parse(number, line) for number, line in enumerate(lines, start=start) if line.strip())


def _parse(number: int, line: bytes) -> RawRow:
    try:
        return RawRow(number, json.loads(line.rstrip().decode("utf-8")), text=line)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number too long, objects nested too deeply
        reason = f"unusable JSON: {error}"
    return RawRow(number, error=reason, text=line)


def _array(body: bytes, name: str, start: int) -> list[Any]:
    """The elements of a JSON array that begins at line `start` of its file."""
    try:
        elements: list[Any] = json.loads(body.decode("utf-8"))
        return elements
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + start
        byte = f"byte 0x{body[error.start]:02x}"
        raise DselectError(f"{name}: line {line}: not UTF-8 ({byte}). Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        at = f"line {error.lineno + start - 1}, column {error.colno}"
        raise DselectError(
            f"{name}: broken JSON array: {error.msg} at {at}. Mend it or fetch it again; "
            "if it holds one JSON value a line, name it .jsonl."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DselectError(f"{name}: unusable JSON array: {error}. Write one JSON object a line, as .jsonl.") from None


def _batches(source: Any, head: bytes, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The record batches of a Parquet or Arrow file; the columns asked for, or all if it has none of them."""
    if head.startswith(b"PAR1"):
        parquet = pq.ParquetFile(source)
        wanted = [name for name in parquet.schema_arrow.names if name in columns]
        yield from parquet.iter_batches(batch_size=BATCH_ROWS, columns=wanted or None)
    elif head.startswith(b"ARROW1"):
        file = pa.ipc.open_file(source)
        yield from (_project(file.get_batch(i), columns) for i in range(file.num_record_batches))
    else:
        yield from (_project(batch, columns) for batch in pa.ipc.open_stream(source))


def _project(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    wanted = [name for name in batch.schema.names if name in columns]
    return batch.select(wanted) if wanted else batch


def table_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[RawRow]:
    """The rows of record batches as dicts, numbered from 1."""
    number = 1
    for batch in batches:
        # A batch may hold far more than is wanted as Python objects at one time.
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            try:
                yield from [RawRow(number + i, row) for i, row in enumerate(_dicts(part))]
            except ValueError:  # one bad value spoils the conversion of all: find the rows that hold it
                yield from (_one(number + i, part.slice(i, 1)) for i in range(part.num_rows))
            number += part.num_rows


def _one(number: int, row: pa.RecordBatch) -> RawRow:
    try:
        return RawRow(number, _dicts(row)[0])
    except ValueError as error:
        return RawRow(number, error=f"unusable value: {error}")


def _dicts(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist()
    for field in batch.schema:
        if _holds_json(field.type):
            for row in rows:
                row[field.name] = _decoded(row[field.name], field.type)
    return rows


def _holds_json(type: pa.DataType) -> bool:
    """Whether values of a type are, or contain, JSON text: how `datasets` keeps columns of mixed types."""
    return isinstance(type, pa.JsonType) or any(_holds_json(type.field(i).type) for i in range(type.num_fields))


def _decoded(value: Any, type: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(type, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(type):
        return {field.name: _decoded(value[field.name], field.type) for field in type}
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return [_decoded(item, type.value_type) for item in value]
    return value
