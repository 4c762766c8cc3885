"""Which files a source has: from the paths, globs, folders or dataset in its settings to a sorted list of files.

A path may be local, `s3://`, `hf://` or any other URL that fsspec reads. A folder means all data files under it, by
their names: hidden ones (`.x`) are left out, other files (also data files in `_x`) are listed as skipped. A glob means
what it matches, folders included. A folder that `save_to_disk` wrote is one dataset. A file that two patterns match is
read once. fsspec's cached listings are never used, because a sensor lives long and must see every change.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from dselect_core.corpus.hub_datasets import SPLITS_FILE, STATE_FILE, LoadedDataset, SavedDataset, pin_hub_dataset
from dselect_core.corpus.raw_row import RawRow
from dselect_core.corpus.readers import DATA_NAME, READABLE_FORMATS, DataFile
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.settings.settings import SourceSpec

_DATASET_FILES = frozenset((STATE_FILE, SPLITS_FILE, "dataset_info.json", "dataset_infos.json"))
_VERSION_KEYS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "updated")

_FileInfo = dict[str, Any]


class SourceFile(Protocol):
    """One file or one dataset of a source."""

    @property
    def name(self) -> str:
        """As the user writes it."""

    @property
    def version(self) -> str:
        """Changes when the file is written again."""

    @property
    def path(self) -> str:
        """Where it lies. Two files may have one name to show, for a name need not be text."""

    def rows(self, columns: frozenset[str], max_row_bytes: int) -> Iterator[RawRow]:
        """All rows, numbered from 1. Only `columns` are read, if it has any of them; a larger row has an error."""


@dataclass(frozen=True)
class SourceListing:
    """files: those of a source, sorted by name; skipped: the names of files in its folders that are no data files."""

    files: list[SourceFile]
    skipped: list[str]

    def signature(self, spec: SourceSpec) -> str:
        """128-bit hash of the files' names and versions and of the format in the spec, as 32 hex digits."""
        return digest([spec.format, *(text for file in self.files for text in (file.name, file.version))])


def list_source_files(spec: SourceSpec) -> SourceListing:
    """The files that a source has now, from listings alone: no data is read.

    Raises DselectError when a path does not exist, matches nothing, or cannot be listed.
    """
    if spec.dataset is None and not spec.paths:
        raise DselectError("`path` is an empty list: name a file, a folder, a glob or a URL in it.")
    files: dict[tuple[str, str], SourceFile] = {}
    skipped: set[str] = set()
    for file in [_dataset(spec)] if spec.dataset is not None else (f for p in spec.paths for f in _path(p, spec)):
        if isinstance(file, str):
            skipped.add(file)
        else:
            files[file.name, file.path] = file
    return SourceListing([files[key] for key in sorted(files)], sorted(skipped - {name for name, _ in files}))


def files_signature(spec: SourceSpec) -> str:
    """128-bit hash of names, sizes and etags (or modification times; the commit of a hub dataset), as 32 hex digits.

    Equal signatures mean that there is nothing to read again. It also changes with the format that the spec names. A
    file that is rewritten with the same content changes it too; the version of the samples, a hash of their ids, then
    stays the same. Raises DselectError like `list_source_files`.
    """
    return list_source_files(spec).signature(spec)


def _path(path: str, spec: SourceSpec) -> Iterator[SourceFile | str]:
    """The files of one path of the source, and the names of those to skip."""
    fs, root = _file_system(path, spec)
    with _naming_path(path):
        try:
            matches = [fs.info(root)]  # first as it is: a file name may look like a glob
        except FileNotFoundError:
            matches = list(fs.glob(root, detail=True).values()) if has_magic(root) else []
    if not matches:
        what = "the glob matches no file" if has_magic(root) else "no such file or folder"
        raise DselectError(f"{path}: {what}. Mend `path` in the source, or put the file there.")
    files: list[SourceFile | str] = []
    for info in matches:
        if info["type"] == "directory":
            files += _folder(fs, info["name"], path, spec)
        elif PurePosixPath(info["name"]).name in _DATASET_FILES:
            files.append(_display_name(fs, info["name"], path))
        else:
            files.append(_data_file(fs, info, path))
    if all(isinstance(file, str) for file in files):
        readable = f"Readable are {READABLE_FORMATS}"
        raise DselectError(f"{path}: no data files there. {readable}; name other files one by one.")
    yield from files


