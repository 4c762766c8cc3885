"""Where a source's rows lie: its spec's paths, globs, folders and dataset, to a sorted list of things to read.

A path may be local, `s3://`, `hf://` or any other URL that fsspec knows. A folder means all data files under it,
by their names; hidden ones (`.x`, `_x`) are left out, other files are listed as skipped. A glob means what it
matches, folders included. A folder that `save_to_disk` wrote is one dataset. A file that two patterns match is
read once. Listings are never taken from fsspec's caches: a sensor lives long and must see what changed.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from dselect_core.corpus.hub_datasets import SAVED, SAVED_SPLITS, LoadedDataset, SavedDataset, hub_dataset
from dselect_core.corpus.readers import READABLE, DataFile, RawRow
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.settings.settings import SourceSpec

DATA = re.compile(r"\.(jsonl?|ndjson|parquet|pq|arrow|ipc|feather)(\.(gz|zst|bz2))?$", re.IGNORECASE)
DATASETS_OWN = frozenset((SAVED, SAVED_SPLITS, "dataset_info.json", "dataset_infos.json"))
VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "updated")

Info = dict[str, Any]


class Part(Protocol):
    """One file or dataset of a source."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def rows(self, columns: frozenset[str]) -> Iterator[RawRow]: ...


@dataclass(frozen=True)
class Found:
    """The parts of a source sorted by name, and the files of its folders that are no data files."""

    parts: list[Part]
    skipped: list[str]


def find(spec: SourceSpec) -> Found:
    """What a source consists of now, from listings alone: no data is read.

    Raises DselectError when a path does not exist, matches nothing, or cannot be listed.
    """
    if spec.dataset is None and not spec.paths:
        raise DselectError("`path` is an empty list: name a file, a folder, a glob or a URL in it.")
    parts: dict[str, Part] = {}
    skipped: set[str] = set()
    for found in [_dataset(spec)] if spec.dataset is not None else (f for p in spec.paths for f in _path(p, spec)):
        if isinstance(found, str):
            skipped.add(found)
        else:
            parts[found.name] = found
    return Found([parts[name] for name in sorted(parts)], sorted(skipped - set(parts)))


def signature(spec: SourceSpec) -> str:
    """128-bit hex hash of names, sizes and etags (or modification times; for a hub dataset its commit).

    Equal means nothing to read again. It also changes with what the spec says about how to read. A rewritten file
    changes it even if its content is the same: the data version, a hash of content, then stops the news.
    Raises DselectError like `find`.
    """
    return signature_of(spec, find(spec))


def signature_of(spec: SourceSpec, found: Found) -> str:
    """`signature` of what was found already."""
    return digest([spec.format, *(text for part in found.parts for text in (part.name, part.version))])


def _path(path: str, spec: SourceSpec) -> Iterator[Part | str]:
    fs, root = _file_system(path, spec)
    with _asking(path):
        try:
            matches = [fs.info(root)]  # a file may have a name that looks like a glob
        except FileNotFoundError:
            matches = list(fs.glob(root, detail=True).values()) if has_magic(root) else []
    if not matches:
        what = "the glob matches no file" if has_magic(root) else "no such file or folder"
        raise DselectError(f"{path}: {what}. Mend `path` in the source, or put the file there.")
    parts: list[Part | str] = []
    for info in matches:
        if info["type"] == "directory":
            parts += _folder(fs, info["name"], path, spec)
        elif PurePosixPath(info["name"]).name in DATASETS_OWN:
            parts.append(_name(fs, info["name"], path))
        else:
            parts.append(_file(fs, info, path))
    if all(isinstance(part, str) for part in parts):
        raise DselectError(f"{path}: no data files there. Readable are {READABLE}; name other files one by one.")
    yield from parts


def _folder(fs: fsspec.AbstractFileSystem, root: str, given: str, spec: SourceSpec) -> Iterator[Part | str]:
    saved = _saved(fs, root, given, spec)
    if saved is not None:
        yield saved
        return
    for info in _files(fs, root, given):
        inside = info["name"][len(root.rstrip("/")) + 1 :].split("/")
        if any(part.startswith((".", "_")) for part in inside):
            continue
        if DATA.search(inside[-1]) and inside[-1] not in DATASETS_OWN:
            yield _file(fs, info, given)
        else:
            yield _name(fs, info["name"], given)


