"""Fixed-width rows in a file of their own: a plain `.npy`, memory-mapped on a disk, read by byte ranges elsewhere.

A row is where its number says, so a few random rows cost a few pages (or one request where they lie close), and all of
them one pass. Every row has a check, kept apart from the file: what is read is verified row by row and nothing else is
read for it. The check is made for accidents (torn, zeroed, swapped, altered bytes), not against an adversary.

Trade-off: rows pass through blocks of a few MB, copied once into the caller's array; a view of the mapped file would
save that copy, and die with the process (SIGBUS) where somebody cuts the file while it is used.
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

# Of a block: small enough for a core's cache, large enough that numpy's calls do not count.
_BLOCK_BYTES = 1 << 20
# Fewer rows than one in so many are read from a disk page by page.
_SPARSE = 8
# On an object store: what lies closer is asked for together; most of a request, and of those in memory.
_GAP_BYTES = 1 << 18
_RANGE_BYTES = 1 << 23
_AT_ONCE_BYTES = 1 << 27


@dataclass(frozen=True)
class Layout:
    """How an array lies in its file: dtype as numpy writes it ("<f4"), rows of `width`, from byte `offset` on."""

    dtype: str
    width: int
    rows: int
    offset: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Layout":
        layout = cls(values.dtype.newbyteorder("<").str, values.shape[1], values.shape[0], 0)
        return cls(layout.dtype, layout.width, layout.rows, len(layout.header))

    @classmethod
    def parse(cls, text: str) -> "Layout":
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def header(self) -> bytes:
        """The beginning of the file, by which numpy.load knows it."""
        buffer = io.BytesIO()
        shape = (self.rows, self.width)
        np.lib.format.write_array_header_1_0(buffer, {"descr": self.dtype, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * self.width

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.offset + self.rows * self.row_bytes


def write(values: np.ndarray, path: UPath) -> None:
    """values [rows, width], as `.npy`, whole or not at all."""
    layout = Layout.of(values)
    laid = np.ascontiguousarray(values, dtype=layout.dtype)
    write_buffers([layout.header, laid.reshape(-1).view(np.uint8).data], path)


def checks(values: np.ndarray) -> np.ndarray:
    """uint64 [rows]: Σ w_i·c_i mod 2⁶⁴ over a row's 32-bit words, c_i fixed 64-bit numbers.

    The multilinear hash of Lemire & Kaser (arXiv 1202.4961). With words of 64 bits it would take half as long and be
    no hash: a product mod 2⁶⁴ keeps nothing of the highest bit but its parity, so two changed signs would not show.
    """
    raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).view(np.uint8)
    words = -(-raw.shape[1] // 4)
    factors = _factors(words)
    found = np.empty(len(raw), np.uint64)
    step = max(1, _BLOCK_BYTES // max(1, raw.shape[1]))
    for start in range(0, len(raw), step):
        block = raw[start : start + step]
        if raw.shape[1] % 4:
            padded = np.zeros((len(block), words * 4), np.uint8)
            padded[:, : raw.shape[1]] = block
            block = padded
        np.einsum("ij,j->i", block.view("<u4").astype(np.uint64), factors, out=found[start : start + step])
    return found


def _factors(count: int) -> np.ndarray:
    """The first `count` outputs of splitmix64 from 0, made odd: part of the format, never to be changed."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)


