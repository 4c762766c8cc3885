"""A coreset's folder as its readers see it: one version, whole, or none. A new version becomes visible in one step.

On a local disk the files of a version are written to a hidden folder beside it, which then takes its place
(storage/switch_folder.py):

    coresets/<recipe>/manifest.json, coreset.jsonl, …

An object store cannot rename a folder. There the manifest is the switch: it names the folder of its version.

    coresets/<recipe>/manifest.json
    coresets/<recipe>/versions/<time>-<random>/coreset.jsonl, …

The manifest lists size and hash of every file. Every reader of dselect verifies what it reads against the manifest that
it read first, and starts again when another version has taken its place. So no two versions are ever mixed. A replaced
version goes at once; in an object store, where a trainer may be reading it, with the next one. What a killed writer
left goes after an hour. A file that somebody else put into the folder stays there.

Trade-off: in an object store the files' names change with each version; `dselect export` gives them fixed names.
"""

import contextlib
import hashlib
import logging
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.storage.files import ORPHAN_SECONDS, is_local, parse_parquet, read_bytes, write_bytes
from dselect_core.storage.json_file import parse_json, read_json, write_json
from dselect_core.storage.switch_folder import restore_folder, switch_folder

MANIFEST = "manifest.json"
FILES = (
    "order.parquet",
    "changes.parquet",
    "coreset.jsonl",
    "coreset.parquet",
    "alpaca.json",
    "dataset/data/train-00000-of-00001.parquet",
    "dataset/README.md",
    MANIFEST,
)
"""The files of a coreset; `changes.parquet` only in the storage."""

_FOLDER = "folder"  # the key of a manifest in an object store: where its files lie
_FILES = "files"
_VERSIONS = "versions"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class PublishedVersion:
    """A version of a coreset. folder: of the coreset; manifest: as it was published."""

    folder: UPath
    manifest: dict[str, Any]

    def path(self, name: str) -> UPath:
        """Where a file of the version lies."""
        within = self.manifest.get(_FOLDER)
        return self.folder / name if name == MANIFEST or within is None else self.folder / within / name

    @property
    def manifest_elsewhere(self) -> dict[str, Any]:
        """The manifest for a folder that holds the files under their own names."""
        return {key: value for key, value in self.manifest.items() if key != _FOLDER}

    def read(self, name: str) -> bytes:
        """A file of the version. Raises FileNotFoundError, or DamagedFileError where the manifest says otherwise."""
        path = self.path(name)
        data = read_bytes(path)
        listed = self.manifest.get(_FILES)  # version 0.2 listed none
        if listed is not None and _facts(data) != listed.get(name):
            raise DamagedFileError(path, "its content is not what the manifest lists")
        return data

    def read_table(self, name: str) -> pl.DataFrame:
        """A Parquet file of the version. Raises like `read`."""
        return parse_parquet(self.read(name), self.path(name))[0]


def read_version(folder: UPath, work: Callable[[PublishedVersion], _T]) -> _T:
    """`work` on the version in force; again from the start where another version took its place meanwhile.

    Raises FileNotFoundError where the coreset or a file of it is missing, DamagedFileError where it is not what was
    published.
    """
    while True:
        data = read_bytes(folder / MANIFEST)
        try:
            return work(PublishedVersion(folder, parse_json(data, folder / MANIFEST)))
        except (FileNotFoundError, DamagedFileError):
            if read_bytes(folder / MANIFEST) == data:
                raise


def check_file(folder: UPath, name: str) -> None:
    """Read a file of the version in force whole. Raises like `read_version`."""
    read_version(folder, lambda version: version.manifest if name == MANIFEST else version.read(name))


def publish(folder: UPath, files: Iterable[tuple[str, bytes]], manifest: dict[str, Any]) -> None:
    """Write a new version, (name, content) by file, and make it the one in force. Makes the folder.

    Where it fails, or the process is killed, the version in force is what it was.
    """
    if is_local(folder):
        _publish_on_disk(folder, files, manifest)
    else:
        _publish_in_object_store(folder, files, manifest)