def _saved(fs: fsspec.AbstractFileSystem, root: str, given: str, spec: SourceSpec) -> SavedDataset | None:
    """The dataset that `save_to_disk` wrote to a folder, if it did; of several splits the spec's."""
    with _asking(given):
        if fs.exists(f"{root}/{SAVED_SPLITS}"):
            splits = sorted(PurePosixPath(path).parent.name for path in fs.glob(f"{root}/*/{SAVED}"))
            if spec.split not in splits:
                raise DselectError(f"{given}: no split {spec.split!r}. Set `split` to one of: {', '.join(splits)}.")
            root = f"{root}/{spec.split}"
        elif not fs.exists(f"{root}/{SAVED}"):
            return None
    version = digest(f"{info['name']} {_version(info)}" for info in _files(fs, root, given))
    # datasets opens the folder by itself, so it needs the URL, where the user is shown the path he gave.
    path = root if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(root)
    return SavedDataset(_name(fs, root, given), version, path, spec.storage_options)


def _dataset(spec: SourceSpec) -> Part:
    given = str(spec.dataset)
    if "://" not in given and not given.startswith((".", "/", "~")) and not Path(given).is_dir():
        return hub_dataset(given, spec.name, spec.split, spec.revision)
    fs, root = _file_system(given, spec)
    with _asking(given):
        if not fs.isdir(root):
            raise DselectError(f"{given}: no such folder. Mend `dataset` in the source, or put the dataset there.")
    saved = _saved(fs, root, given, spec)
    if saved is not None:
        return saved
    if not isinstance(fs, LocalFileSystem):
        raise DselectError(f"{given}: not written by `save_to_disk`. For a folder of data files use `path`.")
    version = digest([str(spec.name), *(f"{info['name']} {_version(info)}" for info in _files(fs, root, given))])
    return LoadedDataset(f"{_name(fs, root, given)}:{spec.split}", version, root, spec.name, spec.split, None)


def _file_system(path: str, spec: SourceSpec) -> tuple[fsspec.AbstractFileSystem, str]:
    with _asking(path):
        fs, root = fsspec.url_to_fs(path, **spec.storage_options)
        fs.invalidate_cache()
    return fs, root


def _files(fs: fsspec.AbstractFileSystem, root: str, given: str) -> list[Info]:
    with _asking(given):
        found = fs.find(root, detail=True)
    return [found[name] for name in sorted(found)]


def _file(fs: fsspec.AbstractFileSystem, info: Info, given: str) -> DataFile:
    return DataFile(_name(fs, info["name"], given), _version(info), fs, info["name"])


def _version(info: Info) -> str:
    stamp = next((info[key] for key in VERSIONS if info.get(key) is not None), "")
    return f"{info.get('size')} {stamp}"


def _name(fs: fsspec.AbstractFileSystem, path: str, given: str) -> str:
    """A path as the user would write it: the URL of a remote file; a local path absolute only if given so."""
    if not isinstance(fs, LocalFileSystem):
        return str(fs.unstrip_protocol(path))
    if "://" not in given and not given.startswith(("/", "~")):
        path = os.path.relpath(path)
    return os.fsencode(path).decode("utf-8", "replace")  # a name may hold bytes that a table cannot


@contextmanager
def _asking(path: str) -> Iterator[None]:
    try:
        yield
    except DselectError:
        raise
    except FileNotFoundError as error:
        raise DselectError(f"{path}: no such file or folder ({error}). Mend `path` in the source.") from error
    except Exception as error:  # each file system has errors of its own, and all of them are about this path
        raise DselectError(
            f"{path}: cannot be listed ({type(error).__name__}: {str(error).partition(chr(10))[0]}). "
            "Check the address, the credentials and `storage_options` of the source."
        ) from error
