"""The rows of Parquet and Arrow tables, as dicts, a few at a time.

A table is read by batches that are small in rows and in bytes. What its format cannot split is held whole: a page of
Parquet, a record batch of Arrow. A row larger than `max_row_bytes` is not converted.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dselect_core.corpus.raw_row import RawRow, too_large

BATCH_ROWS = 512
_BATCH_BYTES = 1 << 26
_EXCERPT_CHARACTERS = 200


def record_batches(source: Any, head: bytes, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The record batches of a Parquet or Arrow file, with those `columns` that it has, or all if it has none.

    head: its first bytes, which tell the format.
    """
    if head.startswith(b"PAR1"):
        yield from _parquet_batches(source, columns)
    elif head.startswith(b"ARROW1"):
        file = pa.ipc.open_file(source)
        yield from (_select_columns(file.get_batch(i), columns) for i in range(file.num_record_batches))
    else:
        yield from (_select_columns(batch, columns) for batch in pa.ipc.open_stream(source))


def _parquet_batches(source: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
    present = [name for name in parquet.schema_arrow.names if name in columns]
    for i in range(parquet.num_row_groups):
        row_bytes = _row_bytes(parquet.metadata.row_group(i), set(present))
        batch_rows = max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))
        yield from parquet.iter_batches(batch_size=batch_rows, row_groups=[i], columns=present or None)


def _row_bytes(row_group: pq.RowGroupMetaData, columns: set[str]) -> int:
    """About how much a large row takes: the mean, and where values stand in a dictionary, all of that."""
    total = 0
    for i in range(row_group.num_columns):
        chunk = row_group.column(i)
        if columns and chunk.path_in_schema.split(".")[0] not in columns:
            continue
        total += chunk.total_uncompressed_size // max(1, row_group.num_rows)
        if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
            packed = max(0, chunk.data_page_offset - chunk.dictionary_page_offset)
            total += packed * chunk.total_uncompressed_size // max(1, chunk.total_compressed_size)
    return int(total)


def _select_columns(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    present = [name for name in batch.schema.names if name in columns]
    return batch.select(present) if present else batch


def read_table_rows(batches: Iterable[pa.RecordBatch], max_row_bytes: int) -> Iterator[RawRow]:
    """The rows of record batches as dicts, numbered from 1. One that cannot be converted has an error.

    So has one of more than `max_row_bytes`, counted as Arrow holds it.
    """
    number = 1
    for batch in batches:
        # Slices, because a batch may have more rows than memory holds as Python objects.
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = batch.slice(start, BATCH_ROWS)
            yield from _rows(rows, number, max_row_bytes)
            number += rows.num_rows


def _rows(rows: pa.RecordBatch, number: int, max_row_bytes: int) -> Iterator[RawRow]:
    size = _size(rows)
    if size > max_row_bytes and rows.num_rows > 1:
        half = rows.num_rows // 2
        yield from _rows(rows.slice(0, half), number, max_row_bytes)
        yield from _rows(rows.slice(half), number + half, max_row_bytes)
    elif size > max_row_bytes:
        yield too_large(number, size, max_row_bytes, _beginning(rows))
    else:
        row_size = size // max(1, rows.num_rows)
        try:
            yield from [RawRow(number + i, row, size=row_size) for i, row in enumerate(_to_dicts(rows))]
        except Exception:  # one bad value fails the conversion of all rows: convert them one by one
            yield from (_convert_row(number + i, rows.slice(i, 1), row_size) for i in range(rows.num_rows))


def _size(rows: pa.RecordBatch) -> int:
    """Bytes of the rows. Of a dictionary only the entries that they name count, of views only what they show."""
    return sum(_column_size(column, field.type) for column, field in zip(rows.columns, rows.schema, strict=True))


def _column_size(column: pa.Array, type: pa.DataType) -> int:
    if pa.types.is_dictionary(type):
        return _column_size(column.dictionary.take(column.indices.unique().drop_null()), type.value_type)
    if pa.types.is_string_view(type) or pa.types.is_binary_view(type):
        return pc.sum(pc.binary_length(column.cast(pa.large_binary()))).as_py() or 0
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return _column_size(column.flatten(), type.value_type) + 4 * len(column)
    if pa.types.is_struct(type):
        return sum(_column_size(child, type.field(i).type) for i, child in enumerate(column.flatten()))
    return int(column.nbytes)


def _beginning(row: pa.RecordBatch) -> bytes:
    """The beginnings of the texts of one row, without the rest of them."""
    beginnings = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            text = pc.binary_slice(column.cast(pa.large_binary()), 0, 4 * _EXCERPT_CHARACTERS)[0].as_py()
            beginnings[name] = None if text is None else text.decode("utf-8", "replace")[:_EXCERPT_CHARACTERS]
        else:
            beginnings[name] = f"({str(column.type)[:40]})"
    return json.dumps(beginnings, ensure_ascii=False).encode("utf-8", "replace")


def _convert_row(number: int, row: pa.RecordBatch, size: int) -> RawRow:
    try:
        return RawRow(number, _to_dicts(row)[0], size=size)
    except Exception as error:  # a date that Python has not, text that is not UTF-8, JSON nested too deeply, …
        return RawRow(number, error=f"unusable value: {error}", size=size)


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