def write_in_place(folder: UPath, files: Iterable[tuple[str, bytes]], manifest: dict[str, Any]) -> None:
    """Write the files into a folder of the user's, manifest last and the old one removed first.

    So a folder with a manifest is complete and of one piece. Trade-off: a process that is killed leaves neither the old
    coreset nor the new; but nothing else in the folder is touched.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json({**manifest, _FILES: _write_files(folder, files)}, folder / MANIFEST)


def restore(folder: UPath) -> None:
    """Put back the version in force where a process was killed between two renames (switch_folder.py)."""
    if is_local(folder):
        restore_folder(Path(folder.path).resolve())


def _write_files(folder: UPath, files: Iterable[tuple[str, bytes]]) -> dict[str, dict[str, int | str]]:
    listed = {}
    for name, data in files:
        write_bytes(data, folder / name)
        listed[name] = _facts(data)
    return listed


def _facts(data: bytes) -> dict[str, int | str]:
    """What a manifest lists of a file. The hash is that of `b2sum -l 128`."""
    return {"bytes": len(data), "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest()}


def _publish_on_disk(folder: UPath, files: Iterable[tuple[str, bytes]], manifest: dict[str, Any]) -> None:
    target = Path(folder.path).resolve()
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex}.new")
    try:
        write_in_place(UPath(new), files, manifest)
        switch_folder(new, target)
    finally:
        _discard(new, target)
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.(new|old)")
    for path in target.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if leftover.fullmatch(path.name) and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                _discard(path, target)


def _discard(old: Path, folder: Path) -> None:
    """Remove a version that is not in force, but for what somebody else put there: that moves to the folder."""
    if not old.exists():
        return
    own = set(FILES)
    with contextlib.suppress(FileNotFoundError, DamagedFileError):
        own |= read_json(UPath(old / MANIFEST)).get(_FILES, {}).keys()
    try:
        for path in [path for path in old.rglob("*") if path.is_file() or path.is_symlink()]:
            name = path.relative_to(old)
            is_own = name.as_posix() in own or (path.name.startswith(".") and path.suffix == ".tmp")
            if not is_own and folder.exists() and not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                path.rename(folder / name)
        shutil.rmtree(old)
    except OSError as error:
        _log.warning("%s: a replaced version cannot be removed (%s). Remove it.", old, error)


def _publish_in_object_store(folder: UPath, files: Iterable[tuple[str, bytes]], manifest: dict[str, Any]) -> None:
    replaced = _version_in_force(folder)
    within = f"{_VERSIONS}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    listed = _write_files(folder / within, files)
    write_json({**manifest, _FOLDER: within, _FILES: listed}, folder / MANIFEST)
    try:
        _remove_objects(folder, replaced, within)
    except OSError as error:
        _log.warning("%s: replaced versions cannot be removed (%s)", folder, error)


def _version_in_force(folder: UPath) -> PublishedVersion | None:
    try:
        return PublishedVersion(folder, read_json(folder / MANIFEST))
    except (FileNotFoundError, DamagedFileError):
        return None


def _remove_objects(folder: UPath, replaced: PublishedVersion | None, in_force: str) -> None:
    """Remove what is older than an hour in versions that are neither in force nor the one replaced last."""
    kept = {in_force} if replaced is None else {in_force, replaced.manifest.get(_FOLDER)}
    folder.fs.invalidate_cache()
    for path, entry in folder.fs.find(folder.path, detail=True).items():
        name = path.removeprefix(folder.path.rstrip("/") + "/")
        written = entry.get("LastModified")
        is_old = written is not None and time.time() - written.timestamp() > ORPHAN_SECONDS
        version = "/".join(name.split("/")[:2])
        is_replaced = name.startswith(f"{_VERSIONS}/") and version not in kept and is_old
        if is_replaced or (name in FILES and name != MANIFEST):  # version 0.2 wrote its files there
            folder.fs.rm_file(path)
