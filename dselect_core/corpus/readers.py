"""From one data file to its rows: JSON array, JSON Lines, Parquet or Arrow; plain, .gz, .zst or .bz2.

The format is detected from the first bytes, not from the name. Only `.jsonl` and `.ndjson` are trusted, so that a
broken first line there is a bad row and not another format. JSON Lines and tables are streamed; a JSON array is held
whole. A broken line is one bad row. A file that cannot be read to its end is a DselectError, because the rows that it
lost have no row number in quarantine. pyarrow decompresses: it reads files of several frames and, unlike Python's zstd
stream, reports one that is cut off. An Arrow *stream* that is cut exactly between two batches looks like a whole one.
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
_COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zstd"))
_JSON_LINES_NAME = re.compile(r"\.(jsonl|ndjson)(\.\w+)?$", re.IGNORECASE)
_TABLE_NAME = re.compile(r"\.(parquet|pq|arrow|ipc|feather)(\.\w+)?$", re.IGNORECASE)
READABLE_FORMATS = "JSON arrays, JSON Lines, Parquet and Arrow, plain or .gz, .zst, .bz2"


class RawRow(NamedTuple):
    """A row as its file holds it. number: counts from 1; value: the JSON value; error: why there is no value.

    text: the line, where the file has lines.
    """

    number: int
    value: Any = None
    error: str | None = None
    text: bytes | None = None


@dataclass(frozen=True)
class DataFile:
    """A file to read rows from. name: as the user writes it; version: its size with its etag or modification time."""

    name: str
    version: str
    fs: fsspec.AbstractFileSystem
    path: str

    def rows(self, columns: Iterable[str]) -> Iterator[RawRow]:
        """All rows, numbered from 1. Of a table only `columns` are read, if it has any of them.

        Raises DselectError, naming the file, when it is missing, empty, torn, or in none of the formats.
        """
        with _naming_file(self.name), self.fs.open(self.path, "rb") as raw:
            stream = _decompressed(raw, self.name)
            head = stream.peek(8)[:8]
            if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
                # A table is read by seeking, which a compressed stream cannot do.
                source: Any = raw if stream.raw is raw else io.BytesIO(stream.read())
                source.seek(0)
                yield from read_table_rows(_record_batches(source, head, list(columns)))
            elif _TABLE_NAME.search(self.name):
                raise DselectError(f"{self.name}: not a whole Parquet or Arrow file. Write or fetch it again.")
            else:
                yield from _json_rows(stream, self.name)


@contextmanager
def _naming_file(name: str) -> Iterator[None]:
    """Turns the errors of reading into a DselectError that names the file."""
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
    codec = next((codec for magic, codec in _COMPRESSIONS if head.startswith(magic)), None)
    return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(raw, codec) if codec else raw), 1 << 20)


def _json_rows(stream: io.BufferedReader, name: str) -> Iterator[RawRow]:
    head = stream.peek(4)
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DselectError(f"{name}: the text is UTF-16. Save it as UTF-8.")
    first_line, line_number = stream.readline(), 1
    while first_line and not first_line.strip():
        first_line, line_number = stream.readline(), line_number + 1
    is_whole_value = _parse_row(line_number, first_line).error is None and not first_line.lstrip().startswith(b"[")
    if _JSON_LINES_NAME.search(name) or is_whole_value:
        yield from _parse_lines(chain([first_line], stream), line_number)
        return
    body = first_line + stream.read()
    if body.lstrip().startswith(b"["):
        yield from (RawRow(i, value) for i, value in enumerate(_parse_array(body, name, line_number), start=1))
        return
    whole = _parse_row(1, body)
    if isinstance(whole.value, dict):  # one object over several lines is one row
        yield whole
    else:
        yield from _parse_lines(io.BytesIO(body), line_number)


def _parse_lines(lines: Iterable[bytes], first_number: int) -> Iterator[RawRow]:
    return (_parse_row(number, line) for number, line in enumerate(lines, start=first_number) if line.strip())


def _parse_row(number: int, line: bytes) -> RawRow:
    try:
        return RawRow(number, json.loads(line.rstrip().decode("utf-8")), text=line)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # a number too long, objects nested too deeply
        reason = f"unusable JSON: {error}"
    return RawRow(number, error=reason, text=line)


def _parse_array(body: bytes, name: str, first_line: int) -> list[Any]:
    """The elements of a JSON array that begins at this line of its file."""
    try:
        elements: list[Any] = json.loads(body.decode("utf-8"))
        return elements
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + first_line
        byte = f"byte 0x{body[error.start]:02x}"
        raise DselectError(f"{name}: line {line}: not UTF-8 ({byte}). Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno + first_line - 1}, column {error.colno}"
        raise DselectError(
            f"{name}: broken JSON array: {error.msg} at {where}. Mend it or fetch it again; "
            "if it holds one JSON value a line, name it .jsonl."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DselectError(f"{name}: unusable JSON array: {error}. Write one JSON object a line, as .jsonl.") from None


def _record_batches(source: Any, head: bytes, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The record batches of a Parquet or Arrow file, with those `columns` that it has, or all if it has none."""
    if head.startswith(b"PAR1"):
        parquet = pq.ParquetFile(source)
        present = [name for name in parquet.schema_arrow.names if name in columns]
        yield from parquet.iter_batches(batch_size=BATCH_ROWS, columns=present or None)
    elif head.startswith(b"ARROW1"):
        file = pa.ipc.open_file(source)
        yield from (_select_columns(file.get_batch(i), columns) for i in range(file.num_record_batches))
    else:
        yield from (_select_columns(batch, columns) for batch in pa.ipc.open_stream(source))


def _select_columns(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    present = [name for name in batch.schema.names if name in columns]
    return batch.select(present) if present else batch


def read_table_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[RawRow]:
    """The rows of record batches as dicts, numbered from 1. A row that cannot be converted has an error."""
    number = 1
    for batch in batches:
        # Slices, because a batch may have more rows than memory holds as Python objects.
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = batch.slice(start, BATCH_ROWS)
            try:
                yield from [RawRow(number + i, row) for i, row in enumerate(_to_dicts(rows))]
            except ValueError:  # one bad value fails the conversion of all rows: convert them one by one
                yield from (_convert_row(number + i, rows.slice(i, 1)) for i in range(rows.num_rows))
            number += rows.num_rows


def _convert_row(number: int, row: pa.RecordBatch) -> RawRow:
    try:
        return RawRow(number, _to_dicts(row)[0])
    except ValueError as error:
        return RawRow(number, error=f"unusable value: {error}")


def _to_dicts(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist()
    for field in batch.schema:
        if _holds_json(field.type):
            for row in rows:
                row[field.name] = _decode_json(row[field.name], field.type)
    return rows


def _holds_json(type: pa.DataType) -> bool:
    """Whether values of the type are or contain JSON text, as `datasets` stores columns of mixed types."""
    return isinstance(type, pa.JsonType) or any(_holds_json(type.field(i).type) for i in range(type.num_fields))


def _decode_json(value: Any, type: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(type, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(type):
        return {field.name: _decode_json(value[field.name], field.type) for field in type}
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return [_decode_json(item, type.value_type) for item in value]
    return value
