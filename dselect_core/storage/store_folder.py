"""The files of a store's folder: which of them are parts, and which rows of those can be trusted.

A part is `<hash of the bytes>.parquet`, so a file that is torn, altered or somebody else's is recognised: it is named
in `skipped` and in the log, and its rows count as not there. Where a store has vectors, they lie in `<that hash>.npy`
(vector_file.py); the part holds, instead of the vector, its row there (null: no vector) and the row's check. A part
whose array is not there in its full size is not trusted; `<that hash>.bad` lists the rows that were found altered when
read.

Trade-offs: a part is read whole to be verified (hashing it costs less than the decoding that follows). Its keys are
then remembered while the process lives, for parts never change. There is no lock and no list of parts to keep in step:
the folder is the truth, on a disk and on an object store alike, and what vanishes under a reader is looked for again.
"""

import contextlib
import io
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError
from upath import UPath

from dselect_core.fingerprint import digest
from dselect_core.storage import vector_file as vectors
from dselect_core.storage.files import write_text
from dselect_core.storage.folder_listing import listing, modified

WRITTEN = "written_at"
"""Column of every part: when the row was first written. It decides between duplicates, whatever was compacted since."""

ROW, CHECK = "row", "check"
"""Columns of a part of a store of vectors: where in the array file the vector is, null for none, and its check."""

PROVENANCE, PROVENANCE_OF_0_1 = "provenance.json", "recipe.json"
"""How the scores were made: the folder's name is its fingerprint. Version 0.1 called the file otherwise."""

ORPHAN_SECONDS = 3600.0
"""Age from which an array without its part, or a temporary file, is nobody's any more: a part follows in seconds."""

_PART = re.compile(r"(?P<hash>[0-9a-f]{32})\.parquet")
_BESIDE = re.compile(r"(?P<hash>[0-9a-f]{32})\.(?P<what>npy|bad)")
_OURS = re.compile(r"[0-9a-f]{32}\.(parquet|npy|bad)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.(parquet|npy|bad)\.[0-9a-f]{32}\.tmp")
# Another process may compact while this one reads: the list is made again, for so long before it is an error. On an
# object store the files of a compaction go one by one.
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02

# Keys of verified parts: (fingerprint, file name, its size and time, columns). Forgotten whole when it grows long.
_known: dict[tuple[str, ...], "Part"] = {}
_KNOWN_AT_MOST = 10_000

# Part → rows of its array that this process found altered, for where that cannot be noted beside the part.
_altered: dict[str, set[int]] = {}

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """One file of a store, its rows or some of their columns, its bytes on disk, and the layout of its array."""

    path: UPath
    frame: pl.DataFrame
    size: int
    layout: vectors.Layout | None = None


@dataclass(frozen=True)
class File:
    """A part as the folder lists it. size: with its array; stamp: what tells that it is another file by now.

    array: size of its array file, None where there is none; bad: whether rows of that were found altered.
    """

    path: UPath
    size: int
    stamp: str
    array: int | None
    bad: bool


