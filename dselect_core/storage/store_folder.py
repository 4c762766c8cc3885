"""The files of a store: which of them are parts, and which rows of the parts can be trusted.

    <hash of the bytes>.parquet   a part
    <the same hash>.npy           its vectors, where the store has vectors (vector_file.py)
    <the same hash>.bad           the rows of that array that were found altered
    <a name of its own>.log       rows that no part holds yet (row_log.py); only in a store without vectors

The name of a part is the hash of its bytes, so a file that is torn, altered or foreign is recognised. It is named in
`skipped` and in the log, and its rows count as missing. In place of a vector, a part holds the row of the array (null:
no vector) and the check of that row. A part without its whole array is not trusted.

Trade-offs: a part is read whole to be verified, which costs less than decoding it. Its keys then stay in memory for the
life of the process, because parts never change. There is no lock and no list of parts: the folder itself is the truth,
on a disk and in an object store. When a file vanishes under a reader, the reader lists the folder again.
"""

import contextlib
import io
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

import numpy as np
import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import digest
from dselect_core.storage.files import ORPHAN_SECONDS, read_bytes
from dselect_core.storage.folder_listing import FileEntry, list_folder, modification_time
from dselect_core.storage.json_file import parse_json, write_json
from dselect_core.storage.row_log import read_rows
from dselect_core.storage.vector_file import ArrayLayout

WRITTEN_AT = "written_at"
"""Column of every part: when the row was first written. It decides between duplicates, also after a compaction."""

ROW, CHECK = "row", "check"
"""Columns of a part in a store of vectors: the row of the array file (null: no vector), and the check of that row."""

PROVENANCE, PROVENANCE_OF_0_1 = "provenance.json", "recipe.json"
"""The file that says how the scores were made; the folder is named by its fingerprint. Second: its name in 0.1."""

_PART = re.compile(r"(?P<hash>[0-9a-f]{32})\.parquet")
_SIBLING = re.compile(r"(?P<hash>[0-9a-f]{32})\.(npy|bad)")
_LOG = re.compile(r"[0-9a-f]{32}\.log")
_STORE_FILE = re.compile(r"[0-9a-f]{32}\.(parquet|npy|bad|log)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.(parquet|npy|bad)\.[0-9a-f]{32}\.tmp")
_ALTERED_ROWS = "rows"  # the key of a `.bad` file
# How long a reader retries while files vanish. A compaction in an object store removes its files one by one.
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02

# Keys of verified parts: {(fingerprint, file name, its version, columns): part}. All are dropped at the limit.
_verified_keys: dict[tuple[str, ...], "Part"] = {}
_VERIFIED_KEYS_LIMIT = 10_000

# {part: rows of its array that this process found altered}, because the `.bad` file may be impossible to write.
_altered_rows: dict[str, set[int]] = {}

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """One part: its rows (all or some columns), its bytes including the array, and the layout of the array."""

    path: UPath
    frame: pl.DataFrame
    size: int
    layout: ArrayLayout | None = None


@dataclass(frozen=True)
class ListedPart:
    """A part, or a log of rows, as the folder lists it, not yet read.

    size: bytes, including the array; version: changes when the file is written again; array_size: bytes of the array
    file, None where there is none; has_altered_rows: whether a `.bad` file lies beside it. is_growing: it is a log
    whose writer may still be at work.
    """

    path: UPath
    size: int
    version: str
    array_size: int | None
    has_altered_rows: bool
    is_growing: bool = False


