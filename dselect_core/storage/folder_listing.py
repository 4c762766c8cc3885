"""What lies in a folder now, on a disk or in an object store, while other processes write and delete there.

A listing that was made before is not believed, whoever made it; a folder on a disk is read until two listings agree.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from dselect_core.storage.files import is_local


class Listed(NamedTuple):
    name: str
    size: int
    stamp: str
    modified: float  # seconds since the epoch


def listing(folder: UPath, known: re.Pattern[str]) -> list[Listed]:
    """Empty where there is no such folder. Of a file on a disk whose name is not a `known` one, only the name."""
    if is_local(folder):
        local = Path(folder.path)
        try:
            names = {path.name for path in local.iterdir()}
            # What comes and goes while a folder is read may be missed at both ends; two alike listings missed nothing.
            while (again := {path.name for path in local.iterdir()}) != names:
                names = again
        except FileNotFoundError:
            return []
        stats = [(name, (local / name).stat()) for name in names if known.fullmatch(name)]
        others = [Listed(name, 0, "", math.inf) for name in names if not known.fullmatch(name)]
        return others + [
            Listed(n, stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}", stat.st_mtime) for n, stat in stats
        ]
    try:
        # `refresh`: another process, or thread, may have written since the listing that is in the cache.
        entries = folder.fs.ls(folder.path, detail=True, refresh=True)
    except FileNotFoundError:
        return []
    return [
        Listed(
            str(e["name"]).rsplit("/", 1)[-1],
            int(e["size"] or 0),
            f"{e['size']} {e.get('ETag') or e.get('mtime')}",
            e["LastModified"].timestamp() if e.get("LastModified") else math.inf,
        )
        for e in entries
    ]


def modified(path: UPath, listed: Listed) -> float:
    """When the file was last written, as it is now; infinite when it is gone or its place does not tell."""
    if not is_local(path):
        return listed.modified
    try:
        return Path(path.path).stat().st_mtime
    except FileNotFoundError:
        return math.inf
