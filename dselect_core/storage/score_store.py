"""The store: scores by sample and provenance, kept for ever in append-only Parquet parts.

    scores/<kind>/<fingerprint of the provenance>/provenance.json
                                              <hash of the bytes>.parquet
                                              <the same hash>.npy          where the store has vectors
                                              <the same hash>.bad          rows of that array found altered

A part is written whole under a name that is its content, so writers in any number of processes never collide, a killed
one leaves whole parts only, and what is not whole is recognised (store_folder.py). The same row in several parts is
harmless. An array is written before its part, so that a part whose rows are seen has its vectors; an array without a
part (a writer that was killed, a part that was compacted away) is nothing, and `compact` and `gc` remove it once it is
so old that nobody can be about to write its part.

Trade-offs: a lookup reads every part's keys, once in a process, and rows only from parts that hold some of them;
`compact` keeps the number of files small. A lookup reads no vector: one is verified when it is read, and one that is
not what was written is noted; from then on its row counts as not there, in every process, and the next refresh makes
it again.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from upath import UPath

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.storage import vector_file as vectors
from dselect_core.storage.files import parquet_bytes, write_bytes, write_text
from dselect_core.storage.store_folder import (
    CHECK,
    PROVENANCE,
    PROVENANCE_OF_0_1,
    ROW,
    WRITTEN,
    File,
    Folder,
    Part,
    beside,
)

LARGE = 64 * 2**20
"""Bytes, with the array, from which `compact` leaves a part alone: its work follows what is new, not what is there.

