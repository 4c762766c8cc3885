"""List a folder, on a disk or in an object store, while other processes write and delete files in it.

No cached listing is used. A folder on a disk is read until two listings agree.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

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
    return [
        FileEntry(
            str(e["name"]).rsplit("/", 1)[-1],
            int(e["size"] or 0),
            f"{e['size']} {e.get('ETag') or e.get('mtime')}",
            e["LastModified"].timestamp() if e.get("LastModified") else math.inf,
        )
        for e in entries
    ]


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