def fill(
    path: UPath, layout: Layout, rows: np.ndarray, expected: np.ndarray, out: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """out[targets[i]] = row rows[i] of the file; returns the numbers of the rows that are not what was written.

    rows, targets: integers [k], no row beyond `layout.rows`; expected: their checks. Raises FileNotFoundError when
    the file is gone, or shorter than its layout says.
    """
    order = np.argsort(rows, kind="stable")
    rows, expected, targets = rows[order], expected[order], targets[order]
    wrong = []
    start = 0
    for block in _mapped(path, layout, rows) if is_local(path) else _ranges(path, layout, rows):
        end = start + len(block)
        at = targets[start:end]
        whole = len(at) and at[-1] - at[0] == len(at) - 1 and (len(at) < 2 or bool((np.diff(at) == 1).all()))
        out[slice(at[0], at[-1] + 1) if whole else at] = block
        wrong.append(rows[start:end][checks(block) != expected[start:end]])
        start = end
    return np.concatenate(wrong) if wrong else rows[:0]


def _mapped(path: UPath, layout: Layout, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows (ascending), block by block, from a file on a disk."""
    with Path(path.path).open("rb") as file:
        try:
            pages = mmap.mmap(file.fileno(), layout.size, access=mmap.ACCESS_READ)
        except ValueError as error:  # the file is shorter than that
            raise FileNotFoundError(f"{path}: {error}") from None
    if len(rows) * _SPARSE < layout.rows:
        pages.madvise(mmap.MADV_RANDOM)  # else the kernel reads and maps what lies around each row
    mapped = np.frombuffer(pages, layout.dtype, offset=layout.offset).reshape(layout.rows, layout.width)
    step = max(1, _BLOCK_BYTES // layout.row_bytes)
    for start in range(0, len(rows), step):
        at = rows[start : start + step]
        dense = at[-1] - at[0] == len(at) - 1 and bool((np.diff(at) == 1).all())
        yield np.asarray(mapped[at[0] : at[-1] + 1] if dense else mapped[at])


def _ranges(path: UPath, layout: Layout, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows (ascending) from an object store, a request's worth at a time."""
    near = max(1, _GAP_BYTES // layout.row_bytes)
    most = max(1, _RANGE_BYTES // layout.row_bytes)
    spans: list[tuple[int, int]] = []  # positions in `rows`: from, to
    for stretch in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > near) + 1):
        start = 0
        while start < len(stretch):
            end = int(np.searchsorted(rows[stretch], rows[stretch[start]] + most))
            spans.append((int(stretch[start]), int(stretch[end - 1]) + 1))
            start = end
    sizes = [(int(rows[b - 1] - rows[a]) + 1) * layout.row_bytes for a, b in spans]
    turn = np.cumsum(sizes) // _AT_ONCE_BYTES
    for number in np.unique(turn):
        some = [spans[i] for i in np.flatnonzero(turn == number)]
        starts = [layout.offset + int(rows[a]) * layout.row_bytes for a, _ in some]
        ends = [layout.offset + (int(rows[b - 1]) + 1) * layout.row_bytes for _, b in some]
        found = path.fs.cat_ranges([path.path] * len(some), starts, ends, on_error="raise")
        for (a, b), data, start, end in zip(some, found, starts, ends, strict=True):
            if len(data) != end - start:
                raise FileNotFoundError(f"{path}: shorter than its {layout.rows} rows")
            block = np.frombuffer(data, layout.dtype).reshape(-1, layout.width)
            yield block[rows[a:b] - rows[a]]


def array_of(column: pl.Series) -> np.ndarray:
    """The rows of a column of vectors that are not null, [n, width]."""
    dtype, present = column.dtype, column.drop_nulls()
    if not isinstance(dtype, pl.Array) or not dtype.inner.is_numeric() or dtype.size == 0:
        raise ValueError(f"{column.name}: vectors must be a pl.Array of numbers, not {dtype}")
    if present.reshape((-1,)).null_count():
        raise ValueError(f"{column.name}: a vector has a null inside")
    values: np.ndarray = present.to_numpy().reshape(-1, dtype.size)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{column.name}: vectors of {dtype.inner} are not of fixed width")
    return values


def column_of(values: np.ndarray, present: pl.Series) -> pl.Series:
    """Vectors as a pl.Array column, null where not present."""
    column = pl.Series(values, dtype=pl.Array(pl.Series(values[:0, 0]).dtype, values.shape[1]))
    if present.all():
        return column
    return pl.select(pl.when(present).then(column)).to_series()
