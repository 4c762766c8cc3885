"""Content hashes of samples, provenances, tables and files.

All are BLAKE2b-128 in hex. Each field is preceded by its length, so two different lists of fields never have the same
bytes.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest(fields: Iterable[str | bytes]) -> str:
    """128-bit hash of a sequence of fields, as 32 hex digits. Their order and their boundaries count."""
    h = hashlib.blake2b(digest_size=16)
    for field in fields:
        data = field.encode("utf-8", "surrogatepass") if isinstance(field, str) else field
        h.update(len(data).to_bytes(8, "little"))
        h.update(data)
    return h.hexdigest()


def fingerprint(value: Any) -> str:
    """128-bit hash of a JSON value, as 32 hex digits; the order of an object's keys does not count.

    Raises TypeError for a value that JSON cannot hold.
    """
    return digest([json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))])
