"""A checksum inside a Parquet file, over all of its bytes: a footer survives when a byte of the data is altered.

The file has the key-value pair `dselect.checksum`: the hash of the file with zeros in the hash's place. Any reader of
Parquet still opens it. Trade-offs: the file is hashed whole, at about 1 GB/s, where the format's own page checksums
would leave out the footer with its pairs. A file without the pair was written by version 0.2 or earlier, and is taken
as it is.
"""

import hashlib

CHECKSUM = "dselect.checksum"
"""The key of the pair."""

_DIGITS = 32
UNSEALED = {CHECKSUM: "0" * _DIGITS}
"""The pair as it is written first, for `seal` to fill."""

# As the footer holds the pair: the key, the type of the field (18: a string), its length.
_MARK = CHECKSUM.encode() + bytes([0x18, _DIGITS])


def seal(data: bytes) -> bytes:
    """The bytes of a file that was written with the pair UNSEALED, with its checksum in place."""
    at = data.rindex(_MARK) + len(_MARK)
    return data[:at] + _digest(data, at) + data[at + _DIGITS :]


def is_intact(data: bytes) -> bool:
    """Whether the bytes are those that were sealed, or have no checksum."""
    mark = data.rfind(_MARK)
    if mark < 0:
        return True
    at = mark + len(_MARK)
    return data[at : at + _DIGITS] == _digest(data, at)


def _digest(data: bytes, at: int) -> bytes:
    view = memoryview(data)
    h = hashlib.blake2b(digest_size=_DIGITS // 2)
    for piece in (view[:at], b"0" * _DIGITS, view[at + _DIGITS :]):
        h.update(piece)
    return h.hexdigest().encode()
