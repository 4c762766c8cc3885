"""The store, on a disk and on S3 (moto over HTTP): lookups, damaged files, compaction, many processes at once."""

import json
import logging
import multiprocessing
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.exceptions import ColumnNotFoundError
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.storage import score_store, store_folder
from dselect_core.storage.appender import Appender
from dselect_core.storage.files import parquet_bytes, write_bytes
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import WRITTEN_AT, Part, StoreFolder

PROVENANCE = {"kind": "grades", "rubric": "ü", "revision": 1}
FINGERPRINT = fingerprint(PROVENANCE)


@pytest.fixture(scope="module")
def bucket(s3: dict[str, Any]) -> UPath:
    made = UPath("s3://bucket", **s3)
    elsewhere(made).fs.mkdir(made.path)
    return made


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    return UPath(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket") / f"{uuid.uuid4()}"


@pytest.fixture
def store(root: UPath) -> Store:
    return Store(root / "scores" / FINGERPRINT)


@pytest.fixture
def retried(root: UPath) -> Store:
    return Store(root / "scores" / FINGERPRINT, retry_column="grade")


@pytest.fixture
def pairs(root: UPath) -> Store:
    return Store(root / "scores" / FINGERPRINT, keys=("sample_id", "shot_id"))


def elsewhere(path: UPath) -> UPath:
    """The same path as another process has it: no listing is shared."""
    return UPath(str(path), **path.storage_options, use_listings_cache=False) if path.protocol else path


def reopen(store: Store) -> Store:
    """The same store as another process opens it."""
    return Store(elsewhere(store.folder), store.keys, store.retry_column)


def files(store: Store) -> dict[str, bytes]:
    folder = elsewhere(store.folder)
    found = folder.fs.find(folder.path, maxdepth=1)
    return {path.rsplit("/", 1)[-1]: folder.fs.cat_file(path) for path in found}


def write_file(store: Store, name: str, data: bytes) -> str:
    """Write a file into the store's folder as another process would, later; returns its path as the store names it."""
    path = elsewhere(store.folder / name)
    write_bytes(data, path)
    if not path.protocol:  # the clock of a disk may tick too slowly to tell
        os.utime(path, (time.time() + 5, time.time() + 5))
    return str(store.folder / name)


def at(second: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def with_time(frame: pl.DataFrame, second: int) -> pl.DataFrame:
    return frame.with_columns(pl.lit(at(second), pl.Datetime("us", "UTC")).alias(WRITTEN_AT))


def grades(values: dict[str, float | None], second: int | None = None) -> pl.DataFrame:
    columns = {"sample_id": list(values), "grade": list(values.values())}
    frame = pl.DataFrame(columns, schema={"sample_id": pl.String, "grade": pl.Float64})
    return frame if second is None else with_time(frame, second)


def ids(names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": list(names)}, schema={"sample_id": pl.String})


def log_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the store wrote to the log."""
    return [record.getMessage() for record in caplog.records if record.name == store_folder.__name__]


def stored_grades(store: Store, names: Sequence[str] = "abcdefghij") -> dict[str, float | None]:
    return dict(store.read(ids(names)).iter_rows())


def missing(store: Store, names: Sequence[str] = "abc") -> str:
    return "".join(store.missing(ids(names))["sample_id"])


# Append, look up, read


def test_an_empty_store_holds_nothing_and_misses_every_row(store: Store) -> None:
    rows = pl.DataFrame({"text": ["x", "y"], "sample_id": ["b", "a"]})
    assert store.missing(rows).equals(rows)
    for found in (store.read(rows), store.read(rows, ["grade"])):
        assert found.columns == ["sample_id"] and found.is_empty()
    assert store.parts() == [] and store.compact() == 0 and store.gc(rows) == 0 and store.skipped == {}


def test_no_rows_make_no_part(store: Store) -> None:
    assert store.append(grades({})) is None
    assert store.parts() == [] and not elsewhere(store.folder).exists()


def test_what_is_appended_is_read_back_as_it_was(store: Store) -> None:
    frame = pl.DataFrame(
        {
            "sample_id": ["c", "a", "d", "b"],
            "value": pl.Series([0.1, None, float("nan"), -0.0], dtype=pl.Float32),
            "vector": pl.Series([[1.5, 2.0], [3.0], None, []], dtype=pl.List(pl.Float16)),
            "text": ["ü\n", "", None, "東京"],
            "flag": [True, None, False, True],
            "count": pl.Series([2**63, 0, None, 1], dtype=pl.UInt64),
        }
    )
    before = datetime.now(UTC)
    path = store.append(frame)
    assert path is not None and path.name in files(store)
    everything = reopen(store).read(frame)
    assert everything.equals(frame.sort("sample_id")) and everything.schema == frame.schema
    times = store.read(frame, [WRITTEN_AT])[WRITTEN_AT]
    assert times.dtype == pl.Datetime("us", "UTC") and times.n_unique() == 1
    assert before <= times[0] <= datetime.now(UTC)


def test_read_gives_what_is_asked_and_held_ascending_by_key(store: Store) -> None:
    store.append(grades({"d": 4.0, "b": 2.0}))
    store.append(grades({"a": 1.0, "c": 3.0}))
    asked = pl.DataFrame({"other": range(5), "sample_id": ["z", "d", "a", "b", "d"]})
    assert store.read(asked).rows() == [("a", 1.0), ("b", 2.0), ("d", 4.0)]
    assert store.read(ids("z")).rows() == [] and store.read(ids("z")).columns == ["sample_id", "grade"]
    assert store.read(ids("")).is_empty()


def test_missing_keeps_order_columns_and_repeats(store: Store) -> None:
    store.append(grades({"b": 1.0, "d": 2.0}))
    names = list("edcbaceb")
    rows = pl.DataFrame({"row": range(8), "sample_id": names, "text": [name * 2 for name in names]})
    lacking = store.missing(rows)
    assert lacking.equals(rows.filter(~pl.col("sample_id").is_in(["b", "d"]))) and lacking.columns == rows.columns
    assert lacking["sample_id"].to_list() == list("ecace")
    order = random.Random(0).sample(range(5000), 5000)
    many = pl.DataFrame({"sample_id": [f"{row}" for row in order]})
    for start in range(0, 5000, 1000):
        store.append(grades({f"{row}": 0.0 for row in range(start, start + 1000, 2)}))
    assert store.missing(many)["sample_id"].to_list() == [f"{row}" for row in order if row % 2]


def test_a_null_is_a_key_like_any_other(pairs: Store) -> None:
    keys = [("a", None), ("a", "b"), (None, "a"), (None, None), ("b", "a")]
    schema = {"sample_id": pl.String(), "shot_id": pl.String()}
    rows = pl.DataFrame(keys, schema=schema, orient="row")
    part = rows.with_row_index("miwv")
    pairs.append(part.head(1))
    assert pairs.missing(rows).rows() == keys[1:]
    pairs.append(part[2:4])
    assert pairs.missing(rows).rows() == [keys[1], keys[4]]
    assert pairs.read(rows).select(pairs.keys).rows() == [(None, None), (None, "a"), ("a", None)]
    assert pairs.read(rows.head(1))["miwv"].to_list() == [0]
    pairs.append(part)  # all once more: still one row a key
    assert pairs.missing(rows).is_empty() and pairs.read(rows).height == 5
    assert pairs.compact() == 3 and pairs.read(rows)["miwv"].to_list() == [3, 2, 0, 1, 4]
    assert pairs.gc(rows.tail(4)) == 1
    assert pairs.missing(rows).rows() == [("a", None)]


def test_a_null_to_retry_is_kept_and_still_missing(retried: Store) -> None:
    retried.append(grades({"a": None, "b": 0.5, "c": None}))
    assert missing(retried, "cba") == "ca" and stored_grades(retried) == {"a": None, "b": 0.5, "c": None}
    assert retried.missing(ids("dcba"), include_failed=False)["sample_id"].to_list() == ["d"]
    assert missing(Store(retried.folder)) == ""  # who does not retry takes it for an answer
    retried.append(grades({"c": 0.25, "a": None}))
    assert missing(retried) == "a" and stored_grades(retried) == {"a": None, "b": 0.5, "c": 0.25}
    assert retried.compact() == 2
    assert missing(retried) == "a" and stored_grades(retried) == {"a": None, "b": 0.5, "c": 0.25}


def test_of_attempts_in_vain_the_latest_is_read(retried: Store) -> None:
    for second in (2, 3, 1):
        retried.append(grades({"a": None}, second).with_columns(why=pl.lit(f"attempt {second}")))
    assert retried.read(ids("a"), ["why"])["why"].to_list() == ["attempt 3"]
    retried.compact()
    assert retried.read(ids("a"), ["why", WRITTEN_AT]).row(0) == ("a", "attempt 3", at(3))


@pytest.mark.parametrize("seconds", [(1, 2, 3, 4), (4, 3, 2, 1), (2, 4, 1, 3)])
def test_a_value_wins_over_attempts_and_the_oldest_value_over_others(
    retried: Store, seconds: tuple[int, int, int, int]
) -> None:
    # The file names are hashes: which part is looked at first must not matter.
    values = dict(zip((1, 2, 3, 4), (None, 0.5, 0.75, None), strict=True))
    for second in seconds:
        retried.append(grades({"a": values[second], "b": 1.0}, second))
    assert stored_grades(retried) == {"a": 0.5, "b": 1.0} and missing(retried, "ab") == ""
    retried.compact()
    assert retried.read(ids("ab"), ["grade", WRITTEN_AT]).rows() == [("a", 0.5, at(2)), ("b", 1.0, at(1))]


def test_without_retry_a_null_is_an_answer_and_the_oldest_stands(store: Store) -> None:
    store.append(grades({"a": None, "b": 1.0}, 1))
    store.append(grades({"a": 0.5, "b": None}, 2))
    assert missing(store) == "c" and stored_grades(store) == {"a": None, "b": 1.0}


def test_duplicates_are_harmless(store: Store) -> None:
    first = grades({"a": 1.0, "b": 2.0}, 1)
    assert store.append(first) == store.append(first)  # the same content is the same part
    for second in (2, 3):
        store.append(grades({"b": 7.0, "c": 3.0}, second))
    store.append(grades({"a": 9.0}))
    assert len(store.parts()) == 4
    assert stored_grades(store) == {"a": 1.0, "b": 2.0, "c": 3.0} and missing(store, "dcba") == "d"


def test_columns_are_those_asked_beside_the_keys(store: Store) -> None:
    frame = pl.DataFrame({"sample_id": ["b", "a"], "loss": [1.0, 2.0], "upd": [3.0, 4.0], "cut": [True, False]})
    store.append(with_time(frame, 1))
    store.append(with_time(frame.with_columns(loss=9.0, upd=9.0), 2))
    assert store.read(frame, ["upd", "loss", "upd"]).columns == ["sample_id", "upd", "loss"]
    assert store.read(frame, ["upd"]).rows() == [("a", 4.0), ("b", 3.0)]
    assert store.read(frame, []).rows() == [("a",), ("b",)]
    assert store.read(frame, ["sample_id"]).rows() == [("a",), ("b",)]
    assert store.read(frame, [WRITTEN_AT, "cut"]).rows() == [("a", at(1), False), ("b", at(1), True)]
    assert store.read(frame).columns == ["sample_id", "loss", "upd", "cut"]
    assert {tuple(part.frame.columns) for part in store.parts(["cut"])} == {("cut",)}
    # Who decides between duplicates need not be asked for.
    retried = Store(store.folder, retry_column="loss")
    assert retried.read(frame, ["upd"]).rows() == [("a", 4.0), ("b", 3.0)]
    assert retried.read(frame, ["upd", "loss"]).columns == ["sample_id", "upd", "loss"]


def test_a_column_that_no_part_has_is_not_the_fault_of_the_parts(store: Store) -> None:
    store.append(grades({"a": 1.0}))
    with pytest.raises(ColumnNotFoundError, match="grad"):
        store.read(ids("a"), ["grad"])
    assert store.skipped == {} and stored_grades(store) == {"a": 1.0} and missing(store, "ab") == "b"


def test_the_provenance_lies_beside_its_parts_and_is_written_again_where_it_is_damaged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError):
        _ = store.provenance
    with pytest.raises(ValueError, match="its name is not the fingerprint of"):
        store.write_provenance({**PROVENANCE, "revision": 2})
    assert not elsewhere(store.folder).exists()
    store.write_provenance(PROVENANCE)
    assert reopen(store).provenance == PROVENANCE and store.fingerprint == FINGERPRINT
    whole = files(store)["provenance.json"]
    for damaged in (b'{"of": "another"}', b"", whole[:20], whole.replace(b"1", b"2")):
        path = write_file(store, "provenance.json", damaged)
        with pytest.raises(DamagedFileError, match=r"provenance\.json: damaged"):
            _ = reopen(store).provenance
        store.write_provenance(PROVENANCE)
        assert f"{path}: " in caplog.text and files(store)["provenance.json"] == whole
        caplog.clear()
    store.append(grades({"a": 1.0}))
    assert stored_grades(store) == {"a": 1.0} and store.skipped == {}  # it is no part, and no foreign file


def test_a_provenance_of_version_0_1_is_read_and_written_under_its_new_name(store: Store) -> None:
    old = write_file(store, "recipe.json", json.dumps(PROVENANCE).encode())
    assert reopen(store).provenance == PROVENANCE
    store.append(grades({"a": 1.0}))
    assert stored_grades(store) == {"a": 1.0} and store.skipped == {}  # nor is it taken for a foreign file
    store.write_provenance(PROVENANCE)
    elsewhere(store.folder / old.rsplit("/", 1)[-1]).unlink()
    assert reopen(store).provenance == PROVENANCE and "provenance.json" in files(store)


def test_what_another_process_does_is_seen_at_once(store: Store) -> None:
    other = reopen(store)
    store.append(grades({"a": 1.0}))
    for looked in (store, other):
        assert missing(looked) == "bc"
    other.append(grades({"b": 2.0}))
    assert missing(store) == "c" and stored_grades(store) == {"a": 1.0, "b": 2.0}
    assert other.compact() == 2
    assert [part.path.name for part in store.parts()] == list(files(store)) and stored_grades(store) == {
        "a": 1.0,
        "b": 2.0,
    }
    store.append(grades({"c": 3.0}))
    assert missing(other) == "" and other.gc(ids("c")) == 2
    assert missing(store) == "ab"


def part_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read as parts from here on."""
    seen: list[str] = []
    read = StoreFolder._load_part

    def listen(self: StoreFolder, path: UPath, columns: Sequence[str] | None) -> Part | None:
        seen.append(path.name)
        return read(self, path, columns)

    monkeypatch.setattr(StoreFolder, "_load_part", listen)
    return seen


def test_a_lookup_reads_a_part_once_and_rows_only_where_some_are_held(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {path.name for name in ("ab", "c", "d") if (path := store.append(grades(dict.fromkeys(name, 1.0))))}
    seen = part_reads(monkeypatch)
    assert missing(store, "abcx") == "x" and len(seen) == 3 and set(seen) == names
    seen.clear()
    assert missing(store, "abcx") == "x" and missing(reopen(store), "dy") == "y" and seen == []
    (last,) = {path.name for path in [store.append(grades({"e": 5.0}))] if path}
    assert missing(store, "dex") == "x" and seen == [last]
    seen.clear()
    assert stored_grades(store, "ex") == {"e": 5.0} and seen == [last]
    seen.clear()
    assert stored_grades(store, "xyz") == {} and len(seen) <= 1
    # However few are remembered, the answers are the same.
    monkeypatch.setattr(store_folder, "_VERIFIED_KEYS_LIMIT", 2)
    monkeypatch.setattr(store_folder, "_verified_keys", {})
    for _ in range(3):
        assert missing(store, "abcdefg") == "fg" and set(stored_grades(store, "aeg")) == {"a", "e"}


# Files that cannot be trusted


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0x10
    return bytes(changed)


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="half"),
        pytest.param(lambda data: data[:-1], id="one byte short"),
        pytest.param(lambda data: data + b"\0", id="one byte long"),
        pytest.param(lambda data: flipped(data, 0), id="first byte"),
        pytest.param(lambda data: flipped(data, len(data) // 3), id="byte inside"),
        pytest.param(lambda data: flipped(data, -1), id="last byte"),
    ],
)
def test_a_torn_or_altered_part_is_named_and_its_rows_are_missing(
    store: Store, damage: Callable[[bytes], bytes], known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(grades({"a": 1.0, "b": 2.0}))
    path = store.append(grades({"c": 3.0, "d": 4.0}))
    assert path is not None and (not known or missing(store, "dcba") == "")
    bad = damage(path.read_bytes())
    write_file(store, path.name, bad)
    with caplog.at_level(logging.WARNING):
        assert missing(store, "dcba") == "dc"
        assert stored_grades(store) == {"a": 1.0, "b": 2.0} and len(store.parts()) == 1
    assert store.skipped == {str(path): "torn or altered: its content does not match its name"}
    # Logged once, however often the store is read.
    assert log_messages(caplog) == [
        f"{path}: skipped, torn or altered: its content does not match its name; "
        "its rows count as missing. Remove the file."
    ]
    store.append(grades({"c": 3.0, "d": 5.0}))
    assert stored_grades(store) == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 5.0}
    assert store.compact() == 2 and store.gc(ids("abc")) == 1
    assert stored_grades(reopen(store)) == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert files(store)[path.name] == bad and len(files(store)) == 2  # it is the user's to remove


def test_rows_of_a_part_that_rots_unseen_are_missing_once_it_is_read(tmp_path: Path) -> None:
    store = Store(UPath(tmp_path) / FINGERPRINT)
    path = store.append(grades({"a": 1.0}))
    assert path is not None and missing(store, "a") == ""
    stat = path.stat()
    path.write_bytes(flipped(path.read_bytes(), 300))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # neither its size nor its time tells
    assert stored_grades(store) == {} and list(store.skipped) == [str(path)]
    assert missing(store, "a") == "a"


def test_a_part_that_is_mended_is_taken_by_who_comes_next(store: Store) -> None:
    path = store.append(grades({"a": 1.0}))
    assert path is not None
    whole = path.read_bytes()
    write_file(store, path.name, whole[:-9])
    assert missing(store, "a") == "a"
    write_file(store, path.name, whole)
    assert missing(reopen(store), "a") == ""


def test_files_that_are_not_parts_of_this_store_are_named_and_never_read(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(grades({"a": 1.0}))
    other = Store(store.folder.parent / fingerprint({"kind": "another"}))
    theirs = other.append(grades({"a": 0.0, "b": 0.0}, 1))
    assert missing(other) == "c"  # known, as theirs
    mine = parquet_bytes(grades({"c": 9.0}, 1), {"fingerprint": FINGERPRINT})
    anybodys = parquet_bytes(grades({"d": 9.0}, 1))
    made_by_others = parquet_bytes(grades({"e": 9.0}, 1), {"fingerprint": "0" * 32})
    assert theirs is not None
    strange, renamed = "not a part of this store", "torn or altered: its content does not match its name"
    expected = {
        write_file(store, "notes.txt", b"hello"): strange,
        write_file(store, "copy.parquet", mine): strange,
        write_file(store, f"{digest([mine])}.parquet.bak", mine): strange,
        write_file(store, f"{digest([mine]).upper()}.PARQUET", mine): strange,
        write_file(store, "old/part.parquet", mine).removesuffix("/part.parquet"): strange,
        write_file(store, theirs.name, theirs.read_bytes()): "of another provenance",
        write_file(store, f"{digest([anybodys])}.parquet", anybodys): "of another provenance",
        write_file(store, f"{digest([made_by_others])}.parquet", made_by_others): "of another provenance",
        write_file(store, f"{'f' * 32}.parquet", mine): renamed,
        write_file(store, f"{'0' * 32}.parquet", made_by_others): renamed,
        write_file(store, f"{digest([b'no Parquet'])}.parquet", b"no Parquet"): "not readable as a part (",
        write_file(store, f"{digest([b''])}.parquet", b""): "not readable as a part (",
    }
    there = files(store)
    with caplog.at_level(logging.WARNING):
        assert missing(store, "abcde") == "bcde" and stored_grades(store) == {"a": 1.0}
    assert store.skipped.keys() == expected.keys()
    for file, why in expected.items():
        assert store.skipped[file].startswith(why) and any(
            line.startswith(f"{file}: skipped, {why}") for line in log_messages(caplog)
        )
    assert len(log_messages(caplog)) == len(expected)
    store.append(grades({"b": 2.0}))
    assert store.compact() == 2 and store.gc(ids("b")) == 1 and stored_grades(store) == {"b": 2.0}
    # They are the user's to remove.
    strangers = {name: data for name, data in there.items() if str(store.folder / name) in expected}
    assert len(strangers) == 11 and strangers.items() <= files(store).items()


def test_what_a_killed_writer_left_is_ignored(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.append(grades({"a": 1.0}))
    data = parquet_bytes(grades({"b": 2.0}, 1), {"fingerprint": FINGERPRINT})
    for cut in (len(data), len(data) // 2, 0):
        write_file(store, f".{digest([data])}.parquet.{uuid.uuid4().hex}.tmp", data[:cut])
    with caplog.at_level(logging.WARNING):
        assert missing(store) == "bc" and stored_grades(store) == {"a": 1.0} and len(store.parts()) == 1
    assert store.skipped == {} and log_messages(caplog) == []


# Compaction and clearing out


def test_compaction_leaves_the_rows_and_when_they_were_written(retried: Store) -> None:
    for second, values in ((5, {"a": 1.0, "b": None}), (1, {"c": 3.0}), (3, {"b": 2.0, "c": 9.0}), (4, {"d": None})):
        retried.append(grades(values, second))
    before = retried.read(ids("abcd"), ["grade", WRITTEN_AT])
    assert before.rows() == [("a", 1.0, at(5)), ("b", 2.0, at(3)), ("c", 3.0, at(1)), ("d", None, at(4))]
    assert retried.compact() == 4
    for looked in (retried, reopen(retried)):
        assert looked.read(ids("abcd"), ["grade", WRITTEN_AT]).equals(before)
        assert missing(looked, "abcd") == "d"
    (part,) = retried.parts()
    assert part.frame.select(before.columns).equals(before)  # one row a key, ascending
    assert files(retried) == {part.path.name: part.path.read_bytes()} and part.size == len(part.path.read_bytes())
    assert retried.compact() == 0 and retried.compact(1) == 0  # one part is as few as there can be
    # What was written first stands, also when it was compacted after the other was written.
    retried.append(grades({"a": 7.0}, 6))
    assert retried.compact() == 2 and stored_grades(retried)["a"] == 1.0


def test_fewer_parts_than_at_least_are_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("abc"):
        store.append(grades({name: float(number)}))
    there, seen = files(store), part_reads(monkeypatch)
    assert store.compact(4) == 0 and files(store) == there and seen == []
    assert store.compact(3) == 3 and len(files(store)) == 1
    assert stored_grades(store) == {"a": 0.0, "b": 1.0, "c": 2.0}


def test_large_parts_are_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    large = store.append(grades({f"{row:05}": row / 7 for row in range(5000)}))
    for name in "abc":
        store.append(grades({name: 1.0, "00000": 9.0}))
    sizes = sorted(part.size for part in store.parts())
    assert large is not None and sizes[-1] > 4 * sizes[-2]
    data, seen = large.read_bytes(), part_reads(monkeypatch)
    for limit, replaced in ((0, 0), (sizes[-2] + 1, 3), (sizes[-2] + 1, 0), (sizes[-1], 0), (sizes[-1] + 1, 2)):
        monkeypatch.setattr(score_store, "LARGE_PART_BYTES", limit)
        seen.clear()
        assert store.compact() == replaced
        assert (large.name in seen) == (limit > sizes[-1])  # nor is it read
        assert (large.name in files(store)) == (limit <= sizes[-1])
        assert len(files(store)) == {0: 4, sizes[-1] + 1: 1}.get(limit, 2)
        assert stored_grades(store, ["00000", "04999", "a", "b", "c"]) == {
            "00000": 0.0, "04999": 4999 / 7, "a": 1.0, "b": 1.0, "c": 1.0
        }  # fmt: skip
        assert files(store).get(large.name, data) == data


def test_compacting_into_a_part_that_is_already_there_does_not_remove_it(store: Store) -> None:
    whole = store.append(grades({"a": 1.0, "b": 2.0}, 1))
    store.append(grades({"b": 2.0}, 1))
    assert store.compact() == 2
    assert [part.path for part in store.parts()] == [whole] and stored_grades(store) == {"a": 1.0, "b": 2.0}


def test_gc_drops_what_nothing_points_at(store: Store) -> None:
    kept = store.append(grades({"a": 1.0, "b": 2.0}, 1))
    store.append(grades({"c": 3.0, "a": 1.5, "d": 4.0}, 2))
    store.append(grades({"e": 5.0}, 3))
    keep = pl.DataFrame({"text": ["x", "y", "z"], "sample_id": ["a", "b", "never held"]})
    assert store.gc(keep) == 3
    assert stored_grades(store) == {"a": 1.0, "b": 2.0} and missing(store, "abcde") == "cde"
    assert kept is not None and kept.name in files(store) and len(files(store)) == 2
    assert store.read(ids("ab"), [WRITTEN_AT])[WRITTEN_AT].to_list() == [at(1), at(1)]
    there = files(store)
    assert store.gc(keep) == 0 and files(store) == there
    assert store.gc(ids("")) == 3 and files(store) == {}


PAIRS = [(sample, shot) for sample in "ab" for shot in ("x", None, "y")]
STEPS = st.one_of(
    st.tuples(
        st.just("append"),
        st.dictionaries(st.sampled_from(PAIRS), st.one_of(st.none(), st.integers(0, 9)), max_size=4),
        st.integers(0, 5),
    ),
    st.tuples(st.just("compact"), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.just("gc"), st.sets(st.sampled_from(PAIRS), min_size=3), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=10), st.booleans())
def test_after_any_steps_the_store_holds_what_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, int]], retry: bool
) -> None:
    store = Store(
        UPath(tmp_path_factory.mktemp("store")) / FINGERPRINT, ("sample_id", "shot_id"), "value" if retry else None
    )
    rows: list[tuple[Any, int | None, int]] = []  # key, value, when
    keys = pl.DataFrame(PAIRS, schema={"sample_id": pl.String, "shot_id": pl.String}, orient="row")
    for number, (step, what, chosen) in enumerate(steps):
        if step == "append":
            when = 100 * chosen + number  # in any order, no two at once
            rows += [(key, value, when) for key, value in what.items()]
            schema = {"sample_id": pl.String, "shot_id": pl.String, "value": pl.Int64}
            frame = pl.DataFrame([(*key, value) for key, value in what.items()], schema=schema, orient="row")
            store.append(with_time(frame, when))
        elif step == "compact":
            sizes = sorted(part.size for part in store.parts())
            with pytest.MonkeyPatch.context() as patch:
                if len(sizes) > chosen:
                    patch.setattr(score_store, "LARGE_PART_BYTES", sizes[chosen])
                store.compact(what)
        else:
            store.gc(pl.DataFrame(list(what), schema=keys.schema, orient="row"))
            rows = [row for row in rows if row[0] in what]
        stands = {}
        for key in PAIRS:
            found = [(value, when) for k, value, when in rows if k == key]
            answers = [(value, when) for value, when in found if value is not None or not retry]
            if found:
                stands[key] = min(answers, key=lambda row: row[1]) if answers else max(found, key=lambda row: row[1])
        read = store.read(keys, ["value", WRITTEN_AT])
        assert read.select(store.keys).equals(keys.filter([key in stands for key in PAIRS]).sort(store.keys))
        if stands:
            got = {(sample, shot): (value, when) for sample, shot, value, when in read.iter_rows()}
            assert got == {key: (value, at(when)) for key, (value, when) in stands.items()}
        lacking = [key for key in PAIRS if key not in stands or (retry and stands[key][0] is None)]
        assert store.missing(keys).rows() == lacking
    assert store.skipped == {}


def test_many_may_write_the_same_part_at_once(tmp_path: Path) -> None:
    store = Store(UPath(tmp_path) / FINGERPRINT)
    frame = grades({f"{row}": row / 7 for row in range(2000)}, 1)
    with ThreadPoolExecutor(4) as threads:
        paths = set(threads.map(lambda _: store.append(frame), range(200)))
    (part,) = store.parts()
    assert paths == {part.path} and part.frame.equals(frame)
    assert list((tmp_path / FINGERPRINT).iterdir()) == [Path(part.path)]


# The appender


def heights(store: Store) -> list[int]:
    return sorted(part.frame.height for part in reopen(store).parts())


def test_an_appender_writes_a_part_when_it_has_the_rows_and_the_rest_at_exit(store: Store) -> None:
    with Appender(store, rows=3, seconds=3600) as appender:
        appender.add(grades({"a": 1.0, "b": 2.0}))
        assert heights(store) == []
        appender.add(grades({"c": 3.0}))
        assert heights(store) == [3]
        appender.add(grades(dict.fromkeys("defgh", 4.0)))  # more than a part at once: never split
        assert heights(store) == [3, 5]
        appender.add(grades({"i": 5.0}))
        assert heights(store) == [3, 5]
    assert heights(store) == [1, 3, 5]
    assert missing(store, "abcdefghij") == "j"


def test_an_appender_writes_a_part_when_its_seconds_are_over(store: Store) -> None:
    with Appender(store, rows=1000, seconds=0.05) as appender:
        appender.add(grades({"a": 1.0}))
        time.sleep(0.06)
        appender.add(grades({"b": 2.0}))
        assert missing(store) == "c"
        time.sleep(0.06)
        appender.add(grades({"c": 2.0}))
        assert missing(store) == ""
    with Appender(store, rows=1000, seconds=0) as appender:
        for name in "de":
            appender.add(grades({name: 1.0}))
            assert name not in missing(store, "de")


def test_the_seconds_count_from_the_last_part(tmp_path: Path) -> None:
    store = Store(UPath(tmp_path) / FINGERPRINT)
    with Appender(store, rows=2, seconds=0.6) as appender:
        time.sleep(0.4)
        before = time.monotonic()
        appender.add(grades({"a": 1.0, "b": 2.0}))
        time.sleep(0.25)
        appender.add(grades({"c": 1.0}))
        slow = time.monotonic() - before >= 0.6  # a machine so busy that the seconds were over
        assert missing(store) == "c" or slow


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_appender_writes_what_it_holds_when_the_work_fails(store: Store, error: type[BaseException]) -> None:
    with pytest.raises(error, match="no more"), Appender(store, rows=1000, seconds=3600) as appender:
        appender.add(grades({"a": 1.0}))
        appender.add(grades({"b": None}))
        raise error("no more")
    assert stored_grades(reopen(store)) == {"a": 1.0, "b": None} and heights(store) == [2]


def test_an_appender_of_nothing_writes_nothing(store: Store) -> None:
    with Appender(store, rows=1, seconds=0) as appender:
        appender.flush()
        appender.add(grades({}))
    assert heights(store) == []


# Others at the same time


def interrupt(patch: pytest.MonkeyPatch, where: type, method: str, work: Callable[[], object]) -> None:
    """Do `work`, once, just before a method is called on something that has to do with a part."""
    call, todo = getattr(where, method), [work]

    def first(self: Any, *args: Any, **options: Any) -> Any:
        if todo and any(str(at).endswith(".parquet") for at in (self, *args)):
            todo.pop()()
        return call(self, *args, **options)

    patch.setattr(where, method, first)


LOOKS: dict[str, Callable[[Store], bool]] = {
    "missing": lambda store: missing(store, "abcz") == "z",
    "read": lambda store: stored_grades(store, "abcz") == {"a": 1.0, "b": 1.0, "c": 1.0},
    "read of others": lambda store: stored_grades(store, "z") == {},
    "parts": lambda store: [part.frame["sample_id"].to_list() for part in store.parts()] == [["a", "b", "c"]],
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_a_compaction_in_the_middle_of_a_look_hides_no_row(
    root: UPath, look: Callable[[Store], bool], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between a part's listing and its reading; on a disk also between its name and its size.
    for where, method in [(StoreFolder, "_load_part"), *([] if root.protocol else [(type(Path()), "stat")])]:
        store = Store(root / method / FINGERPRINT)
        for name in "abc":
            store.append(grades({name: 1.0}))
        assert not known or missing(store) == ""
        with monkeypatch.context() as patch:
            interrupt(patch, where, method, reopen(store).compact)
            assert look(store)
        assert stored_grades(reopen(store)) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_a_compaction_in_the_middle_of_another_loses_no_row(root: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    # When the parts are about to be read, then only one is left; and when they are about to be removed.
    for where, method, replaced in ((StoreFolder, "_load_part", 0), (type(root), "unlink", 3)):
        store = Store(root / method / FINGERPRINT)
        for name in "abc":
            store.append(grades({name: 1.0}))
        with monkeypatch.context() as patch:
            interrupt(patch, where, method, reopen(store).compact)
            assert store.compact() == replaced
        assert len(files(store)) == 1 and stored_grades(store) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_a_listing_that_another_thread_got_late_is_not_believed(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    # s3fs has one cache of listings for all threads: one asked before a write may be answered after it.
    import s3fs

    store = Store(bucket / "late" / FINGERPRINT)
    store.append(grades({"a": 1.0}))
    late = store.folder.fs.ls(store.folder.path, detail=True)
    store.append(grades({"b": 2.0}))
    invalidate = s3fs.S3FileSystem.invalidate_cache

    def overtaken(self: Any, path: str | None = None) -> None:
        invalidate(self, path)
        self.dircache[store.folder.path] = late

    monkeypatch.setattr(s3fs.S3FileSystem, "invalidate_cache", overtaken)
    assert missing(store) == "c" and stored_grades(store) == {"a": 1.0, "b": 2.0}
    store.append(grades({"c": 3.0}))
    assert missing(store) == "" and stored_grades(store) == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert store.compact() == 3 and stored_grades(store) == {"a": 1.0, "b": 2.0, "c": 3.0}


# Many at once

WRITERS = 3
PATIENCE = 60.0


def opened(url: str, options: dict[str, Any]) -> Store:
    return Store(UPath(url, **options))


def part_of(writer: int, number: int) -> pl.DataFrame:
    names = [f"{writer}-{number}-{row}" for row in range(20)]
    return pl.DataFrame({"sample_id": names, "text": names})


def all_rows(parts: int) -> pl.DataFrame:
    frames = [part_of(writer, number) for writer in range(WRITERS) for number in range(parts)]
    return pl.concat(frames).select("sample_id")


def meet(flags: Path, name: str) -> None:
    """Wait until everybody is there, so that they do get in each other's way."""
    (flags / name).touch()
    until = time.monotonic() + PATIENCE
    while not (flags / "all are here").exists():
        assert time.monotonic() < until, "somebody did not come"
        time.sleep(0.005)


def working(flags: Path, pause: float = 0.0) -> Iterator[None]:
    """Again and again while the writers are at it, with up to so many seconds in between."""
    chance, until = random.Random(), time.monotonic() + PATIENCE
    while not (flags / "done").exists():
        assert time.monotonic() < until, "the writers did not end"
        yield
        time.sleep(chance.random() * pause)


def write(url: str, options: dict[str, Any], flags: Path, writer: int, parts: int) -> int:
    store = opened(url, options)
    meet(flags, f"writer {writer}")
    for number in range(parts):
        rows = part_of(writer, number)
        wanted = rows.select("sample_id")
        assert store.missing(wanted).equals(wanted)
        store.append(rows)
        assert store.missing(wanted).is_empty() and store.read(wanted).height == 20
    assert store.skipped == {}
    return 0


def tidy(url: str, options: dict[str, Any], flags: Path, tidier: int, pause: float) -> int:
    store = opened(url, options)
    meet(flags, f"tidier {tidier}")
    replaced = sum(store.compact() for _ in working(flags, pause))
    assert store.skipped == {}
    return replaced


def look(url: str, options: dict[str, Any], flags: Path, parts: int) -> int:
    store, rows = opened(url, options), all_rows(parts)
    meet(flags, "reader")
    seen, looks = rows.clear(), 0
    for _ in working(flags):
        looks += 1
        found = store.read(rows)
        if found.height:
            assert found["text"].equals(found["sample_id"].alias("text")) and found["sample_id"].is_unique().all()
            # What was there once is there for ever.
            assert seen.join(found, on="sample_id", how="anti").is_empty()
            seen = found.select("sample_id")
        assert store.missing(rows).height <= rows.height - seen.height
    assert store.skipped == {}
    return looks


def all_at_once(
    make: Callable[[int], Executor],
    url: str,
    options: dict[str, Any],
    flags: Path,
    *,
    tidiers: int,
    parts: int,
    pause: float,
) -> None:
    people = WRITERS + tidiers + 1
    with make(people) as executor:
        others = [executor.submit(tidy, url, options, flags, number, pause) for number in range(tidiers)]
        others.append(executor.submit(look, url, options, flags, parts))
        writers = [executor.submit(write, url, options, flags, number, parts) for number in range(WRITERS)]
        until = time.monotonic() + PATIENCE
        while len(list(flags.iterdir())) < people and time.monotonic() < until:
            time.sleep(0.005)
        (flags / "all are here").touch()
        try:
            for writer in writers:
                writer.result()
        finally:
            (flags / "done").touch()
        counts = [other.result() for other in others]
    assert min(counts) > 0, "somebody had nothing to do"
    store, rows = opened(url, options), all_rows(parts)
    found = store.read(rows)
    assert store.missing(rows).is_empty() and found.height == rows.height
    assert found["text"].equals(found["sample_id"].alias("text"))
    store.compact()
    (part,) = store.parts()
    assert part.frame["sample_id"].to_list() == sorted(rows["sample_id"]) and store.skipped == {}


def test_many_processes_append_compact_and_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "flags").mkdir()
    spawned = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("spawn"))
    all_at_once(spawned, str(tmp_path / FINGERPRINT), {}, tmp_path / "flags", tidiers=1, parts=40, pause=0.05)
    assert [path.suffix for path in (tmp_path / FINGERPRINT).iterdir()] == [".parquet"]  # no temporary file is left


def test_many_threads_append_compact_and_read_at_once_on_s3(s3: dict[str, Any], bucket: UPath, tmp_path: Path) -> None:
    all_at_once(ThreadPoolExecutor, str(bucket / "many" / FINGERPRINT), s3, tmp_path, tidiers=2, parts=6, pause=0.1)


ROWS = 1000
"""Rows of a part of the process that is killed: two frames of its work."""


def write_until_killed(folder: str, said: str, writer: int) -> None:
    store = Store(UPath(folder))
    noise = np.random.default_rng(writer).random((ROWS // 2, 160))  # numbers that do not compress: the write takes time
    with Appender(store, ROWS, seconds=3600) as appender, Path(said).open("w") as saying:
        for number in range(1_000_000):
            names = [f"{writer}-{row:06}" for row in range(number * ROWS // 2, (number + 1) * ROWS // 2)]
            appender.add(pl.DataFrame({"sample_id": names, "vector": noise}))
            saying.write(".")
            saying.flush()


def test_a_process_that_is_killed_leaves_whole_parts_only(tmp_path: Path) -> None:
    spawn, chance = multiprocessing.get_context("spawn"), random.Random()
    folder = tmp_path / FINGERPRINT
    store = Store(UPath(folder))
    running = {}
    for writer in range(4):
        process = spawn.Process(target=write_until_killed, args=(str(folder), str(tmp_path / f"{writer}"), writer))
        process.start()
        running[writer] = process
    try:
        until = time.monotonic() + PATIENCE
        for writer in chance.sample(sorted(running), len(running)):
            said = tmp_path / f"{writer}"
            while not (said.exists() and said.stat().st_size >= 3):
                assert time.monotonic() < until and running[writer].is_alive()
                store.missing(ids("x"))  # who looks meanwhile sees whole parts too
            time.sleep(chance.random() * 0.1)
            running[writer].kill()
            store.missing(ids("x"))
    finally:
        for process in running.values():
            process.kill()
            process.join()
    assert {process.exitcode for process in running.values()} == {-9}
    found = pl.concat([part.frame for part in store.parts(["sample_id"])])
    assert store.skipped == {}
    for writer in running:
        frames = (tmp_path / f"{writer}").stat().st_size
        rows = found.filter(pl.col("sample_id").str.starts_with(f"{writer}-"))["sample_id"].sort()
        # Whole parts from the first on; what had been said to be there, but for the one that was in memory.
        assert rows.to_list() == [f"{writer}-{row:06}" for row in range(len(rows))] and len(rows) % ROWS == 0
        assert frames * ROWS // 2 - ROWS < len(rows) <= (frames + 1) * ROWS // 2
    # The next process goes on from there, whatever else the killed ones left.
    assert store.compact() == found.height // ROWS
    assert Store(UPath(folder)).missing(found).is_empty()
