"""The store: scores by sample and recipe, kept for ever in append-only Parquet parts.

    scores/<kind>/<fingerprint of the recipe>/recipe.json
                                              <hash of the bytes>.parquet

A part is written whole under a name that is its content, so writers in any number of processes never collide, a
killed one leaves whole parts only, and a file that is torn, altered or somebody else's is recognised: it is named
in `skipped` and in the log, and its rows count as not there. The same row in several parts is harmless.

Trade-offs: a part is read whole to be verified (hashing it costs less than the decoding that follows). Its keys are
then remembered while the process lives, for parts never change: a lookup reads files once, and rows are read only from
parts that hold some of them. `compact` keeps the number of files small. There is no lock and no list of parts to keep
in step: the folder is the truth, on a disk and on an object store alike.
"""

import io
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError
from upath import UPath

from dselect_core.fingerprint import digest, fingerprint
from dselect_core.tables import parquet_bytes, write_bytes, write_text

WRITTEN = "written_at"
"""Column of every part: when the row was first written. It decides between duplicates, whatever was compacted since."""

LARGE = 64 * 2**20
"""Bytes from which `compact` leaves a part alone, so that its work follows what is new and not what is there."""

COMPACT_FROM = 8
"""Small parts that are worth compacting."""

_PART = re.compile(r"(?P<hash>[0-9a-f]{32})\.parquet")
_RECIPE = "recipe.json"
# Another process may compact while this one reads: the list is made again, for so long before it is an error. On an
# object store the files of a compaction go one by one.
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02

# Keys of verified parts: (recipe, file name, its size and time, columns) → frame. Forgotten whole when it grows long.
_known: dict[tuple[str, ...], pl.DataFrame] = {}
_KNOWN_AT_MOST = 10_000

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Part:
    """One file of a store, its rows or some of their columns, and its size in bytes."""

    path: UPath
    frame: pl.DataFrame
    size: int


@dataclass(frozen=True)
class _File:
    """A file as the folder lists it. stamp: size and time, or what an object store has for it."""

    path: UPath
    size: int
    stamp: str


