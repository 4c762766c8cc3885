"""List a folder, on a disk or in an object store, while other processes write and delete files in it.

No cached listing is used. A folder on a disk is read until two listings agree.
"""

import contextlib
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from dselect_core.storage.files import is_local


class FileEntry(NamedTuple):
    """One file of a folder. size: in bytes; version: changes when the file is written again.

    modified: when it was last written, in seconds since the epoch; infinite where that is not known.
    """

    name: str
    size: int
    version: str
    modified: float


def list_folder(folder: UPath, wanted_names: re.Pattern[str]) -> list[FileEntry]:
    """The entries of a folder, in no order; empty where there is no such folder.

    wanted_names: on a disk, other entries get only their name, because a temporary file may be gone before it is asked
    for its size. Raises FileNotFoundError when a wanted file is.
    """
    if is_local(folder):
        return _list_local(Path(folder.path), wanted_names)
    try:
        # `refresh`: another process or thread may have written since the cached listing.
        entries = folder.fs.ls(folder.path, detail=True, refresh=True)
    except FileNotFoundError:
        return []
    return [_remote_entry(entry) for entry in entries]


def _list_local(folder: Path, wanted_names: re.Pattern[str]) -> list[FileEntry]:
    try:
        names = {path.name for path in folder.iterdir()}
        # A listing can miss a file that comes or goes while it is read. Two equal listings missed nothing.
        while (next_names := {path.name for path in folder.iterdir()}) != names:
            names = next_names
    except FileNotFoundError:
        return []
    entries = [FileEntry(name, 0, "", math.inf) for name in names if not wanted_names.fullmatch(name)]
    for name in names:
        if wanted_names.fullmatch(name):
            stat = (folder / name).stat()
            entries.append(FileEntry(name, stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}", stat.st_mtime))
    return entries


def modification_time(path: UPath, entry: FileEntry) -> float:
    """When the file was last written, in seconds since the epoch; infinite when it is gone or the time is not known.

    On a disk the file is asked now; in an object store its entry is used.
    """
    if not is_local(path):
        return entry.modified
    try:
        return Path(path.path).stat().st_mtime
    except FileNotFoundError:
        return math.inf


def list_tree(folder: UPath) -> dict[str, FileEntry]:
    """{path relative to the folder: entry} of all files in it, at any depth; empty where there is no folder.

    A file that comes or goes meanwhile may be listed or not.
    """
    if not is_local(folder):
        folder.fs.invalidate_cache()  # another process may have written since
        start = len(folder.path.rstrip("/")) + 1
        found = folder.fs.find(folder.path, detail=True)
        return {str(path)[start:]: _remote_entry(entry) for path, entry in found.items()}
    files: dict[str, FileEntry] = {}
    _walk_local(folder.path, "", files)
    return files


def _walk_local(folder: str, prefix: str, files: dict[str, FileEntry]) -> None:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                _walk_local(entry.path, f"{prefix}{entry.name}/", files)
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat()
                version = f"{stat.st_size} {stat.st_mtime_ns}"
                files[prefix + entry.name] = FileEntry(entry.name, stat.st_size, version, stat.st_mtime)


def _remote_entry(entry: dict[str, Any]) -> FileEntry:
    return FileEntry(
        str(entry["name"]).rsplit("/", 1)[-1],
        int(entry["size"] or 0),
        f"{entry['size']} {entry.get('ETag') or entry.get('mtime')}",
        entry["LastModified"].timestamp() if entry.get("LastModified") else math.inf,
    )
