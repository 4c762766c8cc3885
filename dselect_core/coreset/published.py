"""A coreset's versions, and the pointer to the one in force, which moves last.

    coresets/<recipe>/manifest.json                  the pointer: it names the folder of its version, and those kept
    coresets/<recipe>/versions/<time>-<random>/…     a version: its files and its own manifest, never written again
    coresets/<recipe>/latest, coreset.jsonl, …       on a disk: links to the version in force, under names that stay

The pointer lists size and hash of every file. Every reader of dselect verifies what it reads against the pointer that
it read first, and starts again when it names another version. So no two versions are ever mixed, on a disk as in an
object store. A process that is killed before it moved the pointer leaves the version in force as it was.

A version is who was chosen, in order. The same choice with another gain, origin or pool is the same version: its files
take the place of the old ones in the list, and where they are equal too, the pointer alone is written. `keep_versions`
of the settings says how many are kept; one more goes at once, and what a killed writer left goes after an hour. A file
that somebody else put beside the versions stays there.

Trade-off: the links are made one after the other behind the pointer, so a stranger who reads two files through them in
that moment may meet two versions; who reads one folder through `latest` or `dataset` meets one. Where a file system has
no links (or a tool that copied the storage made files of them) the pointer alone says where the files lie.
"""

import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import digest
from dselect_core.storage.files import ORPHAN_SECONDS, is_local, parse_parquet, read_bytes, write_bytes
from dselect_core.storage.folder_listing import list_tree
from dselect_core.storage.json_file import parse_json, read_json, write_json

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

KEEP_VERSIONS = 3
"""The version in force and two before it."""

_FOLDER = "folder"  # key of the pointer: where the files of the version in force lie
_FILES = "files"
_VERSION = "version"  # key: what was chosen
_VERSIONS = "versions"  # key: the versions that are kept, the one in force first; and the folder of them
_OF_POINTER = (_FOLDER, _VERSIONS)
_LATEST = "latest"

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class PublishedVersion:
    """A version of a coreset. folder: of the coreset; manifest: as it was published."""

    folder: UPath
    manifest: dict[str, Any]

    @property
    def files_folder(self) -> UPath:
        """Where its files lie. Versions 0.1 and 0.2 of dselect had them beside the manifest."""
        within = self.manifest.get(_FOLDER)
        return self.folder if within is None else self.folder / within

    def path(self, name: str) -> UPath:
        """Where a file of the version lies."""
        return (self.folder if name == MANIFEST else self.files_folder) / name

    @property
    def manifest_elsewhere(self) -> dict[str, Any]:
        """The manifest for a folder that holds the files under their own names."""
        return {key: value for key, value in self.manifest.items() if key not in _OF_POINTER}

    @property
    def version(self) -> str:
        """Hash of the chosen ids in order. Raises like `read_table` where it was made before versions were kept."""
        return self.manifest.get(_VERSION) or digest(self.read_table("order.parquet")["sample_id"])

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


def publish(
    folder: UPath, files: Iterable[tuple[str, bytes]], manifest: dict[str, Any], keep: int = KEEP_VERSIONS
) -> None:
    """Write a version, (name, content) by file, and move the pointer to it. Makes the folder.

    manifest: with `version`. keep: versions that are kept, this one among them. Where it fails, or the process is
    killed, the version in force is what it was.
    """
    last = _version_in_force(folder)
    within = _new_folder()
    listed = write_in_place(folder / within, files, manifest)
    is_same = last is not None and _choice_of(last) == manifest[_VERSION]
    if last is not None and is_same and _FOLDER in last.manifest and _consists_of(last, listed):
        _remove(folder, within)
        within = last.manifest[_FOLDER]
    before = [] if last is None else _kept_before(last, is_same, keep)
    versions = [{_VERSION: manifest[_VERSION], _FOLDER: within}, *before][:keep]
    write_json({**manifest, _FOLDER: within, _FILES: listed, _VERSIONS: versions}, folder / MANIFEST)
    if is_local(folder):
        try:
            _link_fixed_names(Path(folder.path), within)
        except OSError as error:
            _log.warning("%s: no links to the version in force (%s); its files lie in %s", folder, error, within)
    # A folder whose place the same choice has taken may still be read by somebody.
    replaced = None if last is None else last.manifest.get(_FOLDER)
    named = {version[_FOLDER] for version in versions}
    dropped = {version[_FOLDER] for version in before} - named
    try:
        _remove_old(folder, named if replaced in dropped else named | {replaced}, dropped)
    except OSError as error:
        _log.warning("%s: replaced versions cannot be removed (%s)", folder, error)


def write_in_place(
    folder: UPath, files: Iterable[tuple[str, bytes]], manifest: dict[str, Any]
) -> dict[str, dict[str, int | str]]:
    """Write the files into a folder, manifest last and the old one removed first; returns what the manifest lists.

    So a folder with a manifest is complete and of one piece. Trade-off: in a folder of the user's, a process that is
    killed leaves neither the old coreset nor the new; but nothing else in the folder is touched.
    """
    if (folder / MANIFEST).exists():
        (folder / MANIFEST).unlink()
    listed = {}
    for name, data in files:
        write_bytes(data, folder / name)
        listed[name] = _facts(data)
    write_json({**manifest, _FILES: listed}, folder / MANIFEST)
    return listed