@dataclass(frozen=True)
class Folder:
    """Where the parts of one provenance lie. keys, retry, array, skipped: as in `Store`."""

    path: UPath
    keys: tuple[str, ...]
    retry: str | None = None
    array: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, compare=False)

    def each(self, look: Callable[[File], _T | None]) -> list[_T]:
        """What `look` finds in the files of the folder."""
        return self.again(lambda: self.looked(look))

    def looked(self, look: Callable[[File], _T | None], most: int | None = None) -> list[_T]:
        """The same, of the first `most` with something in them. Raises FileNotFoundError when a file goes meanwhile."""
        return list(islice((found for file in self._files() if (found := look(file)) is not None), most))

    def again(self, work: Callable[[], _T]) -> _T:
        """Do the work, and again while files that it saw are gone: what replaced them is in the next listing."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return work()
            except FileNotFoundError:
                if time.monotonic() > until:
                    raise FileNotFoundError(
                        f"{self.path}: its files keep vanishing; is something else deleting them?"
                    ) from None
                time.sleep(_PAUSE_SECONDS)

    def keys_in(self, file: File) -> Part | None:
        """Keys, and what decides about trying again or finds a vector, of a part; verified once per process."""
        columns = [*self.keys, *([self.retry] if self.retry else []), *([ROW, CHECK, WRITTEN] if self.array else [])]
        at = (self.path.name, file.path.name, file.stamp, *columns)
        part = _known.get(at)
        if part is None:
            part = self._part(file.path, columns)
            if part is None:
                return None
            if len(_known) >= _KNOWN_AT_MOST:
                _known.clear()
            _known[at] = part
        # The same bytes may lie in several folders.
        return self._sound(file, replace(part, path=file.path))

    def part_of(self, file: File, columns: Sequence[str] | None) -> Part | None:
        """A part with these columns (None: all); None when it cannot be trusted."""
        part = self._part(file.path, columns)
        return None if part is None else self._sound(file, part)

    def note_altered(self, path: UPath, layout: vectors.Layout, rows: np.ndarray) -> None:
        """From now on these rows of a part count as not there; beside it, so that every process knows."""
        noted = _altered.setdefault(str(path), set())
        noted |= {int(row) for row in rows}
        array, note = beside(path, "npy"), beside(path, "bad")
        why = f"altered: {len(noted)} of its {layout.rows} rows are not what was written, and are made again"
        self.skipped[str(array)] = why
        _log.warning("%s: %s", array, why)
        try:
            with contextlib.suppress(FileNotFoundError):
                noted |= self._noted(note)
            write_text(json.dumps(sorted(noted)), note)
        except OSError as error:
            _log.warning("%s: cannot be written (%s); other processes will not know", note, error)

    def sweep(self) -> None:
        """Remove what killed writers and compactions left, if it is old: arrays without a part, temporary files."""
        if self.array is None:
            return
        listed = self.again(lambda: listing(self.path, _OURS))
        parts = {each.name.removesuffix(".parquet") for each in listed if _PART.fullmatch(each.name)}
        for each in listed:
            other = _BESIDE.fullmatch(each.name)
            orphan = other is not None and other["hash"] not in parts
            if orphan or _TEMPORARY.fullmatch(each.name):
                path = self.path / each.name
                if time.time() - modified(path, each) > ORPHAN_SECONDS:
                    path.unlink(missing_ok=True)

    def _files(self) -> list[File]:
        """The parts by name. Raises FileNotFoundError when one goes while its size and time are asked for."""
        parts, others = [], {}
        for listed in sorted(listing(self.path, _OURS)):
            name = listed.name
            if _PART.fullmatch(name):
                parts.append(listed)
            elif self.array and _BESIDE.fullmatch(name):
                others[name] = listed.size
            # A dotted name is a write under way, or one whose process was killed.
            elif name not in ("", self.path.name, PROVENANCE, PROVENANCE_OF_0_1) and not name.startswith("."):
                self._skip(self.path / name, "not a part of this store")
        files = []
        for part in parts:
            stem = part.name.removesuffix(".parquet")
            array = others.get(f"{stem}.npy")
            size, bad = part.size + (array or 0), f"{stem}.bad" in others
            files.append(File(self.path / part.name, size, part.stamp, array, bad))
        return files

    def _sound(self, file: File, part: Part) -> Part | None:
        """The part without the rows whose vectors are known to be altered; None when it lacks its array."""
        if part.layout is None:
            return part
        if str(file.path) in self.skipped:
            return None
        if part.layout.rows and file.array != part.layout.size:
            # Compacted away since the listing, or listed before its array was.
            listed = {other.name: other.size for other in listing(self.path, _OURS)}
            if file.path.name not in listed:
                raise FileNotFoundError(file.path.path)
            array = beside(file.path, "npy").name
            if listed.get(array) != part.layout.size:
                self._skip(file.path, f"its array {array} is {'torn' if array in listed else 'not there'}")
                return None
        noted = _altered.get(str(file.path), set())
        if file.bad:
            noted = noted | self._noted(beside(file.path, "bad"))
        if not noted:
            return part
        keep = pl.col(ROW).is_null() | ~pl.col(ROW).is_in(sorted(noted))
        return replace(part, frame=part.frame.filter(keep))

    def _part(self, path: UPath, columns: Sequence[str] | None) -> Part | None:
        if str(path) in self.skipped:
            return None
        data = path.read_bytes()
        name = _PART.fullmatch(path.name)
        assert name is not None
        if digest([data]) != name["hash"]:
            self._skip(path, "torn or altered: its content is not what its name says")
            return None
        try:
            metadata = pl.read_parquet_metadata(io.BytesIO(data))
            if metadata.get("fingerprint") != self.path.name:
                self._skip(path, "of another provenance")
            elif ("array" in metadata) != (self.array is not None):
                self._skip(path, "of another layout: its vectors are not where they are kept now")
            else:
                layout = vectors.Layout.parse(metadata["array"]) if self.array else None
                selected = None if columns is None else list(dict.fromkeys(columns))
                frame = pl.read_parquet(io.BytesIO(data), columns=selected)
                size = len(data) + (layout.size if layout and layout.rows else 0)
                return Part(path, frame, size, layout)
        except ColumnNotFoundError:
            raise  # the caller's mistake, not the file's
        except PolarsError as error:
            self._skip(path, f"not readable as a part ({str(error).splitlines()[0]})")
        return None

    def _noted(self, note: UPath) -> set[int]:
        try:
            return {int(row) for row in json.loads(note.read_text("utf-8"))}
        except (ValueError, TypeError):
            self._skip(note, "not a list of rows")
            return set()

    def _skip(self, path: UPath, why: str) -> None:
        if str(path) not in self.skipped:
            self.skipped[str(path)] = why
            for known in [at for at in _known if at[1] == path.name]:
                del _known[known]
            _log.warning("%s: skipped, %s; its rows count as not there. Remove the file.", path, why)


def beside(part: UPath, what: str) -> UPath:
    """The array ("npy") of a part, or the note ("bad") of rows of it that were found altered."""
    return part.with_name(f"{part.name.removesuffix('.parquet')}.{what}")
