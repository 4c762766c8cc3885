"""The store: scores by sample, under one provenance, kept in append-only parts.

    scores/<kind>/<fingerprint of the provenance>/provenance.json
                                                  <hash of the bytes>.parquet
                                                  <the same hash>.npy          where the store has vectors
                                                  <the same hash>.bad          rows of that array found altered
                                                  <a name of its own>.log      costly rows, before a part (row_log.py)

A part becomes visible whole, under a name that is the hash of its bytes. So writers in any number of processes never
collide, a killed writer leaves whole parts only, and a damaged part is recognised (store_folder.py). The same row in
several parts is harmless (deduplicate.py). The array of a part is written before the part, so every visible part has
its vectors. An array without a part (its writer was killed, or its part compacted) is ignored; `compact` and `gc`
remove it when it is too old for its writer to be still at work.

Trade-offs: a lookup reads the keys of every part, once in a process, and whole rows only from parts that hold some of
the rows; `compact` keeps the number of files small. A lookup reads no vector, so it cannot know of an altered one. A
vector is verified when it is read; if it is altered, its row counts as missing from then on, in every process, and the
next refresh computes it again.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from upath import UPath

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.storage import vector_file
from dselect_core.storage.deduplicate import sort_and_deduplicate
from dselect_core.storage.files import parquet_bytes, read_bytes, write_bytes, write_text
from dselect_core.storage.json_file import parse_json
from dselect_core.storage.lookup import parts_with
from dselect_core.storage.store_folder import (
    CHECK,
    PROVENANCE,
    PROVENANCE_OF_0_1,
    ROW,
    WRITTEN_AT,
    ListedPart,
    Part,
    StoreFolder,
    altered_rows_path,
    array_path,
    stamped,
)
from dselect_core.storage.vector_file import ArrayLayout

LARGE_PART_BYTES = 64 * 2**20
"""Size, with the array, from which `compact` leaves a part alone: its cost follows what is new, not what is stored.

