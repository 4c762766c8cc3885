"""A file's bytes, unpacked as they are read: .gz, .bz2, .zst, .xz, known by their first bytes; others as they are.

Memory is a buffer and the window of the format: at most 128 MiB for zstd, MAX_XZ_BYTES for xz. A file that unpacks to
far more than it holds is refused, because its rows would fill memory and time without end. pyarrow decompresses all
but xz: it reads files of several frames and, unlike Python's zstd stream, reports one that is cut off.
"""

import io
import lzma
from typing import BinaryIO, cast

from dselect_core.errors import DselectError

MAX_RATIO, ALWAYS_ALLOWED_BYTES = 1000, 1 << 30
"""A packed file may unpack to MAX_RATIO times its size, or to ALWAYS_ALLOWED_BYTES where that is more."""

MAX_XZ_BYTES = 1 << 28
"""What unpacking .xz may take. `xz -9` needs 65 MiB."""

COMPRESSED_ENDINGS = "gz|zst|bz2|xz"
_BUFFER_BYTES = 1 << 20
_XZ_MAGIC = b"\xfd7zXZ\0"
_ARROW_CODECS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zstd"))


def unpacked(raw: BinaryIO, name: str) -> tuple[io.BufferedReader, bool]:
    """The unpacked bytes as a stream, and whether they were packed.

    Raises DselectError for an empty file, and while reading for one that unpacks to too much.
    """
    head = raw.read(8)
    packed_bytes = raw.seek(0, io.SEEK_END)
    raw.seek(0)
    if not head:
        raise DselectError(f"{name}: the file is empty. Remove it, or fetch it again.")
    codec = next((codec for magic, codec in _ARROW_CODECS if head.startswith(magic)), None)
    if head.startswith(_XZ_MAGIC):
        stream: io.RawIOBase = _Xz(raw)
    elif codec is not None:
        import pyarrow as pa  # here, for a refresh with nothing to do reads no file

        stream = cast(io.RawIOBase, pa.CompressedInputStream(raw, codec))
    else:
        return io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER_BYTES), False
    limit = max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * packed_bytes)
    return io.BufferedReader(_Limited(stream, limit, name), _BUFFER_BYTES), True


class _Limited(io.RawIOBase):
    """A stream that ends with an error after `limit` bytes."""

    def __init__(self, stream: io.RawIOBase, limit: int, name: str):
        self._stream, self._limit, self._name, self._count = stream, limit, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = self._stream.readinto(buffer) or 0
        self._count += count
        if self._count > self._limit:
            raise DselectError(
                f"{self._name}: it unpacks to more than {self._limit:,} bytes, over {MAX_RATIO} times its size. "
                "If that is right, unpack it yourself and name the unpacked file."
            )
        return count


class _Xz(io.RawIOBase):
    """Unpacked .xz of any number of streams. `lzma.LZMAFile` has no limit on memory, and the file asks for it."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_BYTES)
        self._packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while True:
            if self._decompressor.eof:
                packed = self._next_stream(self._decompressor.unused_data)
                if not packed:
                    return 0
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_BYTES)
            else:
                packed = self._raw.read(_BUFFER_BYTES) if self._decompressor.needs_input else b""
                if not packed and self._decompressor.needs_input:
                    raise EOFError("Truncated compressed stream")
            data = self._decompressor.decompress(packed, max_length=len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _next_stream(self, packed: bytes) -> bytes:
        """The bytes from the next stream on, without the zeros that may stand before it; empty at the end."""
        while not (stream := packed.lstrip(b"\0")) and (packed := self._raw.read(_BUFFER_BYTES)):
            pass
        return stream