def _folder(fs: fsspec.AbstractFileSystem, root: str, given: str, spec: SourceSpec) -> Iterator[SourceFile | str]:
    saved = _saved_dataset(fs, root, given, spec)
    if saved is not None:
        yield saved
        return
    for info in _list_files(fs, root, given):
        names_below_root = info["name"][len(root.rstrip("/")) + 1 :].split("/")
        is_data = DATA_NAME.search(names_below_root[-1]) is not None
        if any(name.startswith(".") for name in names_below_root):
            continue
        if any(name.startswith("_") for name in names_below_root):  # left out, and told where it may be rows
            if is_data:
                yield _display_name(fs, info["name"], given)
        elif is_data and names_below_root[-1] not in _DATASET_FILES:
            yield _data_file(fs, info, given)
        else:
            yield _display_name(fs, info["name"], given)


def _saved_dataset(fs: fsspec.AbstractFileSystem, root: str, given: str, spec: SourceSpec) -> SavedDataset | None:
    """The dataset that `save_to_disk` wrote to a folder (the split that the spec names), or None if it wrote none."""
    with _naming_path(given):
        if fs.exists(f"{root}/{SPLITS_FILE}"):
            splits = sorted(PurePosixPath(path).parent.name for path in fs.glob(f"{root}/*/{STATE_FILE}"))
            if spec.split not in splits:
                raise DselectError(f"{given}: no split {spec.split!r}. Set `split` to one of: {', '.join(splits)}.")
            root = f"{root}/{spec.split}"
        elif not fs.exists(f"{root}/{STATE_FILE}"):
            return None
    version = digest(f"{info['name']} {_version(info)}" for info in _list_files(fs, root, given))
    # `datasets` opens the folder by itself, so it needs the URL; users see the path as they wrote it.
    path = root if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(root)
    return SavedDataset(_display_name(fs, root, given), version, path, spec.storage_options)


def _dataset(spec: SourceSpec) -> SourceFile:
    given = str(spec.dataset)
    if "://" not in given and not given.startswith((".", "/", "~")) and not Path(given).is_dir():
        return pin_hub_dataset(given, spec.name, spec.split, spec.revision)
    fs, root = _file_system(given, spec)
    with _naming_path(given):
        if not fs.isdir(root):
            raise DselectError(f"{given}: no such folder. Mend `dataset` in the source, or put the dataset there.")
    saved = _saved_dataset(fs, root, given, spec)
    if saved is not None:
        return saved
    if not isinstance(fs, LocalFileSystem):
        raise DselectError(f"{given}: not written by `save_to_disk`. For a folder of data files use `path`.")
    version = digest([str(spec.name), *(f"{info['name']} {_version(info)}" for info in _list_files(fs, root, given))])
    return LoadedDataset(f"{_display_name(fs, root, given)}:{spec.split}", version, root, spec.name, spec.split, None)


def _file_system(path: str, spec: SourceSpec) -> tuple[fsspec.AbstractFileSystem, str]:
    with _naming_path(path):
        fs, root = fsspec.url_to_fs(path, **spec.storage_options)
        fs.invalidate_cache()
    return fs, root


def _list_files(fs: fsspec.AbstractFileSystem, root: str, given: str) -> list[_FileInfo]:
    with _naming_path(given):
        infos = fs.find(root, detail=True)
    return [infos[name] for name in sorted(infos)]


def _data_file(fs: fsspec.AbstractFileSystem, info: _FileInfo, given: str) -> DataFile:
    return DataFile(_display_name(fs, info["name"], given), _version(info), fs, info["name"])


def _version(info: _FileInfo) -> str:
    version = next((info[key] for key in _VERSION_KEYS if info.get(key) is not None), "")
    return f"{info.get('size')} {version}"


def _display_name(fs: fsspec.AbstractFileSystem, path: str, given: str) -> str:
    """A path as the user would write it: a remote file by its URL; a local one absolute only if `given` is."""
    if not isinstance(fs, LocalFileSystem):
        return str(fs.unstrip_protocol(path))
    if "://" not in given and not given.startswith(("/", "~")):
        path = os.path.relpath(path)
    # A table cannot hold every byte of a name. As escapes, two names stay two.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def _naming_path(path: str) -> Iterator[None]:
    """Turns the errors of listing a path into a DselectError that names it."""
    try:
        yield
    except DselectError:
        raise
    except FileNotFoundError as error:
        raise DselectError(f"{path}: no such file or folder ({error}). Mend `path` in the source.") from error
    except Exception as error:  # each file system has its own errors; all are about this path
        raise DselectError(
            f"{path}: cannot be listed ({type(error).__name__}: {str(error).partition(chr(10))[0]}). "
            "Check the address, the credentials and `storage_options` of the source."
        ) from error
