"""A row as its file holds it, before anything is understood of it."""

from typing import Any, NamedTuple

EXCERPT_BYTES = 800
"""What is kept of a row that is too large: enough for an excerpt of 200 characters, of four bytes at most each."""


class RawRow(NamedTuple):
    """A row as its file holds it. number: counts from 1; value: the JSON value; error: why there is no value.

    text: the line, where the file has lines; of a row that is too large, its beginning. size: bytes, 0 where unknown.
    """

    number: int
    value: Any = None
    error: str | None = None
    text: bytes | None = None
    size: int = 0


def too_large(number: int, size: int, max_row_bytes: int, beginning: bytes) -> RawRow:
    """A row that is not read, for it has `size` bytes."""
    reason = f"larger than max_row_bytes: {size:,} bytes, and {max_row_bytes:,} are allowed"
    return RawRow(number, error=reason, text=beginning[:EXCERPT_BYTES], size=min(size, EXCERPT_BYTES))
