"""The rows of a JSON file: a JSON array, JSON Lines, or one object over several lines. One row at a time is held.

What the first line holds decides, not the name: an array of objects that is named .jsonl is read as the array it is.
The name .jsonl or .ndjson only means that a broken first line is a bad row. A broken line is one bad row. An array that
is broken is an error, because nothing after the fault has a sure row number; an element that is whole and cannot be
used (too large, nested too deeply, a number too long) is one bad row.

Trade-off: the array is taken apart here, element by element, with the decoder of `json`. A streaming parser would be
one more dependency, and the values have to be those of `json`.
"""

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from dselect_core.corpus.raw_row import EXCERPT_BYTES, RawRow, too_large
from dselect_core.errors import DselectError

_JSON_LINES_NAME = re.compile(r"\.(jsonl|ndjson)(\.\w+)?$", re.IGNORECASE)
_ARRAY_OF_OBJECTS = re.compile(rb"\s*\[\s*(\{|$)")
_CHUNK_BYTES = 1 << 18
# Where JSON stops within so many characters of the end, what is missing may lie behind the end.
_LONGEST_TOKEN = 16
_DECODER = json.JSONDecoder()
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_STRUCTURE, _END_OF_STRING_OR_ESCAPE = re.compile(r'[\[\]{}",]'), re.compile(r'["\\]')


def read_json_rows(stream: io.BufferedReader, name: str, max_row_bytes: int) -> Iterator[RawRow]:
    """The rows of a JSON file, numbered from 1: the element of an array, else the line.

    Raises DselectError, naming the file, for UTF-16, a broken array, or a value over several lines that is too large.
    """
    if stream.peek(4).startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    elif stream.peek(4).startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DselectError(f"{name}: the text is UTF-16. Save it as UTF-8.")
    # One byte more, so that a line that is cut off is longer than any that is allowed.
    first_line, line_number = stream.readline(max_row_bytes + 2), 1
    while first_line and not first_line.strip():
        first_line, line_number = stream.readline(max_row_bytes + 2), line_number + first_line.endswith(b"\n")
    if _is_array(first_line, stream, _JSON_LINES_NAME.search(name) is not None, max_row_bytes):
        yield from _Array(first_line, stream, name, line_number, max_row_bytes).rows()
    elif len(first_line) <= max_row_bytes and first_line.lstrip().startswith(b"{") and _is_cut(first_line):
        yield from _object_or_lines(first_line, stream, name, line_number, max_row_bytes)
    else:
        yield from _line_rows(_rejoined(first_line, stream), line_number, max_row_bytes)


def _is_array(line: bytes, stream: io.BufferedReader, named_json_lines: bool, max_row_bytes: int) -> bool:
    """Whether the file is one array. line: its first that is not blank."""
    if not named_json_lines:
        return line.lstrip().startswith(b"[")
    if not _ARRAY_OF_OBJECTS.match(line):
        return False
    if _is_cut(line) or len(line) > max_row_bytes:
        return True
    # A whole array in one line, and nothing after it but blank lines, of which one buffer is looked at.
    is_last = not stream.peek().strip()
    return is_last and _parse_line(1, line).error is None


def _is_cut(line: bytes) -> bool:
    """Whether the line is the beginning of a JSON value that goes on after its end."""
    try:
        json.loads(text := line.decode("utf-8").strip())
    except json.JSONDecodeError as error:
        return not error.msg.startswith("Unterminated") and error.pos >= len(text)
    except (ValueError, RecursionError):
        return False
    return False


def _object_or_lines(
    first_line: bytes, stream: io.BufferedReader, name: str, line_number: int, max_row_bytes: int
) -> Iterator[RawRow]:
    """One object over several lines is one row; else the first line is broken."""
    body = first_line + stream.read(max(0, max_row_bytes + 1 - len(first_line)))
    if len(body) <= max_row_bytes:
        whole = _parse_line(1, body)
        if isinstance(whole.value, dict):
            yield whole
            return
    elif not any(isinstance(_parse_line(1, line).value, dict) for line in body.splitlines()):
        raise DselectError(
            f"{name}: one JSON value over several lines, of more than max_row_bytes ({max_row_bytes:,}). "
            "Write one JSON object a line, as .jsonl, or set `max_row_bytes` of the source."
        )
    yield from _line_rows(_rejoined(body, stream), line_number, max_row_bytes)


def _rejoined(beginning: bytes, stream: io.BufferedReader) -> io.BufferedReader:
    """The stream with what was read of it put back before it."""
    return io.BufferedReader(_Chained(beginning, stream), _CHUNK_BYTES)


class _Chained(io.RawIOBase):
    def __init__(self, beginning: bytes, stream: io.BufferedReader):
        self._beginning, self._stream = io.BytesIO(beginning), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        return self._beginning.readinto(buffer) or self._stream.readinto1(buffer)


def _line_rows(stream: io.BufferedReader, first_number: int, max_row_bytes: int) -> Iterator[RawRow]:
    number = first_number
    while line := stream.readline(max_row_bytes + 2):
        if len(line.rstrip(b"\r\n")) > max_row_bytes:
            yield _skip_line(number, line, stream, max_row_bytes)
        elif line.strip():
            yield _parse_line(number, line)
        number += 1


def _skip_line(number: int, line: bytes, stream: io.BufferedReader, max_row_bytes: int) -> RawRow:
    """Reads on to the end of the line, and holds nothing of it."""
    size, rest = len(line), line
    while not rest.endswith(b"\n") and (rest := stream.readline(_CHUNK_BYTES)):
        size += len(rest)
    return too_large(number, size, max_row_bytes, line)


