"""Content hashes: of samples, recipes, tables and files.

All are BLAKE2b-128 in hex. Fields are length-prefixed, so no two different lists of fields hash
alike by running into each other.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest(fields: Iterable[str | bytes]) -> str:
    """128-bit hex hash of a sequence of fields; order counts, boundaries count."""
    h = hashlib.blake2b(digest_size=16)
    for field in fields:
        data = field.encode("utf-8", "surrogatepass") if isinstance(field, str) else field
        h.update(len(data).to_bytes(8, "little"))
        h.update(data)
    return h.hexdigest()


def fingerprint(value: Any) -> str:
    """128-bit hex hash of a JSON value, whatever the order of its keys."""
    return digest([json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))])