It joins smaller parts until they have twice this size, which bounds its memory.
"""

COMPACT_MIN_PARTS = 8
"""From this many small parts on, a compaction is worth its cost."""

_log = logging.getLogger(__name__)

_PART_NUMBER = "part_number"  # column in memory: which of several parts the row is from

PartArrays = list[tuple[UPath, ArrayLayout]]
"""Parts by their number, with the layouts of their arrays; empty in a store without vectors."""


class Vectors(NamedTuple):
    """keys: the key columns, ascending; values [n, width]: NaN, or 0 in integers, where `present` [n] is False."""

    keys: pl.DataFrame
    values: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Store:
    """Scores of one kind under one provenance.

    folder: where the parts lie. keys: the columns that identify a row; a null in them is a value like any other.
    retry_column: a null in it means that the attempt failed: the row is stored, and still `missing`. None: a null is an
    answer. array_column: the pl.Array column of numbers that is kept in array files; None: the parts hold all columns.
    skipped: {file: why it is not trusted}, filled while the store is used.
    """

    folder: UPath
    keys: tuple[str, ...] = ("sample_id",)
    retry_column: str | None = None
    array_column: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def _store_folder(self) -> StoreFolder:
        return StoreFolder(self.folder, self.keys, self.retry_column, self.array_column, self.skipped)

    @property
    def fingerprint(self) -> str:
        """The hash of the provenance."""
        return self.folder.name

    @property
    def provenance(self) -> dict[str, Any]:
        """What `write_provenance` wrote, also in version 0.1.

        Raises FileNotFoundError where nothing was written, DamagedFileError where it is not of this store.
        """
        path = self.folder / PROVENANCE
        try:
            data = read_bytes(path)
        except FileNotFoundError:
            path = self.folder / PROVENANCE_OF_0_1
            data = read_bytes(path)
        provenance = parse_json(data, path)
        if fingerprint(provenance) != self.fingerprint:
            raise DamagedFileError(path, "its fingerprint is not the name of its folder")
        return provenance

    def write_provenance(self, provenance: dict[str, Any]) -> None:
        """Write how the scores are made beside the parts, where it is missing or damaged.

        Its checksum is the name of the folder. Raises ValueError when it is not this store's.
        """
        if fingerprint(provenance) != self.fingerprint:
            raise ValueError(f"{self.folder}: its name is not the fingerprint of {provenance}")
        path = self.folder / PROVENANCE
        try:
            if fingerprint(parse_json(read_bytes(path), path)) == self.fingerprint:
                return
            _log.warning("%s: its fingerprint is not the name of its folder; it is written again", path)
        except FileNotFoundError:
            pass
        except DamagedFileError as error:
            _log.warning("%s It is written again.", error)
        write_text(json.dumps(provenance, indent=2, sort_keys=True), path)

    def missing(self, rows: pl.DataFrame, *, include_failed: bool = True) -> pl.DataFrame:
        """Those of `rows` that no part holds; their order and columns are kept.

        include_failed: also those whose attempts have all failed (null in `retry_column`).
        """
        columns = [*self.keys, self.retry_column] if self.retry_column else list(self.keys)
        parts = self._store_folder.collect(self._store_folder.read_keys)
        if not parts:
            return rows
        stored_rows = pl.concat([part.frame.select(columns) for part in parts])
        if self.retry_column and include_failed:
            stored_rows = stored_rows.filter(pl.col(self.retry_column).is_not_null())
        return rows.join(stored_rows, on=list(self.keys), how="anti", nulls_equal=True, maintain_order="left")

    def append(self, frame: pl.DataFrame) -> UPath | None:
        """Write rows as one more part, which becomes visible whole; returns its path, None for no rows.

        Raises ValueError when the column of vectors is not a pl.Array of numbers, or a vector has a null inside.
        """
        if frame.is_empty():
            return None
        frame = stamped(frame)
        if self.array_column is None:
            return self._write_part(frame)
        values = vector_file.column_to_array(frame[self.array_column])
        # The row numbers take the place of the vectors, because the order of the columns is kept.
        numbered = frame.with_columns(_array_rows(self.array_column)).rename({self.array_column: ROW})
        return self._write_part(numbered, values)

    def read(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The stored rows among `rows` (only their keys are used), ascending by key, one row per key.

        columns: those wanted beside the keys; None: all but WRITTEN_AT. Where nothing is stored, a frame without rows.
        Raises ColumnNotFoundError for an unknown column, DselectError when parts have vectors of different shapes.
        """
        wanted = None if columns is None else list(dict.fromkeys([*self.keys, *columns]))
        if self.array_column is not None and (wanted is None or self.array_column in wanted):
            in_parts = None if wanted is None else [name for name in wanted if name != self.array_column]
            with_vectors = self._read_with_vectors(in_parts, rows)
            if with_vectors is None:
                return rows.select(self.keys).clear()
            stored, values = with_vectors
            vectors = vector_file.array_to_column(values, stored[ROW].is_not_null())
            stored = stored.with_columns(vectors.alias(ROW)).rename({ROW: self.array_column})
        else:
            without_vectors = self._store_folder.retry_while_files_vanish(lambda: self._read_rows(wanted, rows))
            if without_vectors is None:
                return rows.select(self.keys).clear()
            stored = without_vectors[0]
        if wanted is not None:
            return stored.select(wanted)
        return stored.drop(WRITTEN_AT, CHECK, _PART_NUMBER, strict=False)

    def read_array(self, rows: pl.DataFrame) -> Vectors:
        """The stored vectors of `rows` as one array, ascending by key, one row per key; no copy is made as a frame.

        Where the store has no part, the width is unknown: values are [0, 0]. Raises DselectError when parts have
        vectors of different shapes.
        """
        with_vectors = self._read_with_vectors(self.keys, rows)
        if with_vectors is None:
            return Vectors(rows.select(self.keys).clear(), np.zeros((0, 0), np.float32), np.zeros(0, bool))
        stored, values = with_vectors
        return Vectors(stored.select(self.keys), values, stored[ROW].is_not_null().to_numpy())

    def read_without_vectors(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
        """As `read`, but no array is opened: the column of vectors is True where there is one, else null.

        Returns also {that column: the type of its vectors}; empty in a store without vectors.
        """
        if self.array_column is None:
            return self.read(rows), {}
        result = self._store_folder.retry_while_files_vanish(lambda: self._read_rows(None, rows))
        if result is None:
            return rows.select(self.keys).clear(), {}
        stored, arrays = result
        has_vector = pl.when(pl.col(ROW).is_not_null()).then(True).alias(ROW)
        frame = stored.with_columns(has_vector).rename({ROW: self.array_column}).drop(WRITTEN_AT, CHECK, _PART_NUMBER)
        layout = self._common_layout(arrays)
        return frame, {self.array_column: f"Array({np.dtype(layout.dtype)}, {layout.width})"}

    def parts(self, columns: Sequence[str] | None = None) -> list[Part]:
        """Every trusted part, with all or some columns, but without the column of vectors."""
        parts = self._read_parts(columns)
        if self.array_column is None:
            return parts
        return [replace(part, frame=part.frame.drop(ROW, CHECK, strict=False)) for part in parts]

    def compact(self, min_parts: int = 2) -> int:
        """Join small parts into larger ones when there are at least `min_parts` of them; returns how many it replaced.

        Safe beside writers, readers and other compactions: a part is removed only when its rows are in the new one.
        """
        folder = self._store_folder
        folder.remove_leftovers()
        min_parts = max(2, min_parts)

        def is_small(listed: ListedPart) -> bool:
            return listed.size < LARGE_PART_BYTES and not listed.is_growing  # which is its writer's

        if len(folder.collect(lambda listed: is_small(listed) or None)) < min_parts:
            return 0
        small_parts = folder.collect(lambda listed: folder.read_part(listed, None) if is_small(listed) else None)
        if len(small_parts) < min_parts:
            return 0
        return sum(self._replace(group, [part.frame for part in group]) for group in _groups(small_parts))

    def gc(self, keep: pl.DataFrame) -> int:
        """Remove the rows whose keys are not in `keep` (only its keys are used); returns how many rows it removed."""
        folder, removed_rows = self._store_folder, 0
        folder.remove_leftovers()
        for part in folder.collect(lambda listed: None if listed.is_growing else folder.read_part(listed, None)):
            kept_rows = part.frame.join(keep, on=list(self.keys), how="semi", nulls_equal=True)
            if kept_rows.height < part.frame.height and self._replace([part], [kept_rows]):
                removed_rows += part.frame.height - kept_rows.height
        return removed_rows

    def _read_parts(self, columns: Sequence[str] | None) -> list[Part]:
        if columns is not None and self.array_column is not None:
            columns = [*columns, ROW]
        return self._store_folder.collect(lambda listed: self._store_folder.read_part(listed, columns))

    def _write_part(self, frame: pl.DataFrame, values: np.ndarray | None = None) -> UPath:
        metadata = {"fingerprint": self.fingerprint}
        if values is not None:
            checks = np.zeros(frame.height, np.uint64)
            checks[frame[ROW].is_not_null().to_numpy()] = vector_file.compute_checks(values)
            frame = frame.with_columns(pl.Series(CHECK, checks))
            metadata["array"] = str(ArrayLayout.of(values))
        data = parquet_bytes(frame, metadata)
        path: UPath = self.folder / f"{digest([data])}.parquet"
        if values is not None and len(values):
            vector_file.write_vectors(values, array_path(path))
        write_bytes(data, path)
        return path

    def _replace(self, parts: list[Part], frames: list[pl.DataFrame]) -> int:
        """Write one part of the rows, then remove the parts; returns how many it removed.

        It removes none where a vector is found altered: the next compaction leaves that row out.
        """
        rows = sort_and_deduplicate(self._joined(frames), self.keys, self.retry_column)
        new_path = None
        if self.array_column is None:
            new_path = self.append(rows)
        elif rows.height:
            try:
                values = self._read_vectors(rows, [(part.path, part.layout) for part in parts if part.layout])
            except FileNotFoundError:  # another process has compacted them
                values = None
            if values is None:
                return 0
            numbered = rows.with_columns(_array_rows(ROW)).drop(CHECK, _PART_NUMBER)
            new_path = self._write_part(numbered, values[rows[ROW].is_not_null().to_numpy()])
        for part in parts:
            if part.path != new_path:
                part.path.unlink(missing_ok=True)
                if part.layout is not None:  # after the part, so that no part is without its array
                    array_path(part.path).unlink(missing_ok=True)
                    altered_rows_path(part.path).unlink(missing_ok=True)
        return len(parts)

    def _joined(self, frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
        """The rows of several parts. Those of an earlier version may lack columns that the kind has today: null."""
        if self.array_column is not None:
            frames = [f.with_columns(pl.lit(number, pl.UInt32).alias(_PART_NUMBER)) for number, f in enumerate(frames)]
        return pl.concat(frames, how="diagonal")

    def _read_rows(self, columns: Sequence[str] | None, wanted: pl.DataFrame) -> tuple[pl.DataFrame, PartArrays] | None:
        """Columns of the rows whose keys are in `wanted`, ascending by key, one row per key; None without parts.

        In a store of vectors also their array rows, checks and part numbers, and the parts by number.
        """
        if columns is not None:
            for_vectors = [ROW, CHECK] if self.array_column else []
            for_duplicates = [WRITTEN_AT, *([self.retry_column] if self.retry_column else [])]
            columns = list(dict.fromkeys([*columns, *for_vectors, *for_duplicates]))
        folder, wanted_keys = self._store_folder, wanted.select(self.keys)
        parts = parts_with(folder, wanted_keys, columns)
        if not parts:  # no rows, but any one part gives the columns
            first_part = folder.collect_once(lambda listed: folder.read_part(listed, columns), limit=1)
            parts = [replace(part, frame=part.frame.clear()) for part in first_part]
        if not parts:
            return None
        rows = self._joined(part.frame for part in parts)
        rows = sort_and_deduplicate(rows, self.keys, self.retry_column, wanted_keys)
        return rows, [(part.path, part.layout) for part in parts if part.layout]

    def _read_with_vectors(
        self, columns: Sequence[str] | None, wanted: pl.DataFrame
    ) -> tuple[pl.DataFrame, np.ndarray] | None:
        """As `_read_rows`, with the vectors of the rows; None without parts."""

        def attempt() -> tuple[pl.DataFrame, np.ndarray | None] | None:
            result = self._read_rows(columns, wanted)
            return None if result is None else (result[0], self._read_vectors(*result))

        while True:
            result = self._store_folder.retry_while_files_vanish(attempt)
            if result is None:
                return None
            rows, values = result
            if values is not None:
                return rows, values
            # Altered rows are marked by now; another part may hold them too.

    def _read_vectors(self, rows: pl.DataFrame, arrays: PartArrays) -> np.ndarray | None:
        """The vectors [n, width] of rows of these parts; None when some were found altered, which it marks."""
        layout = self._common_layout(arrays)
        dtype = np.dtype(layout.dtype)
        values = np.empty((rows.height, layout.width), dtype)
        has_vector = rows[ROW].is_not_null().to_numpy()
        values[~has_vector] = np.nan if dtype.kind == "f" else 0
        array_rows, checks = rows[ROW].fill_null(0).to_numpy(), rows[CHECK].to_numpy()
        part_numbers = rows[_PART_NUMBER].to_numpy()
        any_altered = False
        for number, (part_path, part_layout) in enumerate(arrays):
            at = np.flatnonzero(has_vector & (part_numbers == number))
            if not len(at):
                continue
            array = array_path(part_path)
            altered = vector_file.read_vectors_into(values, at, array, part_layout, array_rows[at], checks[at])
            if len(altered):
                self._store_folder.mark_altered(part_path, part_layout, altered)
                any_altered = True
        return None if any_altered else values

    def _common_layout(self, arrays: PartArrays) -> ArrayLayout:
        """The layout of all arrays that hold a vector; of those that hold none the width says nothing."""
        layouts = [layout for _, layout in arrays if layout.rows] or [arrays[0][1]]
        shapes = {(layout.dtype, layout.width) for layout in layouts}
        if len(shapes) > 1:
            raise DselectError(f"{self.folder}: vectors of several shapes under one provenance: {sorted(shapes)}")
        return layouts[0]


def _array_rows(column: str) -> pl.Expr:
    """The row numbers in the array file: 0, 1, … over the rows that are not null in the column, null elsewhere."""
    has_vector = pl.col(column).is_not_null()
    return pl.when(has_vector).then(has_vector.cum_sum() - 1).cast(pl.Int64).alias(column)


def _groups(parts: list[Part]) -> list[list[Part]]:
    """Groups of at least two parts to be joined; none is larger than three times LARGE_PART_BYTES."""
    groups: list[list[Part]] = [[]]
    for part in parts:
        if sum(other.size for other in groups[-1]) >= 2 * LARGE_PART_BYTES:
            groups.append([])
        groups[-1].append(part)
    return [group for group in groups if len(group) > 1]