def lacking_files(manifest: Mapping[str, Any], within: str, present: Mapping[str, int | None]) -> list[str]:
    """The files a manifest of `write_in_place` lists that are not there, or not in their size. Names below `within`.

    present: {path: bytes, None where that is not known} of what is there.
    """
    return [
        name
        for name, facts in manifest[_FILES].items()
        if f"{within}{name}" not in present or present[f"{within}{name}"] not in (None, facts["bytes"])
    ]


def _facts(data: bytes) -> dict[str, int | str]:
    """What a manifest lists of a file. The hash is that of `b2sum -l 128`."""
    return {"bytes": len(data), "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest()}


def _new_folder() -> str:
    return f"{_VERSIONS}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


def _version_in_force(folder: UPath) -> PublishedVersion | None:
    try:
        return PublishedVersion(folder, read_json(folder / MANIFEST))
    except (FileNotFoundError, DamagedFileError):
        return None


def _choice_of(version: PublishedVersion) -> str | None:
    """Its `version`; None where it is damaged."""
    try:
        return version.version
    except (FileNotFoundError, DamagedFileError):
        return None


def _consists_of(version: PublishedVersion, listed: dict[str, dict[str, int | str]]) -> bool:
    """Whether it consists of these files, and they lie where they should."""
    try:
        return version.manifest.get(_FILES) == listed and all(version.read(name) for name in listed)
    except (FileNotFoundError, DamagedFileError):
        return False


def _kept_before(last: PublishedVersion, is_same: bool, keep: int) -> list[dict[str, str]]:
    """The versions that stay behind a new one. is_same: the new one is the same choice as the last.

    What dselect 0.1 and 0.2 published lies beside its manifest, and is copied to a folder of its own.
    """
    listed: list[dict[str, str]] | None = last.manifest.get(_VERSIONS)
    if listed is not None:
        return listed[1:] if is_same else listed
    choice = _choice_of(last)
    if is_same or choice is None or keep == 1:
        return []
    within = last.manifest.get(_FOLDER)  # an object store of 0.2
    if within is None:
        within = _new_folder()
        present = [name for name in FILES if name != MANIFEST and last.path(name).exists()]
        try:
            write_in_place(last.folder / within, ((name, last.read(name)) for name in present), last.manifest)
        except (FileNotFoundError, DamagedFileError) as error:
            _log.warning("%s: what an earlier version of dselect published is not kept: %s", last.folder, error)
            return []
    return [{_VERSION: choice, _FOLDER: within}]


def _link_fixed_names(folder: Path, within: str) -> None:
    """`latest` leads to the version in force, and the fixed names lead through it: one link moves them all."""
    _link(folder / _LATEST, within, FILES)
    for name in sorted({name.split("/")[0] for name in FILES} - {MANIFEST}):
        inside = tuple(file.removeprefix(f"{name}/") for file in FILES if file.startswith(f"{name}/"))
        _link(folder / name, f"{_LATEST}/{name}", inside)


def _link(path: Path, target: str, own_files: tuple[str, ...]) -> None:
    """Put a relative link at a path. own_files: that a folder in its place may hold, as 0.2 and copies have them."""
    if path.is_symlink() and path.readlink() == Path(target):
        return
    if path.is_dir() and not path.is_symlink():
        for name in own_files:
            (path / name).unlink(missing_ok=True)
        for inner in sorted(path.rglob("*"), key=lambda each: len(each.parts), reverse=True):
            if inner.is_dir() and not any(inner.iterdir()):
                inner.rmdir()
        if any(path.iterdir()):
            _log.warning("%s: holds files that are not ours, so it does not lead to the coreset. Move them away.", path)
            return
        path.rmdir()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.symlink_to(target)
    temporary.replace(path)


def _remove_old(folder: UPath, named: set[str | None], dropped: set[str]) -> None:
    """Remove what was dropped from the list, what was in none for an hour, and in an object store the files of 0.2."""
    newest: dict[str, float] = {}
    for path, entry in list_tree(folder / _VERSIONS).items():
        within = f"{_VERSIONS}/{path.split('/')[0]}"
        newest[within] = max(newest.get(within, 0.0), entry.modified)
    for within, modified in newest.items():
        if within not in named and (within in dropped or time.time() - modified > ORPHAN_SECONDS):
            _remove(folder, within)
    if not is_local(folder):
        beside = {str(path).rsplit("/", 1)[-1] for path in folder.fs.ls(folder.path, detail=False, refresh=True)}
        for name in FILES:
            if name != MANIFEST and name.split("/")[0] in beside and (folder / name).exists():
                folder.fs.rm_file((folder / name).path)


def _remove(folder: UPath, within: str) -> None:
    if is_local(folder):
        shutil.rmtree(Path(folder.path) / within, ignore_errors=True)
        return
    for path in folder.fs.find((folder / within).path):
        folder.fs.rm_file(path)