def _parse_line(number: int, line: bytes) -> RawRow:
    try:
        return RawRow(number, json.loads(line.rstrip().decode("utf-8")), text=line, size=len(line))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}"
    except json.JSONDecodeError as error:
        reason = f"broken JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        reason = _unusable(error)
    return RawRow(number, error=reason, text=line, size=len(line))


def _unusable(error: Exception) -> str:
    """The reason for a number that is too long, or objects nested too deeply."""
    return f"unusable JSON: {error}"


class _Array:
    """A JSON array that is read element by element. `_text` holds what was read and not dropped yet.

    `_line`, `_column`: where in the file `_text` begins.
    """

    def __init__(self, first_line: bytes, stream: io.BufferedReader, name: str, line: int, max_row_bytes: int):
        chunks: Iterable[bytes] = iter(lambda: stream.read1(_CHUNK_BYTES), b"")
        self._chunks = chain([first_line], chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._name, self._max_row_bytes = name, max_row_bytes
        self._text, self._position, self._at_end = "", 0, False
        self._line, self._column = line, 1

    def rows(self) -> Iterator[RawRow]:
        """The elements. Raises DselectError, naming the file, at the first place that is no JSON."""
        self._next_character()
        self._position += 1
        number, is_last = 0, self._next_character() == "]"
        while not is_last:
            number += 1
            yield self._element(number)
            separator = self._next_character()
            is_last = separator == "]"
            if not is_last:
                if separator != ",":
                    raise self._broken("Expecting ',' delimiter", self._position)
                self._position += 1
                self._next_character()
        self._position += 1
        if self._next_character():
            raise self._broken("Extra data", self._position)

    def _next_character(self) -> str:
        """The first character from here that is not blank; empty at the end of the file."""
        while True:
            blank = _WHITESPACE.match(self._text, self._position)
            self._position = blank.end() if blank else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def _element(self, number: int) -> RawRow:
        while True:
            start = self._position
            try:
                value, end = _DECODER.raw_decode(self._text, start)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _LONGEST_TOKEN
                if self._at_end or not is_cut:
                    raise self._broken(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                size, beginning = self._skip_element()
                return RawRow(number, error=_unusable(error), text=beginning, size=size)
            else:
                if end < len(self._text) or self._at_end:
                    size = _utf8_bytes(self._text[start:end], self._max_row_bytes)
                    self._position = end
                    if size > self._max_row_bytes:
                        return too_large(number, size, self._max_row_bytes, _beginning(self._text, start))
                    return RawRow(number, value, size=size)
            if len(self._text) - start > self._max_row_bytes:
                size, beginning = self._skip_element()
                return too_large(number, size, self._max_row_bytes, beginning)
            # Twice as much each time, because the element is parsed from its beginning again.
            wanted = 2 * (len(self._text) - start)
            while len(self._text) - self._position < wanted and self._fill():
                pass

    def _skip_element(self) -> tuple[int, bytes]:
        """Goes to the end of the element by its brackets and quotes alone. Returns its characters and its beginning."""
        beginning = _beginning(self._text, self._position)
        depth, in_string, size = 0, False, 0
        while True:
            start = self._position
            match = (_END_OF_STRING_OR_ESCAPE if in_string else _STRUCTURE).search(self._text, start)
            is_escape = match is not None and match[0] == "\\"
            if match is None or (is_escape and match.end() == len(self._text)):
                self._position = len(self._text) if match is None else match.start()
                size += self._position - start
                if not self._fill():
                    raise self._broken("the array ends inside an element", len(self._text))
                continue
            ends_array_or_element = depth == 0 and not in_string and match[0] in "],}"
            self._position = match.start() if ends_array_or_element else match.end() + is_escape
            size += self._position - start
            if match[0] == '"':
                in_string = not in_string
            elif not in_string and match[0] in "[{":
                depth += 1
            elif not in_string and match[0] in "]}":
                depth -= 1
            if ends_array_or_element or (depth == 0 and not in_string and match[0] in "]}"):
                return size, beginning

    def _fill(self) -> bool:
        """Drops what lies behind, and reads on. False at the end of the file."""
        if self._at_end:
            return False
        chunk = next(self._chunks, b"")
        self._at_end = not chunk
        try:
            text = self._decoder.decode(chunk, final=self._at_end)
        except UnicodeDecodeError as error:
            line = self._line + self._text.count("\n") + error.object[: error.start].count(b"\n")
            byte = f"byte 0x{error.object[error.start]:02x}"
            raise DselectError(f"{self._name}: line {line}: not UTF-8 ({byte}). Save it as UTF-8.") from None
        self._line, self._column = self._place(self._position)
        self._text, self._position = self._text[self._position :] + text, 0
        return not self._at_end

    def _place(self, position: int) -> tuple[int, int]:
        """The line and column in the file of a position in `_text`."""
        lines = self._text.count("\n", 0, position)
        column = position - self._text.rfind("\n", 0, position) if lines else self._column + position
        return self._line + lines, column

    def _broken(self, message: str, position: int) -> DselectError:
        line, column = self._place(position)
        where = f"{message.removesuffix(' starting at')} at line {line}, column {column}"
        return DselectError(
            f"{self._name}: broken JSON array: {where}. Mend it or fetch it again; "
            "if it holds one JSON value a line, name it .jsonl."
        )


def _beginning(text: str, start: int) -> bytes:
    return text[start : start + EXCERPT_BYTES].encode("utf-8", "replace")


def _utf8_bytes(text: str, limit: int) -> int:
    """Bytes of the text; its characters where even four bytes each are within the limit."""
    return len(text) if 4 * len(text) <= limit else len(text.encode("utf-8", "surrogatepass"))
