"""Every container and compression gives the same rows; every file that is bad as a whole says which and why."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from dselect_core.corpus import unpack
from dselect_core.corpus.ingest import IngestedSource, ingest
from dselect_core.corpus.sample import chat_messages
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec

ROWS = [
    {"prompt": f"What is {i} + {i}? Ünïcode \u2028 too", "completion": str(2 * i), "meta": {"i": i}}
    for i in range(1500)
]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def array(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def parquet(rows: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=700)
    return sink.getvalue()


def arrow(rows: list[Any], make: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with make(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


CONTAINERS = {
    "jsonl": lines(ROWS),
    "ndjson": lines(ROWS),
    "json": array(ROWS),
    "parquet": parquet(ROWS),
    "arrow": arrow(ROWS, pa.ipc.new_file),
    "stream.arrow": arrow(ROWS, pa.ipc.new_stream),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
}


def take(path: Path | str, **spec: Any) -> IngestedSource:
    return ingest("s", SourceSpec(path=str(path), **spec))


def write(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_rows_from_every_container(tmp_path: Path, container: str, compression: str) -> None:
    path = write(tmp_path / f"x.{container}{compression}", COMPRESSIONS[compression](CONTAINERS[container]))
    got = take(path)
    expected = take(write(tmp_path / "expected.jsonl", lines(ROWS)))
    assert got.samples.drop("origins").equals(expected.samples.drop("origins"))
    assert got.rows == len(ROWS) == got.samples.height and got.balances
    numbers = got.samples.explode("origins").unnest("origins")
    assert sorted(numbers["row"]) == list(range(1, len(ROWS) + 1)) and set(numbers["file"]) == {str(path)}
    by_prompt = {row["messages"][0]["content"]: row["row"] for row in numbers.to_dicts()}
    assert by_prompt[ROWS[41]["prompt"]] == 42


@pytest.mark.parametrize("name", ["x.json", "x", "x.txt", "x.jsonl"])
def test_json_lines_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    assert take(write(tmp_path / name, lines(ROWS[:3]))).rows == 3


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, zstandard.ZstdCompressor().compress, lzma.compress])
def test_a_compressed_file_of_several_frames_is_read_to_its_end(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    body = compress(lines(ROWS[:700])) + compress(lines(ROWS[700:]))
    assert take(write(tmp_path / "x.jsonl.zst", body)).rows == len(ROWS)


def test_a_byte_order_mark_blank_lines_and_crlf_are_no_content(tmp_path: Path) -> None:
    body = b"\xef\xbb\xbf\r\n" + b"\r\n\r\n".join(json.dumps(row).encode() for row in ROWS[:2])
    got = take(write(tmp_path / "x.jsonl", body))
    assert got.rows == 2 and got.quarantined == 0
    assert sorted(got.samples["origins"].explode().struct.field("row")) == [2, 4]
    assert take(write(tmp_path / "x.json", b"\xef\xbb\xbf\n" + array(ROWS[:2]))).rows == 2


def test_one_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    assert take(write(tmp_path / "x.json", json.dumps(ROWS[0], indent=2).encode())).rows == 1


def test_a_table_from_polars_with_nulls_and_nested_turns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "system": None},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}], "system": "s"},
        {"messages": None, "system": None},
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "x.parquet")
    got = take(tmp_path / "x.parquet")
    assert chat_messages(got.samples["messages"].item().to_list()) == rows[0]["messages"]
    assert got.quarantine.select("row", "reason").rows() == [
        (2, "`messages` turn 2 is missing, not text"),
        (3, "no `messages`, which messages (messages) needs; keys found: messages, system"),
    ]


def test_columns_of_mixed_types_that_datasets_keeps_as_json_are_decoded(tmp_path: Path) -> None:
    turns = [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
        None,
    ]
    column = pa.array([None if t is None else [json.dumps(x) for x in t] for t in turns]).cast(pa.list_(pa.json_()))
    for name, writer in (("x.parquet", None), ("x.arrow", pa.ipc.new_file)):
        table = pa.table({"messages": column})
        if writer is None:
            pq.write_table(table, tmp_path / name)
        else:
            with writer(str(tmp_path / name), table.schema) as out:
                out.write_table(table)
        got = take(tmp_path / name)
        assert chat_messages(got.samples["messages"].item().to_list()) == [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
        assert got.quarantined == 1


def test_a_string_that_is_not_utf8_spoils_only_its_row_of_a_table(tmp_path: Path) -> None:
    offsets, data = pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffc")
    torn = pa.StringArray.from_buffers(3, offsets, data)
    pq.write_table(pa.table({"prompt": ["p", "q", "r"], "completion": torn}), tmp_path / "x.parquet")
    got = take(tmp_path / "x.parquet")
    assert (got.rows, got.samples.height) == (3, 2) and got.balances
    assert got.quarantine["row"].to_list() == [2] and "can't decode byte 0xff" in got.quarantine["reason"][0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "q", "completion"', "broken JSON: Expecting ':' delimiter at column 29"),
        (b'{"prompt": "q"} {}', "broken JSON: Extra data at column 17"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 0xff at position 13"),
        (b'{"n": ' + b"9" * 5000 + b"}", "unusable JSON: Exceeds the limit (4300 digits)"),
        (b"[" * 100_000, "unusable JSON: maximum recursion depth exceeded"),
        (b'["q", "a"]', "not a JSON object but a list"),
        (b"null", "not a JSON object but missing"),
        (b'{"prompt": "q", "completion": "\\ud83d"}', "`completion` holds a lone surrogate"),
        (b'{"prompt": "q", "completion": "\\u0000a"}', "`completion` holds a NUL character"),
        (b'{"\\ud83d": 1}', "keys found: ?"),
    ],
)
def test_a_broken_line_is_one_bad_row(tmp_path: Path, line: bytes, reason: str) -> None:
    got = take(write(tmp_path / "x.jsonl", line + b"\n\n" + lines(ROWS[:1]) + line[:]))
    assert (got.rows, got.samples.height, got.quarantined) == (3, 1, 2) and got.balances
    first, last = got.quarantine.to_dicts()
    assert reason in first["reason"] and (first["row"], last["row"]) == (1, 4)
    assert first["excerpt"] == line.decode("utf-8", "replace")[:200] and first["file"] == str(tmp_path / "x.jsonl")


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty.jsonl", b"", "the file is empty. Remove it, or fetch it again."),
    ("empty.parquet", b"", "the file is empty. Remove it, or fetch it again."),
    ("blank.jsonl", b"\n \n", "no rows. Remove source s, or fill it."),
    ("none.json", b"[]", "no rows. Remove source s, or fill it."),
    ("none.jsonl.gz", gzip.compress(b""), "no rows. Remove source s, or fill it."),
    (
        "notes.txt",
        b"Dear diary,\ntoday",
        "no row can be read (row 1: broken JSON: Expecting value at column 1). "
        "Readable are JSON arrays, JSON Lines, Parquet and Arrow, plain or .gz, .zst, .bz2, .xz.",
    ),
    ("image.png", b"\x89PNG\r\n\x1a\n\0\0", "no row can be read (row 1: not UTF-8: byte 0x89 at position 1)."),
    (
        "cut.json",
        array(ROWS[:9])[:200],
        "broken JSON array: Expecting property name enclosed in double quotes at line 12, "
        "column 3. Mend it or fetch it again; if it holds one JSON value a line, name it .jsonl.",
    ),
    ("lines.json", b'["q", "a"]\n["q", "a"]', "broken JSON array: Extra data at line 2, column 1. Mend it"),
    ("latin.json", b'[\n{"a": "\xfc"}]', "line 2: not UTF-8 (byte 0xfc). Save it as UTF-8."),
    ("deep.json", b"[" * 100_000, "broken JSON array: the array ends inside an element at line 1, column 100001."),
    ("cut_escape.json", b'[{"prompt": "q\\', "broken JSON array: Unterminated string at line 1, column 13."),
    ("cut_number.json", b"[1, 2", "broken JSON array: Expecting ',' delimiter at line 1, column 6."),
    ("cut_utf8.json", '["ü'.encode()[:-1], "line 1: not UTF-8 (byte 0xc3). Save it as UTF-8."),
    ("no_comma.json", b'[{"a": 1}\n {"a": 2}]', "broken JSON array: Expecting ',' delimiter at line 2, column 2."),
    ("utf16.jsonl", '{"prompt": "q"}'.encode("utf-16"), "the text is UTF-16. Save it as UTF-8."),
    (
        "cut.jsonl.gz",
        gzip.compress(lines(ROWS))[:-40],
        "torn or unreadable (Truncated compressed stream). Write or fetch it again.",
    ),
    ("cut.jsonl.zst", zstandard.compress(lines(ROWS))[:-40], "torn or unreadable (Truncated compressed stream)."),
    ("cut.jsonl.bz2", bz2.compress(lines(ROWS))[:-40], "torn or unreadable (Truncated compressed stream)."),
    ("cut.jsonl.xz", lzma.compress(lines(ROWS))[:-40], "torn or unreadable (Truncated compressed stream)."),
    ("junk.jsonl.gz", gzip.compress(lines(ROWS)) + b"junk", "torn or unreadable (zlib inflate failed"),
    ("cut.parquet", parquet(ROWS)[:-40], "torn or unreadable (Parquet magic bytes not found in footer."),
    ("head.parquet", b"PAR1", "torn or unreadable (Parquet file size is 4 bytes"),
    ("tail.parquet", parquet(ROWS)[40:], "not a whole Parquet or Arrow file. Write or fetch it again."),
    ("cut.arrow", arrow(ROWS, pa.ipc.new_file)[:-40], "torn or unreadable (Not an Arrow file)."),
    ("cut.stream.arrow", arrow(ROWS, pa.ipc.new_stream)[:-400], "torn or unreadable (Expected to be able to read"),
    (
        "text.jsonl",
        b'{"text": "a", "id": 1}\n{"text": "b"}',
        "no row has a known format; keys found: text, id "
        "(rows looked at: 2). Known are messages ({role, content}), sharegpt (conversations of {from, value}), strings "
        "(conversations of text), alpaca (instruction, output), prompt_completion (prompt/question/query/… with "
        "completion/response/answer/…): rename the keys.",
    ),
    (
        "wrapped.json",
        b'{"data": [{"prompt": "q", "completion": "a"}]}',
        "no row has a known format; keys found: data (rows looked at: 1). Known",
    ),
    ("numbers.json", b"[1, 2]", "no row has a known format; no JSON objects found (rows looked at: 2)."),
    ("text.parquet", parquet([{"text": "a"}]), "no row has a known format; keys found: text (rows looked at: 1)."),
]


@pytest.mark.parametrize(("name", "body", "message"), BAD_FILES, ids=[name for name, _, _ in BAD_FILES])
def test_a_file_bad_as_a_whole_is_an_error_naming_it(tmp_path: Path, name: str, body: bytes, message: str) -> None:
    path = write(tmp_path / name, body)
    with pytest.raises(DselectError) as failed:
        take(path)
    assert str(failed.value).startswith(f"{path}: {message}")


def test_a_named_format_that_fits_no_row_says_what_the_rows_look_like(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS[:2]))
    with pytest.raises(DselectError) as failed:
        take(path, format="alpaca")
    assert str(failed.value) == (
        f"{path}: no row fits `format: alpaca`; keys found: prompt, completion, meta (rows looked at: 2). They look "
        "like prompt_completion (prompt, completion): set `format: prompt_completion`, or remove `format`."
    )


def test_a_named_format_that_does_not_fit_a_row_quarantines_that_row(tmp_path: Path) -> None:
    body = lines([{"instruction": "q", "output": "a"}, ROWS[0]])
    got = take(write(tmp_path / "x.jsonl", body), format="alpaca")
    assert got.samples.height == 1 and got.quarantine["row"].to_list() == [2]
    assert got.quarantine["reason"][0].startswith(
        "no `instruction`, which alpaca (instruction, output) needs; keys found:"
    )


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS[:1]))
    path.chmod(0)
    try:
        path.read_bytes()
        pytest.skip("this user may read everything")
    except PermissionError:
        pass
    with pytest.raises(DselectError, match=r"x\.jsonl: no permission to read it"):
        take(path)


# --- an array by another name ----------------------------------------------------------------------------------------

SAY = [{"instruction": f"Say {i}.", "output": f"{i}."} for i in range(6)]


@pytest.mark.parametrize(
    "body",
    [
        "[\n" + ",\n".join(json.dumps(row) for row in SAY) + "\n]\n",  # the brackets stand alone
        "[" + ",\n".join(json.dumps(row) for row in SAY) + "]",  # or beside the first and the last row
        json.dumps(SAY, indent=2),
        "\n\n" + json.dumps(SAY),  # all in one line
        "[\r\n" + "\r\n,".join(json.dumps(row) for row in SAY) + "\r\n]",
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson.gz", "rows.json"])
def test_an_array_is_read_as_one_whatever_its_name(tmp_path: Path, name: str, body: str) -> None:
    data = body.encode()
    got = take(write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data))
    assert (got.rows, got.samples.height, got.quarantined) == (6, 6, 0)
    rows = got.samples.explode("origins").unnest("origins")
    by_answer = {row["messages"][1]["content"]: row["row"] for row in rows.to_dicts()}
    assert by_answer == {f"{i}.": i + 1 for i in range(6)}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_inside_an_object_over_several_lines_are_refused_and_not_the_last_one_taken(
    tmp_path: Path, name: str
) -> None:
    body = '{"data": [\n' + ",\n".join(json.dumps(row) for row in SAY) + "\n]}\n"
    with pytest.raises(DselectError, match=rf"{name}: no row has a known format; keys found: data"):
        take(write(tmp_path / name, body.encode()))
    with pytest.raises(DselectError, match=r"one JSON value over several lines, of more than max_row_bytes \(200\)"):
        take(write(tmp_path / name, body.encode()), max_row_bytes=200)


def test_a_broken_first_line_of_a_large_file_is_one_bad_row(tmp_path: Path) -> None:
    got = take(write(tmp_path / "x.jsonl", b'{"prompt": "q",\n' + lines(ROWS)), max_row_bytes=1000)
    assert (got.rows, got.quarantine["row"].to_list()) == (len(ROWS) + 1, [1])


# --- rows that are too large -----------------------------------------------------------------------------------------

LARGE = {"prompt": "q" * 2000, "completion": 'a "quoted\\" [bracket}', "meta": {"i": 0}}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_row_over_max_row_bytes_is_quarantined_and_all_others_are_read(tmp_path: Path, container: str) -> None:
    rows = [LARGE, *ROWS[:700], LARGE, *ROWS[700:], LARGE]
    make: dict[str, Callable[[list[Any]], bytes]] = {
        "jsonl": lines,
        "ndjson": lines,
        "json": array,
        "parquet": parquet,
        "arrow": lambda rows: arrow(rows, pa.ipc.new_file),
        "stream.arrow": lambda rows: arrow(rows, pa.ipc.new_stream),
    }
    got = take(write(tmp_path / f"x.{container}", make[container](rows)), max_row_bytes=1000)
    assert (got.rows, got.samples.height) == (len(rows), len(ROWS)) and got.balances
    assert got.quarantine["row"].to_list() == [1, 702, len(rows)]
    for row in got.quarantine.to_dicts():
        assert row["reason"].startswith("larger than max_row_bytes: 2,") and row["reason"].endswith("1,000 are allowed")
        assert row["excerpt"].startswith('{"prompt": "qqqq') or row["excerpt"].startswith('{\n  "prompt": "qqqq')


def test_the_limit_counts_bytes_and_the_largest_allowed_row_is_read(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "ü" * 100, "completion": "a"}, ensure_ascii=False)
    size = len(row.encode())
    for name, body in (("x.jsonl", f"{row}\r\n{{}}\n"), ("x.json", f"[{row}, {{}}]")):
        path = write(tmp_path / name, body.encode())
        assert take(path, max_row_bytes=size).samples.height == 1
        with pytest.raises(DselectError, match="no row"):
            take(path, max_row_bytes=size - 1)


def test_a_column_of_few_texts_is_not_large_because_its_dictionary_is(tmp_path: Path) -> None:
    texts = [f"{i} " + "w" * 400 for i in range(20)]
    table = pa.table({"prompt": pa.array(texts).dictionary_encode(), "completion": pa.array(["a"] * 20)})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as out:
        out.write_table(table)
    assert take(tmp_path / "x.arrow", max_row_bytes=1000).samples.height == 20
    views = pl.DataFrame({"prompt": texts, "completion": ["a"] * 20})
    views.write_ipc(tmp_path / "views.arrow", compat_level=pl.CompatLevel.newest())
    assert take(tmp_path / "views.arrow", max_row_bytes=1000).samples.height == 20


def test_a_value_that_python_cannot_hold_spoils_only_its_row(tmp_path: Path) -> None:
    days = pa.array([0, 2**31 - 1], pa.date32())  # the second is in the year 5,881,580
    write_table = pa.table({"prompt": ["p", "q"], "completion": ["a", "b"], "context": [None, None], "target": days})
    pq.write_table(write_table, tmp_path / "x.parquet")
    got = take(tmp_path / "x.parquet")
    assert (got.rows, got.samples.height, got.quarantine["row"].to_list()) == (2, 1, [2])
    assert got.quarantine["reason"][0].startswith("unusable value: ")


def test_an_element_that_json_cannot_hold_is_one_bad_row_of_its_array(tmp_path: Path) -> None:
    rows = [b'{"n": ' + b"9" * 5000 + b"}", b"[" * 100_000 + b"]" * 100_000, *(json.dumps(r).encode() for r in SAY)]
    got = take(write(tmp_path / "x.json", b"[" + b",\n".join(rows) + b"]"))
    assert (got.rows, got.samples.height, got.quarantine["row"].to_list()) == (8, 6, [1, 2])
    assert [reason[:13] for reason in got.quarantine["reason"]] == ["unusable JSON"] * 2


def test_a_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "ALWAYS_ALLOWED_BYTES", 1 << 20)
    monkeypatch.setattr(unpack, "MAX_RATIO", 10)
    for name, body in (("x.jsonl.gz", gzip.compress(bytes(1 << 21))), ("x.jsonl.xz", lzma.compress(bytes(1 << 21)))):
        with pytest.raises(DselectError, match=r"it unpacks to more than 1,048,576 bytes, over 10 times its size"):
            take(write(tmp_path / name, body))


def test_xz_that_asks_for_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_XZ_BYTES", 1 << 16)
    with pytest.raises(DselectError, match=r"x\.jsonl\.xz: torn or unreadable \(Memory usage limit exceeded\)"):
        take(write(tmp_path / "x.jsonl.xz", lzma.compress(lines(ROWS))))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(DselectError, match=r"x\.jsonl: no regular file but a pipe or a device"):
        take(tmp_path / "x.jsonl")


PEAK = r"""
import re, sys
from pathlib import Path
from dselect_core.corpus.ingest import ingest
from dselect_core.settings.settings import SourceSpec
try:
    ingested = ingest("s", SourceSpec(path=sys.argv[1]))
    print(ingested.samples.height, ingested.quarantined)