Parts are put together until they reach twice as much, which bounds the memory it takes.
"""

COMPACT_FROM = 8
"""Small parts that are worth compacting."""

_SOURCE = "source"  # number of the part that a row is from, while rows of several are put together


class Vectors(NamedTuple):
    """keys: the key columns, ascending; values [n, width]: NaN, or 0 in integers, where `present` [n] is False."""

    keys: pl.DataFrame
    values: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Store:
    """Rows of one kind under one provenance.

    folder: where the parts lie; keys: columns that name a row (a null is a key like any other); retry: a column whose
    null means that the row was tried in vain: kept for the record, yet still `missing`. None: a null is an answer.
    array: the pl.Array column of numbers that is kept in array files; None: every column is in the parts.
    skipped: {file: why} of what was met in the folder and not trusted.
    """

    folder: UPath
    keys: tuple[str, ...] = ("sample_id",)
    retry: str | None = None
    array: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def _files(self) -> Folder:
        return Folder(self.folder, self.keys, self.retry, self.array, self.skipped)

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @property
    def provenance(self) -> dict[str, Any]:
        """What `write_provenance` wrote. Raises FileNotFoundError where nothing was written."""
        path = self.folder / PROVENANCE
        provenance: dict[str, Any] = json.loads(
            (path if path.exists() else self.folder / PROVENANCE_OF_0_1).read_text("utf-8")
        )
        return provenance

    def write_provenance(self, provenance: dict[str, Any]) -> None:
        """Write how the scores are made beside the parts, once. Raises ValueError when it is another folder's."""
        if fingerprint(provenance) != self.fingerprint:
            raise ValueError(f"{self.folder}: its name is not the fingerprint of {provenance}")
        if not (self.folder / PROVENANCE).exists():
            write_text(json.dumps(provenance, indent=2, sort_keys=True), self.folder / PROVENANCE)

    def missing(self, rows: pl.DataFrame, *, tried: bool = True) -> pl.DataFrame:
        """The rows (their order and columns kept) that no part holds, and, with `tried`, those tried in vain."""
        columns = [*self.keys, self.retry] if self.retry else list(self.keys)
        keys = self._files.each(self._files.keys_in)
        if not keys:
            return rows
        held = pl.concat([part.frame.select(columns) for part in keys])
        if self.retry and tried:
            held = held.filter(pl.col(self.retry).is_not_null())
        return rows.join(held, on=list(self.keys), how="anti", nulls_equal=True, maintain_order="left")

    def append(self, frame: pl.DataFrame) -> UPath | None:
        """Write rows as one more part, visible whole or not at all; returns its path, None for no rows.

        Raises ValueError when the column of vectors is not a pl.Array of numbers, or has a null inside a row.
        """
        if frame.is_empty():
            return None
        if WRITTEN not in frame.columns:
            frame = frame.with_columns(pl.lit(datetime.now(UTC), pl.Datetime("us", "UTC")).alias(WRITTEN))
        if self.array is None:
            return self._write(frame)
        values = vectors.array_of(frame[self.array])
        has = frame[self.array].is_not_null()
        row = pl.when(has).then(has.cum_sum() - 1).cast(pl.Int64).alias(self.array)
        # In the vector's place, for the order of the columns is kept.
        return self._write(frame.with_columns(row).rename({self.array: ROW}), values)

    def read(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """What is held of `rows` (their key columns are read), ascending by key, one row a key.

        columns: those wanted beside the keys; by default all but WRITTEN. With nothing held, a frame without rows.
        """
        wanted = None if columns is None else list(dict.fromkeys([*self.keys, *columns]))
        if self.array is not None and (wanted is None or self.array in wanted):
            apart = None if wanted is None else [name for name in wanted if name != self.array]
            found = self._with_vectors(apart, rows)
            if found is None:
                return rows.select(self.keys).clear()
            held, values = found
            held = held.with_columns(vectors.column_of(values, held[ROW].is_not_null()).alias(ROW)).rename(
                {ROW: self.array}
            )
        else:
            some = self._files.again(lambda: self._rows(wanted, rows))
            if some is None:
                return rows.select(self.keys).clear()
            held = some[0]
        return held.drop(WRITTEN, CHECK, _SOURCE, strict=False) if wanted is None else held.select(wanted)

    def read_array(self, rows: pl.DataFrame) -> Vectors:
        """The vectors held of `rows`, ascending by key, one row a key, without a copy as a frame.

        With no part at all there is no width: values are [0, 0]. Raises DselectError when parts differ in shape.
        """
        found = self._with_vectors(self.keys, rows)
        if found is None:
            return Vectors(rows.select(self.keys).clear(), np.zeros((0, 0), np.float32), np.zeros(0, bool))
        held, values = found
        return Vectors(held.select(self.keys), values, held[ROW].is_not_null().to_numpy())

    def outline(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
        """`read`, but of the vectors only whether there is one (True, or null), and {column: type} of those."""
        if self.array is None:
            return self.read(rows), {}
        found = self._files.again(lambda: self._rows(None, rows))
        if found is None:
            return rows.select(self.keys).clear(), {}
        held, sources = found
        has = pl.when(pl.col(ROW).is_not_null()).then(True).alias(ROW)
        frame = held.with_columns(has).rename({ROW: self.array}).drop(WRITTEN, CHECK, _SOURCE)
        layout = self._shape(sources)
        return frame, {self.array: f"Array({np.dtype(layout.dtype)}, {layout.width})"}

    def parts(self, columns: Sequence[str] | None = None) -> list[Part]:
        """Every part that can be trusted, with all or some columns, none of them the vectors'."""
        parts = self._parts(columns)
        if self.array is None:
            return parts
        return [replace(part, frame=part.frame.drop(ROW, CHECK, strict=False)) for part in parts]

    def compact(self, at_least: int = 2) -> int:
        """Put the small parts together when there are `at_least` so many; returns how many it replaced.

        Safe beside writers, readers and other compactions: a part goes only once its rows stand in the new one.
        """
        self._files.sweep()
        at_least = max(2, at_least)
        if len(self._files.each(lambda file: file.size < LARGE or None)) < at_least:
            return 0
        small = self._files.each(lambda file: self._files.part_of(file, None) if file.size < LARGE else None)
        if len(small) < at_least:
            return 0
        return sum(self._replace(group, [part.frame for part in group]) for group in _groups(small))

    def gc(self, keep: pl.DataFrame) -> int:
        """Drop the rows whose key is not in `keep` (its key columns are read); returns how many rows."""
        self._files.sweep()
        dropped = 0
        for part in self._parts(None):
            kept = part.frame.join(keep, on=list(self.keys), how="semi", nulls_equal=True)
            if kept.height < part.frame.height and self._replace([part], [kept]):
                dropped += part.frame.height - kept.height
        return dropped

    def _parts(self, columns: Sequence[str] | None) -> list[Part]:
        if columns is not None and self.array is not None:
            columns = [*columns, ROW]
        return self._files.each(lambda file: self._files.part_of(file, columns))

    def _write(self, frame: pl.DataFrame, values: np.ndarray | None = None) -> UPath:
        metadata = {"fingerprint": self.fingerprint}
        if values is not None:
            check = np.zeros(frame.height, np.uint64)
            check[frame[ROW].is_not_null().to_numpy()] = vectors.checks(values)
            frame = frame.with_columns(pl.Series(CHECK, check))
            metadata["array"] = str(vectors.Layout.of(values))
        data = parquet_bytes(frame, metadata)
        path: UPath = self.folder / f"{digest([data])}.parquet"
        if values is not None and len(values):
            vectors.write(values, beside(path, "npy"))
        write_bytes(data, path)
        return path

    def _replace(self, parts: list[Part], frames: list[pl.DataFrame]) -> int:
        """Put the rows in place of the parts; returns how many, none where a vector turns out to be altered."""
        rows = self._ascending(pl.concat(self._numbered(frames)))
        written = None
        if self.array is None:
            written = self.append(rows)
        elif rows.height:
            try:
                values = self._values(rows, [(part.path, part.layout) for part in parts if part.layout])
            except FileNotFoundError:  # somebody else has put them together
                values = None
            if values is None:
                return 0
            has = rows[ROW].is_not_null()
            row = pl.when(has).then(has.cum_sum() - 1).cast(pl.Int64).alias(ROW)
            written = self._write(rows.with_columns(row).drop(CHECK, _SOURCE), values[has.to_numpy()])
        for part in parts:
            if part.path != written:
                part.path.unlink(missing_ok=True)
                if part.layout is not None:  # after the part, so that no part is without its array
                    for what in ("npy", "bad"):
                        beside(part.path, what).unlink(missing_ok=True)
        return len(parts)

    def _numbered(self, frames: Iterable[pl.DataFrame]) -> list[pl.DataFrame]:
        if self.array is None:
            return list(frames)
        return [frame.with_columns(pl.lit(number, pl.UInt32).alias(_SOURCE)) for number, frame in enumerate(frames)]

    def _rows(
        self, columns: Sequence[str] | None, wanted: pl.DataFrame
    ) -> tuple[pl.DataFrame, list[tuple[UPath, vectors.Layout]]] | None:
        """Columns of the rows whose keys are in `wanted`, ascending by key, one row a key; None without parts.

        With vectors also their rows, checks and the numbers of their parts, and those parts.
        """
        if columns is not None:
            located = [ROW, CHECK] if self.array else []
            columns = list(dict.fromkeys([*columns, *located, WRITTEN, *([self.retry] if self.retry else [])]))
        keys = wanted.select(self.keys)

        def among(frame: pl.DataFrame) -> pl.DataFrame:
            return frame.join(keys, on=list(self.keys), how="semi", nulls_equal=True)

        def look(file: File) -> Part | None:
            held = self._files.keys_in(file)
            if held is None or (mine := among(held.frame)).is_empty():
                return None
            if columns is not None and set(columns) <= set(mine.columns):
                return replace(held, frame=mine.select(columns))
            part = self._files.part_of(file, columns)
            return None if part is None else replace(part, frame=among(part.frame))

        found = self._files.looked(look)
        if not found:  # then no rows, but the columns that any part has
            some = self._files.looked(lambda file: self._files.part_of(file, columns), most=1)
            found = [replace(part, frame=part.frame.clear()) for part in some]
        if not found:
            return None
        frames = self._numbered(part.frame for part in found)
        return self._ascending(pl.concat(frames), keys), [(part.path, part.layout) for part in found if part.layout]

    def _with_vectors(
        self, columns: Sequence[str] | None, wanted: pl.DataFrame
    ) -> tuple[pl.DataFrame, np.ndarray] | None:
        """As `_rows`, with the vectors. A row found altered may stand in another part: look again."""
        while True:

            def work() -> tuple[pl.DataFrame, np.ndarray | None] | None:
                found = self._rows(columns, wanted)
                if found is None:
                    return None
                return found[0], self._values(*found)

            found = self._files.again(work)
            if found is None:
                return None
            held, values = found
            if values is not None:
                return held, values

    def _values(self, rows: pl.DataFrame, sources: list[tuple[UPath, vectors.Layout]]) -> np.ndarray | None:
        """The vectors of rows of these parts; None when some are not what was written: then they are noted."""
        layout = self._shape(sources)
        dtype = np.dtype(layout.dtype)
        values = np.empty((rows.height, layout.width), dtype)
        has = rows[ROW].is_not_null().to_numpy()
        values[~has] = np.nan if dtype.kind == "f" else 0
        row, check, source = rows[ROW].fill_null(0).to_numpy(), rows[CHECK].to_numpy(), rows[_SOURCE].to_numpy()
        sound = True
        for number, (path, of_part) in enumerate(sources):
            mine = np.flatnonzero(has & (source == number))
            if not len(mine):
                continue
            wrong = vectors.fill(beside(path, "npy"), of_part, row[mine], check[mine], values, mine)
            if len(wrong):
                self._files.note_altered(path, of_part, wrong)
                sound = False
        return values if sound else None

    def _shape(self, sources: list[tuple[UPath, vectors.Layout]]) -> vectors.Layout:
        shapes = {(layout.dtype, layout.width) for _, layout in sources}
        if len(shapes) > 1:
            raise DselectError(f"{self.folder}: vectors of several shapes under one provenance: {sorted(shapes)}")
        return sources[0][1]

    def _ascending(self, rows: pl.DataFrame, wanted: pl.DataFrame | None = None) -> pl.DataFrame:
        """One row a key, ascending by key. wanted: keys, all that the rows have; in order they save the sorting."""
        if wanted is not None and len(self.keys) == 1 and wanted.to_series().is_sorted():
            on = list(self.keys)
            ordered = wanted.unique(maintain_order=True) if self._repeats(wanted) else wanted
            ordered = ordered.join(rows, on=on, how="inner", nulls_equal=True, maintain_order="left")
            ordered = ordered.select(rows.columns)
        else:
            ordered = rows.sort(self.keys)
        return self._best(rows).sort(self.keys) if self._repeats(ordered) else ordered

    def _repeats(self, ordered: pl.DataFrame) -> bool:
        """Whether a key stands twice; like keys are neighbours."""
        same = pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift()) for key in self.keys)
        return bool(ordered.select(same.slice(1).any()).item())

    def _best(self, rows: pl.DataFrame) -> pl.DataFrame:
        """One row a key: of those with a value the oldest, which others may have read; else the latest attempt."""
        rows = rows.sort(WRITTEN, maintain_order=True)
        if self.retry:
            tried = pl.col(self.retry).is_null()
            rows = pl.concat([rows.filter(~tried), rows.filter(tried).reverse()])
        return rows.unique(self.keys, keep="first", maintain_order=True)


def _groups(parts: list[Part]) -> list[list[Part]]:
    """Parts to be put together, at least two each, so that each sum is no more than three times LARGE."""
    groups: list[list[Part]] = [[]]
    for part in parts:
        if sum(other.size for other in groups[-1]) >= 2 * LARGE:
            groups.append([])
        groups[-1].append(part)
    return [group for group in groups if len(group) > 1]
