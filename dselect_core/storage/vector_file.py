"""Vectors of fixed width in a plain `.npy` file: memory-mapped on a disk, read by byte ranges from an object store.

The row number gives the place in the file. So a few random rows cost a few pages (or one request where they lie close),
and all rows cost one pass. Every row has a check, kept outside the file, and every row that is read is verified with
it. A check finds accidents (torn, zeroed, swapped, altered bytes); it is no defence against an adversary.

Trade-off: rows pass through blocks of 1 MB and are copied once into the caller's array. A view of the mapped file
would save that copy, but the process would die (SIGBUS) when another process truncates the file.
"""

import io
import json
import mmap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from upath import UPath

from dselect_core.storage.files import is_local, write_buffers

# One block: small enough for a core's cache, large enough that the cost of numpy's calls does not count.
_BLOCK_BYTES = 1 << 20
# Below one row in so many, a disk file is read page by page.
_SPARSE = 8
# Object store: rows that lie closer than the gap share a request; largest request; most bytes requested at once.
_GAP_BYTES = 1 << 18
_RANGE_BYTES = 1 << 23
_AT_ONCE_BYTES = 1 << 27


@dataclass(frozen=True)
class ArrayLayout:
    """How an array [rows, width] lies in its file, from byte `offset` on. dtype: as numpy writes it ("<f4")."""

    dtype: str
    width: int
    rows: int
    offset: int

    @classmethod
    def of(cls, values: np.ndarray) -> "ArrayLayout":
        """The layout that `write_vectors` gives to values [rows, width]."""
        layout = cls(values.dtype.newbyteorder("<").str, values.shape[1], values.shape[0], 0)
        return cls(layout.dtype, layout.width, layout.rows, len(layout.header))

    @classmethod
    def parse(cls, text: str) -> "ArrayLayout":
        """The layout whose `str` is the text."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def header(self) -> bytes:
        """The first bytes of the file, from which numpy.load reads dtype and shape."""
        buffer = io.BytesIO()
        shape = (self.rows, self.width)
        np.lib.format.write_array_header_1_0(buffer, {"descr": self.dtype, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * self.width

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.offset + self.rows * self.row_bytes


def write_vectors(values: np.ndarray, path: UPath) -> None:
    """Write values [rows, width] as `.npy`. The file is visible complete or not at all."""
    layout = ArrayLayout.of(values)
    contiguous = np.ascontiguousarray(values, dtype=layout.dtype)
    write_buffers([layout.header, contiguous.reshape(-1).view(np.uint8).data], path)


def compute_checks(values: np.ndarray) -> np.ndarray:
    """The check of each row of values [rows, width]: uint64 [rows].

    Σ w_i·c_i mod 2⁶⁴ over a row's 32-bit words w_i, with fixed odd 64-bit numbers c_i: the multilinear hash of
    Lemire & Kaser (arXiv 1202.4961). Words of 64 bits would take half the time but make no hash: a product mod 2⁶⁴
    keeps only the parity of the highest bit, so two changed signs would give the same check.
    """
    row_bytes = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).view(np.uint8)
    word_count = -(-row_bytes.shape[1] // 4)
    factors = _factors(word_count)
    checks = np.empty(len(row_bytes), np.uint64)
    step = max(1, _BLOCK_BYTES // max(1, row_bytes.shape[1]))
    for start in range(0, len(row_bytes), step):
        block = row_bytes[start : start + step]
        if row_bytes.shape[1] % 4:
            padded = np.zeros((len(block), word_count * 4), np.uint8)
            padded[:, : row_bytes.shape[1]] = block
            block = padded
        np.einsum("ij,j->i", block.view("<u4").astype(np.uint64), factors, out=checks[start : start + step])
    return checks


def _factors(count: int) -> np.ndarray:
    """The first `count` outputs of splitmix64 from 0, made odd: part of the file format, so they must never change."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)


