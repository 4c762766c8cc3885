"""Write and read small JSON objects in the storage, with a checksum of all that they hold.

The object in the file has one more key, `checksum`: the hash of the others. A person may read the file. A file without
it was written by version 0.2 or earlier, and is taken as it is.
"""

import json
from typing import Any

from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import fingerprint
from dselect_core.storage.files import read_bytes, write_bytes

CHECKSUM = "checksum"
"""The key that a file has beside those of its object."""


def write_json(value: dict[str, Any], path: UPath) -> None:
    """Write the object. Makes the folder, replaces the file. Raises TypeError for a value that JSON cannot hold."""
    write_bytes(json_bytes(value), path)


def json_bytes(value: dict[str, Any]) -> bytes:
    """The bytes of the file."""
    stored = json.loads(json.dumps(value))  # JSON turns keys into strings, and tuples into lists
    sealed = {**stored, CHECKSUM: fingerprint(stored)}
    try:
        return (json.dumps(sealed, ensure_ascii=False, indent=2) + "\n").encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return (json.dumps(sealed, indent=2) + "\n").encode("ascii")


def read_json(path: UPath) -> dict[str, Any]:
    """The object, without its checksum. Raises FileNotFoundError, or DamagedFileError."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes, path: UPath) -> dict[str, Any]:
    """The object in the bytes of the file `path`, without its checksum. Raises DamagedFileError."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise DamagedFileError(path, "it is empty" if not data.strip() else "it is not valid JSON") from None
    if not isinstance(value, dict):
        raise DamagedFileError(path, "it is not a JSON object")
    checksum = value.pop(CHECKSUM, None)
    if checksum is not None and checksum != fingerprint(value):
        raise DamagedFileError(path, "its content does not match its checksum")
    return value
