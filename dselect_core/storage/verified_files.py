"""Which files of the storage were read whole and found good, by size and time (or etag), so that none is read twice.

The record lies in the storage, in verified.json, and in this process. It is a cache: where it is lost or altered, files
are read once more.

Trade-off: a file that rots on the disk, without a new time, is found when it is used and not by a look at the record.
"""

import json
from collections.abc import Mapping

from upath import UPath

from dselect_core.storage.files import write_text
from dselect_core.storage.folder_listing import FileEntry

NAME = "verified.json"

# {storage: {path in it: version of the file}}: what this process has verified.
_verified_here: dict[str, dict[str, str]] = {}


class VerifiedFiles:
    """The record of one storage. root: the folder or prefix that the paths are relative to."""

    def __init__(self, root: UPath):
        self._path = root / NAME
        self._here = _verified_here.setdefault(str(root), {})
        self._saved = _read(self._path)

    def __contains__(self, file: tuple[str, FileEntry]) -> bool:
        """Whether this version of the file, (path, entry), was found good."""
        path, entry = file
        return self._here.get(path) == entry.version or self._saved.get(path) == entry.version

    def add(self, path: str, entry: FileEntry) -> None:
        """Note that this version of the file is good."""
        self._here[path] = entry.version

    def save(self, present: Mapping[str, FileEntry]) -> None:
        """Write what is good of the files that are there. Writes nothing where that is on record already."""
        verified = {path: entry.version for path, entry in sorted(present.items()) if (path, entry) in self}
        if verified != self._saved:
            write_text(json.dumps(verified, indent=0), self._path)
            self._saved = verified


def _read(path: UPath) -> dict[str, str]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