@dataclass(frozen=True)
class Store:
    """Rows of one kind under one recipe.

    folder: where the parts lie; keys: columns that name a row (a null is a key like any other); retry: a column whose
    null means that the row was tried in vain: kept for the record, yet still `missing`. None: a null is an answer.
    skipped: {file: why} of what was met in the folder and not trusted.
    """

    folder: UPath
    keys: tuple[str, ...] = ("sample_id",)
    retry: str | None = None
    skipped: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @property
    def recipe(self) -> dict[str, Any]:
        """What was written by `describe`. Raises FileNotFoundError where nothing was."""
        recipe: dict[str, Any] = json.loads((self.folder / _RECIPE).read_text("utf-8"))
        return recipe

    def describe(self, recipe: dict[str, Any]) -> None:
        """Write the recipe beside its parts, once. Raises ValueError when it is not this folder's."""
        if fingerprint(recipe) != self.fingerprint:
            raise ValueError(f"{self.folder}: its name is not the fingerprint of {recipe}")
        if not (self.folder / _RECIPE).exists():
            write_text(json.dumps(recipe, indent=2, sort_keys=True), self.folder / _RECIPE)

    def missing(self, rows: pl.DataFrame, *, tried: bool = True) -> pl.DataFrame:
        """The rows (their order and columns kept) that no part holds, and, with `tried`, those tried in vain."""
        keys = self._each(self._keys_in)
        if not keys:
            return rows
        held = pl.concat(keys)
        if self.retry and tried:
            held = held.filter(pl.col(self.retry).is_not_null())
        return rows.join(held, on=list(self.keys), how="anti", nulls_equal=True, maintain_order="left")

    def append(self, frame: pl.DataFrame) -> UPath | None:
        """Write rows as one more part, visible whole or not at all; returns its path, None for no rows."""
        if frame.is_empty():
            return None
        if WRITTEN not in frame.columns:
            frame = frame.with_columns(pl.lit(datetime.now(UTC), pl.Datetime("us", "UTC")).alias(WRITTEN))
        data = parquet_bytes(frame, {"fingerprint": self.fingerprint})
        path: UPath = self.folder / f"{digest([data])}.parquet"
        write_bytes(data, path)
        return path

    def read(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """What is held of `rows` (their key columns are read), ascending by key, one row a key.

        columns: those wanted beside the keys; by default all but WRITTEN. With nothing held, a frame without rows.
        """
        wanted = None if columns is None else list(dict.fromkeys([*self.keys, *columns]))
        held = self._rows(wanted, rows)
        if held is None:
            return rows.select(self.keys).clear()
        return (held.drop(WRITTEN) if wanted is None else held.select(wanted)).sort(self.keys)

    def parts(self, columns: Sequence[str] | None = None) -> list[Part]:
        """Every part that can be trusted, with all or some columns. A part is verified before it is read."""
        return self._each(lambda file: self._part(file.path, columns))

    def compact(self, at_least: int = 2) -> int:
        """Put the small parts into one when there are `at_least` so many; returns how many it replaced.

        Safe beside writers, readers and other compactions: a part goes only once its rows stand in the new one.
        """
        at_least = max(2, at_least)
        if sum(file.size < LARGE for file in self._files()) < at_least:
            return 0
        small = self._each(lambda file: self._part(file.path, None) if file.size < LARGE else None)
        return self._replace(small, pl.concat([part.frame for part in small])) if len(small) >= at_least else 0

    def gc(self, keep: pl.DataFrame) -> int:
        """Drop the rows whose key is not in `keep` (its key columns are read); returns how many rows."""
        dropped = 0
        for part in self.parts():
            kept = part.frame.join(keep, on=list(self.keys), how="semi", nulls_equal=True)
            if kept.height < part.frame.height:
                dropped += part.frame.height - kept.height
                self._replace([part], kept)
        return dropped

    def _replace(self, parts: list[Part], rows: pl.DataFrame) -> int:
        written = self.append(self._best(rows).sort(self.keys))
        for part in parts:
            if part.path != written:
                part.path.unlink(missing_ok=True)
        return len(parts)

    def _rows(self, columns: Sequence[str] | None, wanted: pl.DataFrame) -> pl.DataFrame | None:
        """Columns of the rows whose keys are in `wanted`, one row a key; None without parts."""
        if columns is not None:
            columns = [*columns, WRITTEN, *([self.retry] if self.retry else [])]
        keys = wanted.select(self.keys)

        def among(frame: pl.DataFrame) -> pl.DataFrame:
            return frame.join(keys, on=list(self.keys), how="semi", nulls_equal=True)

        def look(file: _File) -> pl.DataFrame | None:
            held = self._keys_in(file)
            part = None if held is None or among(held).is_empty() else self._part(file.path, columns)
            return None if part is None else among(part.frame)

        frames = self._each(look)
        if not frames:  # then no rows, but the columns that any part has
            frames = [part.frame.clear() for part in self._each(lambda file: self._part(file.path, columns), most=1)]
        return self._best(pl.concat(frames)) if frames else None

    def _best(self, rows: pl.DataFrame) -> pl.DataFrame:
        """One row a key: of those with a value the oldest, which others may have read; else the latest attempt."""
        if not rows.select(pl.struct(self.keys).is_duplicated().any()).item():
            return rows
        rows = rows.sort(WRITTEN, maintain_order=True)
        if self.retry:
            tried = pl.col(self.retry).is_null()
            rows = pl.concat([rows.filter(~tried), rows.filter(tried).reverse()])
        return rows.unique(self.keys, keep="first", maintain_order=True)

    def _each(self, look: Callable[[_File], _T | None], most: int | None = None) -> list[_T]:
        """What `look` finds in the files of the folder (in the first `most` with something in them)."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return list(islice((f for file in self._files() if (f := look(file)) is not None), most))
            except FileNotFoundError:
                # Compacted away since the listing; what replaced it is in the next.
                if time.monotonic() > until:
                    raise FileNotFoundError(
                        f"{self.folder}: its files keep vanishing; is something else deleting them?"
                    ) from None
                time.sleep(_PAUSE_SECONDS)

    def _files(self) -> list[_File]:
        """The parts by name. Raises FileNotFoundError when one goes while its size and time are asked for."""
        files = []
        for name, size, stamp in sorted(_listing(self.folder)):
            if _PART.fullmatch(name):
                files.append(_File(self.folder / name, size, stamp))
            # A dotted name is a write under way, or one whose process was killed.
            elif name not in ("", self.fingerprint, _RECIPE) and not name.startswith("."):
                self._skip(self.folder / name, "not a part of this store")
        return files

    def _keys_in(self, file: _File) -> pl.DataFrame | None:
        """Keys, and the column that decides about trying again, of a part; verified once per process."""
        columns = [*self.keys, self.retry] if self.retry else list(self.keys)
        at = (self.fingerprint, file.path.name, file.stamp, *columns)
        if at not in _known:
            part = self._part(file.path, columns)
            if part is None:
                return None
            if len(_known) >= _KNOWN_AT_MOST:
                _known.clear()
            _known[at] = part.frame
        return _known[at]

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
            if pl.read_parquet_metadata(io.BytesIO(data)).get("fingerprint") == self.fingerprint:
                selected = None if columns is None else list(dict.fromkeys(columns))
                return Part(path, pl.read_parquet(io.BytesIO(data), columns=selected), len(data))
            self._skip(path, "of another recipe")
        except ColumnNotFoundError:
            raise  # the caller's mistake, not the file's
        except PolarsError as error:
            self._skip(path, f"not readable as a part ({str(error).splitlines()[0]})")
        return None

    def _skip(self, path: UPath, why: str) -> None:
        if str(path) not in self.skipped:
            self.skipped[str(path)] = why
            for known in [at for at in _known if at[1] == path.name]:
                del _known[known]
            _log.warning("%s: skipped, %s; its rows count as not there. Remove the file.", path, why)


def _listing(folder: UPath) -> list[tuple[str, int, str]]:
    """(name, size, stamp) of what lies in a folder now; empty where there is none."""
    if folder.protocol in ("", "file", "local"):
        local = Path(folder.path)
        try:
            names = {path.name for path in local.iterdir()}
            # What comes and goes while a folder is read may be missed at both ends; two alike listings missed nothing.
            while (again := {path.name for path in local.iterdir()}) != names:
                names = again
        except FileNotFoundError:
            return []
        stats = [(name, (local / name).stat()) for name in names if _PART.fullmatch(name)]
        others = [(name, 0, "") for name in names if not _PART.fullmatch(name)]
        return others + [(name, stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}") for name, stat in stats]
    try:
        # `refresh`: another process, or thread, may have written since the listing that is in the cache.
        listed = folder.fs.ls(folder.path, detail=True, refresh=True)
    except FileNotFoundError:
        return []
    return [
        (str(e["name"]).rsplit("/", 1)[-1], int(e["size"] or 0), f"{e['size']} {e.get('ETag') or e.get('mtime')}")
        for e in listed
    ]


class Appender:
    """Collects rows and appends them to a store as parts: every `rows` rows or `seconds` seconds, and at the end.

    As a context it writes what it holds also when the work inside fails, so an error costs no finished row; only a
    process that is killed loses what had not been written, at most one part.
    """

    def __init__(self, store: Store, rows: int, seconds: float):
        self.store = store
        self.rows = rows
        self.seconds = seconds
        self._held: list[pl.DataFrame] = []
        self._since = time.monotonic()

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        if sum(f.height for f in self._held) >= self.rows or time.monotonic() - self._since >= self.seconds:
            self.flush()

    def flush(self) -> None:
        if self._held:
            self.store.append(pl.concat(self._held))
        self._held = []
        self._since = time.monotonic()