def read_vectors_into(
    out: np.ndarray, out_rows: np.ndarray, path: UPath, layout: ArrayLayout, rows: np.ndarray, checks: np.ndarray
) -> np.ndarray:
    """Set out[out_rows[i]] to row rows[i] of the file. Returns the numbers of the rows that do not have their check.

    out: [n, width] of the layout's dtype; out_rows, rows: integers [k], rows below `layout.rows`; checks: uint64 [k],
    of these rows. Raises FileNotFoundError when the file is gone, or shorter than its layout says.
    """
    order = np.argsort(rows, kind="stable")
    rows, checks, out_rows = rows[order], checks[order], out_rows[order]
    altered_rows = []
    start = 0
    for block in _blocks_of_disk(path, layout, rows) if is_local(path) else _blocks_of_object(path, layout, rows):
        end = start + len(block)
        block_out_rows = out_rows[start:end]
        out[_as_slice(block_out_rows)] = block
        altered_rows.append(rows[start:end][compute_checks(block) != checks[start:end]])
        start = end
    return np.concatenate(altered_rows) if altered_rows else rows[:0]


def _as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """Row numbers as a slice where they are consecutive (numpy then copies whole blocks), else as they are."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
        return slice(rows[0], rows[-1] + 1)
    return rows


def _blocks_of_disk(path: UPath, layout: ArrayLayout, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows (ascending) of a file on a disk, block by block."""
    with Path(path.path).open("rb") as file:
        try:
            pages = mmap.mmap(file.fileno(), layout.size, access=mmap.ACCESS_READ)
        except ValueError as error:  # the file is shorter than the layout
            raise FileNotFoundError(f"{path}: {error}") from None
    if len(rows) * _SPARSE < layout.rows:
        pages.madvise(mmap.MADV_RANDOM)  # else the kernel also reads the pages around each row
    mapped = np.frombuffer(pages, layout.dtype, offset=layout.offset).reshape(layout.rows, layout.width)
    step = max(1, _BLOCK_BYTES // layout.row_bytes)
    for start in range(0, len(rows), step):
        yield np.asarray(mapped[_as_slice(rows[start : start + step])])


def _blocks_of_object(path: UPath, layout: ArrayLayout, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows (ascending) of a file in an object store, one block a request; several requests run at once."""
    gap_rows = max(1, _GAP_BYTES // layout.row_bytes)
    range_rows = max(1, _RANGE_BYTES // layout.row_bytes)
    spans: list[tuple[int, int]] = []  # of positions in `rows`; the end is not included
    for stretch in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > gap_rows) + 1):
        start = 0
        while start < len(stretch):
            end = int(np.searchsorted(rows[stretch], rows[stretch[start]] + range_rows))
            spans.append((int(stretch[start]), int(stretch[end - 1]) + 1))
            start = end
    span_bytes = [(int(rows[last - 1] - rows[first]) + 1) * layout.row_bytes for first, last in spans]
    turns = np.cumsum(span_bytes) // _AT_ONCE_BYTES
    for turn in np.unique(turns):
        turn_spans = [spans[i] for i in np.flatnonzero(turns == turn)]
        starts = [layout.offset + int(rows[first]) * layout.row_bytes for first, _ in turn_spans]
        ends = [layout.offset + (int(rows[last - 1]) + 1) * layout.row_bytes for _, last in turn_spans]
        answers = path.fs.cat_ranges([path.path] * len(turn_spans), starts, ends, on_error="raise")
        for (first, last), data, start, end in zip(turn_spans, answers, starts, ends, strict=True):
            if len(data) != end - start:
                raise FileNotFoundError(f"{path}: shorter than its {layout.rows} rows")
            block = np.frombuffer(data, layout.dtype).reshape(-1, layout.width)
            yield block[rows[first:last] - rows[first]]


def column_to_array(column: pl.Series) -> np.ndarray:
    """The vectors of a pl.Array column that are not null, [n, width].

    Raises ValueError when the column is not a pl.Array of numbers, or a vector has a null inside.
    """
    dtype, vectors = column.dtype, column.drop_nulls()
    if not isinstance(dtype, pl.Array) or not dtype.inner.is_numeric() or dtype.size == 0:
        raise ValueError(f"{column.name}: vectors must be a pl.Array of numbers, not {dtype}")
    if vectors.reshape((-1,)).null_count():
        raise ValueError(f"{column.name}: a vector has a null inside")
    values: np.ndarray = vectors.to_numpy().reshape(-1, dtype.size)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{column.name}: vectors of {dtype.inner} are not of fixed width")
    return values


def array_to_column(values: np.ndarray, present: pl.Series) -> pl.Series:
    """Values [n, width] as a pl.Array column, null where `present` [n] is False."""
    column = pl.Series(values, dtype=pl.Array(pl.Series(values[:0, 0]).dtype, values.shape[1]))
    if present.all():
        return column
    return pl.select(pl.when(present).then(column)).to_series()
