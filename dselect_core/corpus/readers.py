"""From one data file to its rows: JSON array, JSON Lines, Parquet or Arrow; plain, .gz, .zst, .bz2 or .xz.

The format is detected from the first bytes, not from the name. Rows are streamed, so memory follows neither the file
nor its largest row, which is cut off at `max_row_bytes`. A file that cannot be read to its end is a DselectError,
because the rows that it lost have no row number in quarantine. An Arrow *stream* that is cut exactly between two
batches looks like a whole one.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dselect_core.corpus.json_rows import read_json_rows
from dselect_core.corpus.raw_row import RawRow
from dselect_core.corpus.unpack import COMPRESSED_ENDINGS, unpacked
from dselect_core.errors import DselectError

DATA_NAME = re.compile(rf"\.(jsonl?|ndjson|parquet|pq|arrow|ipc|feather)(\.({COMPRESSED_ENDINGS}))?$", re.IGNORECASE)
"""How the names of data files end."""

_TABLE_NAME = re.compile(r"\.(parquet|pq|arrow|ipc|feather)(\.\w+)?$", re.IGNORECASE)
READABLE_FORMATS = "JSON arrays, JSON Lines, Parquet and Arrow, plain or .gz, .zst, .bz2, .xz"


@dataclass(frozen=True)
class DataFile:
    """A file to read rows from. name: as the user writes it; version: its size with its etag or modification time."""

    name: str
    version: str
    fs: fsspec.AbstractFileSystem
    path: str

    def rows(self, columns: Iterable[str], max_row_bytes: int) -> Iterator[RawRow]:
        """All rows, numbered from 1. Of a table only `columns` are read, if it has any of them.

        A row of more than `max_row_bytes` is one with an error. Raises DselectError, naming the file, when the file is
        missing, empty, torn, no file at all, or in none of the formats.
        """
        with _naming_file(self.name):
            if isinstance(self.fs, LocalFileSystem) and Path(self.path).exists() and not Path(self.path).is_file():
                raise DselectError(f"{self.name}: no regular file but a pipe or a device. Write its rows to a file.")
            with self.fs.open(self.path, "rb") as raw:
                yield from self._rows(raw, list(columns), max_row_bytes)

    def _rows(self, raw: BinaryIO, columns: list[str], max_row_bytes: int) -> Iterator[RawRow]:
        stream, is_packed = unpacked(raw, self.name)
        head = stream.peek(8)[:8]
        if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
            from dselect_core.corpus.table_rows import read_table_rows, record_batches  # pyarrow, for tables alone

            # A table is read by seeking, which a packed stream cannot do.
            with tempfile.TemporaryFile() if is_packed else nullcontext(raw) as source:
                if is_packed:
                    shutil.copyfileobj(stream, source, 1 << 20)
                source.seek(0)
                yield from read_table_rows(record_batches(source, head, columns), max_row_bytes)
        elif _TABLE_NAME.search(self.name):
            raise DselectError(f"{self.name}: not a whole Parquet or Arrow file. Write or fetch it again.")
        else:
            yield from read_json_rows(stream, self.name, max_row_bytes)


@contextmanager
def _naming_file(name: str) -> Iterator[None]:
    """Turns the errors of reading into a DselectError that names the file. Each library has errors of its own."""
    try:
        yield
    except DselectError:
        raise
    except FileNotFoundError:
        raise DselectError(f"{name}: no such file.") from None
    except PermissionError as error:
        raise DselectError(f"{name}: no permission to read it ({error}).") from error
    except Exception as error:
        raise DselectError(f"{name}: torn or unreadable ({error}). Write or fetch it again.") from error