except Exception as error:
    print(type(error).__name__, "0")
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def peak_of_landing(path: Path) -> tuple[str, int]:
    """What was read of a file, and the peak of the resident memory of a process that did nothing else, in bytes."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    result, peak = done.stdout.splitlines()
    return result, int(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", ["line", "array", "one-line", "endless", "parquet", "packed-parquet"])
def test_peak_memory_follows_neither_the_largest_row_nor_the_file(tmp_path: Path, kind: str) -> None:
    """Measured: 0.2 to 0.4 GB, of which the imports are 0.15; before rows had a limit, 0.9 to 2.4 GB."""
    good, large = json.dumps(SAY[0]), json.dumps({"instruction": "x" * 300_000_000, "output": "y"})
    if kind == "line":
        path = write(tmp_path / "x.jsonl.gz", gzip.compress(f"{good}\n{large}\n".encode(), 1))
        expected = "1 1"
    elif kind == "array":
        path = write(tmp_path / "x.json.gz", gzip.compress(f"[{good},\n{large}]".encode(), 1))
        expected = "1 1"
    elif kind == "one-line":  # many good rows, all in one line
        rows = ",".join(json.dumps({"prompt": str(i % 9), "completion": "z" * 10_000}) for i in range(30_000))
        path = write(tmp_path / "x.jsonl.gz", gzip.compress(f"[{rows}]".encode(), 1))
        expected = "9 0"
    elif kind == "endless":  # a line that does not end
        path = write(tmp_path / "x.jsonl.gz", gzip.compress(good.encode() + b"\n" + bytes(400_000_000), 1))
        expected = "1 1"
    else:  # a text of 3 MB that a dictionary holds once, in 160 rows
        texts = pa.array(["w" * 3_000_000]).take(pa.array([0] * 160))
        sink = io.BytesIO()
        pq.write_table(pa.table({"prompt": texts, "completion": [str(i % 3) for i in range(160)]}), sink)
        is_packed = kind == "packed-parquet"
        path = tmp_path / ("x.parquet.gz" if is_packed else "x.parquet")
        write(path, gzip.compress(sink.getvalue()) if is_packed else sink.getvalue())
        expected = "3 0"
    result, peak = peak_of_landing(path)
    assert result == expected
    assert peak < 600_000_000
