"""The head of a source: the few bytes that say which scores of the store are the source's now.

The rows lie in the store, shared by all sources; a source has one head for each kind of score.
"""

import json
from dataclasses import asdict, dataclass

from upath import UPath

from dselect_core.storage.files import write_text


@dataclass(frozen=True)
class Head:
    """fingerprint: of the provenance; version: of the rows; samples: version of the samples that they cover."""

    fingerprint: str
    version: str
    samples: str
    rows: int
    nulls: int


def write_head(head: Head, path: UPath) -> None:
    """Write the head; replaces the one before."""
    write_text(json.dumps(asdict(head)), path)


def read_head(path: UPath) -> Head | None:
    """None where nothing was made yet."""
    try:
        return Head(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
