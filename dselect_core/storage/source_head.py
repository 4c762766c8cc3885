"""The head of a source: the few bytes that say which scores of a store are the source's now.

The scores lie in the store, which all sources share. A source has one head for each kind of score.
"""

from dataclasses import asdict, dataclass

from upath import UPath

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.storage.json_file import read_json, write_json


@dataclass(frozen=True)
class Head:
    """What of one store a source stands for now.

    fingerprint: of the provenance, which names the store; version: hash of the source's scores; samples: version of
    the source's samples that the scores cover; rows: number of scores; nulls: how many of them are null.
    """

    fingerprint: str
    version: str
    samples: str
    rows: int
    nulls: int


def write_head(head: Head, path: UPath) -> None:
    """Write the head as JSON. Makes the folder, replaces the file."""
    write_json(asdict(head), path)


def read_head(path: UPath) -> Head | None:
    """The head; None where the source has no scores of this kind yet. Raises DamagedFileError."""
    try:
        return Head(**read_json(path))
    except FileNotFoundError:
        return None
    except TypeError:
        raise DamagedFileError(path, "it lacks what a head says") from None


def readable_head(path: UPath) -> Head | None:
    """The head; None also where it is altered, or of another version of dselect."""
    try:
        return read_head(path)
    except DselectError:
        return None