@dataclass(frozen=True)
class StoreFolder:
    """The folder of one provenance. keys, retry_column, array_column, skipped: as in `Store`."""

    path: UPath
    keys: tuple[str, ...]
    retry_column: str | None = None
    array_column: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, compare=False)

    def collect(self, read: Callable[[ListedPart], _T | None]) -> list[_T]:
        """`read` of every part, without the Nones. It starts again when a file vanishes."""
        return self.retry_while_files_vanish(lambda: self.collect_once(read))

    def collect_once(self, read: Callable[[ListedPart], _T | None], limit: int | None = None) -> list[_T]:
        """`read` of the parts, without the Nones, until there are `limit`.

        Raises FileNotFoundError when a file vanishes meanwhile.
        """
        answers = (answer for listed in self._list_parts() if (answer := read(listed)) is not None)
        return list(islice(answers, limit))

    def retry_while_files_vanish(self, work: Callable[[], _T]) -> _T:
        """`work()`, repeated while it raises FileNotFoundError: the next listing shows what replaced the files.

        Raises FileNotFoundError when files still vanish after a minute.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return work()
            except FileNotFoundError:
                if time.monotonic() > deadline:
                    raise FileNotFoundError(
                        f"{self.path}: its files keep vanishing; is something else deleting them?"
                    ) from None
                time.sleep(_PAUSE_SECONDS)

    def read_keys(self, listed: ListedPart) -> Part | None:
        """A part with its keys and the columns that a lookup needs; None when it cannot be trusted.

        It is read and verified once in a process.
        """
        columns = [*self.keys, *([self.retry_column] if self.retry_column else [])]
        columns += [ROW, CHECK, WRITTEN_AT] if self.array_column else []
        cache_key = (self.path.name, listed.path.name, listed.version, *columns)
        part = _verified_keys.get(cache_key)
        if part is None:
            part = self._load_part(listed.path, columns)
            if part is None:
                return None
            if listed.is_growing:
                return part
            if len(_verified_keys) >= _VERIFIED_KEYS_LIMIT:
                _verified_keys.clear()
            _verified_keys[cache_key] = part
        # Parts with the same bytes may lie in several folders.
        return self._with_trusted_rows(listed, replace(part, path=listed.path))

    def read_part(self, listed: ListedPart, columns: Sequence[str] | None) -> Part | None:
        """A part with these columns (None: all); None when it cannot be trusted.

        Raises ColumnNotFoundError when the part does not have a column.
        """
        part = self._load_part(listed.path, columns)
        return None if part is None else self._with_trusted_rows(listed, part)

    def mark_altered(self, part_path: UPath, layout: ArrayLayout, rows: np.ndarray) -> None:
        """Note rows of a part's array as altered. They count as missing from now on, in every process."""
        altered = _altered_rows.setdefault(str(part_path), set())
        altered |= {int(row) for row in rows}
        array, note = array_path(part_path), altered_rows_path(part_path)
        why = f"altered: {len(altered)} of its {layout.rows} rows are not what was written, and are made again"
        self.skipped[str(array)] = why
        _log.warning("%s: %s", array, why)
        try:
            with contextlib.suppress(FileNotFoundError):
                altered |= self._read_altered_rows(note)
            write_json({_ALTERED_ROWS: sorted(altered)}, note)
        except OSError as error:
            _log.warning("%s: cannot be written (%s); other processes will not know", note, error)

    def remove_leftovers(self) -> None:
        """Remove what killed writers and compactions left: old arrays without a part, old temporary files."""
        entries = self.retry_while_files_vanish(lambda: list_folder(self.path, _STORE_FILE))
        part_hashes = {entry.name.removesuffix(".parquet") for entry in entries if _PART.fullmatch(entry.name)}
        for entry in entries:
            sibling = _SIBLING.fullmatch(entry.name)
            is_orphan = self.array_column is not None and sibling is not None and sibling["hash"] not in part_hashes
            if is_orphan or _TEMPORARY.fullmatch(entry.name):
                path = self.path / entry.name
                if time.time() - modification_time(path, entry) > ORPHAN_SECONDS:
                    path.unlink(missing_ok=True)

    def _list_parts(self) -> list[ListedPart]:
        """The parts by name. Raises FileNotFoundError when a part vanishes before its size is known."""
        parts: list[FileEntry] = []
        sibling_sizes: dict[str, int] = {}
        for entry in sorted(list_folder(self.path, _STORE_FILE)):
            name = entry.name
            if _PART.fullmatch(name) or (_LOG.fullmatch(name) and self.array_column is None):
                parts.append(entry)
            elif self.array_column and _SIBLING.fullmatch(name):
                sibling_sizes[name] = entry.size
            # A name with a leading dot is a file that is being written, or whose writer was killed.
            elif name not in ("", self.path.name, PROVENANCE, PROVENANCE_OF_0_1) and not name.startswith("."):
                self._skip(self.path / name, "not a part of this store")
        listed = []
        for part in parts:
            path = self.path / part.name
            array_size = sibling_sizes.get(array_path(path).name)
            has_altered_rows = altered_rows_path(path).name in sibling_sizes
            is_growing = path.suffix == ".log" and time.time() - part.modified < ORPHAN_SECONDS
            size = part.size + (array_size or 0)
            listed.append(ListedPart(path, size, part.version, array_size, has_altered_rows, is_growing))
        return listed

    def _with_trusted_rows(self, listed: ListedPart, part: Part) -> Part | None:
        """The part without the rows whose vectors are known to be altered; None when it lacks its whole array."""
        if part.layout is None:
            return part
        if str(listed.path) in self.skipped:
            return None
        if part.layout.rows and listed.array_size != part.layout.size:
            # A compaction removed it since the listing, or the listing shows the part but not yet its array.
            sizes = {entry.name: entry.size for entry in list_folder(self.path, _STORE_FILE)}
            if listed.path.name not in sizes:
                raise FileNotFoundError(listed.path.path)
            array = array_path(listed.path).name
            if sizes.get(array) != part.layout.size:
                self._skip(listed.path, f"its array {array} is {'torn' if array in sizes else 'missing'}")
                return None
        altered = _altered_rows.get(str(listed.path), set())
        if listed.has_altered_rows:
            altered = altered | self._read_altered_rows(altered_rows_path(listed.path))
        if not altered:
            return part
        is_trusted = pl.col(ROW).is_null() | ~pl.col(ROW).is_in(sorted(altered))
        return replace(part, frame=part.frame.filter(is_trusted))

    def _load_part(self, path: UPath, columns: Sequence[str] | None) -> Part | None:
        """Read and verify the file; None when it cannot be trusted."""
        if str(path) in self.skipped:
            return None
        data = path.read_bytes()
        if path.suffix == ".log":
            return self._load_log(path, data, columns)
        name = _PART.fullmatch(path.name)
        assert name is not None
        if digest([data]) != name["hash"]:
            self._skip(path, "torn or altered: its content does not match its name")
            return None
        try:
            metadata = pl.read_parquet_metadata(io.BytesIO(data))
            if metadata.get("fingerprint") != self.path.name:
                self._skip(path, "of another provenance")
            elif ("array" in metadata) != (self.array_column is not None):
                self._skip(path, "of another layout: its vectors are not stored as this store expects")
            else:
                layout = ArrayLayout.parse(metadata["array"]) if self.array_column else None
                distinct_columns = None if columns is None else list(dict.fromkeys(columns))
                frame = pl.read_parquet(io.BytesIO(data), columns=distinct_columns)
                size = len(data) + (layout.size if layout and layout.rows else 0)
                return Part(path, frame, size, layout)
        except ColumnNotFoundError:
            raise  # the caller's mistake; the file is good
        except PolarsError as error:
            self._skip(path, f"not readable as a part ({str(error).splitlines()[0]})")
        return None

    def _load_log(self, path: UPath, data: bytes, columns: Sequence[str] | None) -> Part | None:
        """The rows of a log; None where it has none yet."""
        frame, is_altered = read_rows(data, self.path.name)
        if is_altered:
            lost = f"{path} from an altered record on"
            if lost not in self.skipped:
                self.skipped[lost] = "its content does not match its check"
                _log.warning("%s: skipped, its content does not match its check; its rows count as missing.", lost)
        if frame is None:
            return None
        return Part(path, frame if columns is None else frame.select(list(dict.fromkeys(columns))), len(data))

    def _read_altered_rows(self, note: UPath) -> set[int]:
        data = read_bytes(note)
        try:
            if data.startswith(b"["):  # versions 0.1 and 0.2
                data = b'{"%s": %s}' % (_ALTERED_ROWS.encode(), data)
            return {int(row) for row in parse_json(data, note)[_ALTERED_ROWS]}
        except (DamagedFileError, KeyError, ValueError, TypeError):
            self._skip(note, "not a list of row numbers")
            return set()

    def _skip(self, path: UPath, why: str) -> None:
        if str(path) not in self.skipped:
            self.skipped[str(path)] = why
            for cache_key in [key for key in _verified_keys if key[1] == path.name]:
                del _verified_keys[cache_key]
            _log.warning("%s: skipped, %s; its rows count as missing. Remove the file.", path, why)


def stamped(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with the time at which they were first written: now, where they do not say."""
    if WRITTEN_AT in frame.columns:
        return frame
    # Not by an expression: rows that cost money come one at a time, and a query takes longer than all else for one.
    now = {WRITTEN_AT: datetime.now(UTC)}
    return frame.hstack(pl.DataFrame([now] * frame.height, schema={WRITTEN_AT: pl.Datetime("us", "UTC")}))


def array_path(part_path: UPath) -> UPath:
    """The array file of a part."""
    return part_path.with_suffix(".npy")


def altered_rows_path(part_path: UPath) -> UPath:
    """The file that lists the rows of a part's array that were found altered."""
    return part_path.with_suffix(".bad")
