"""Rows that cost money are in the store as soon as they are there, whatever becomes of the process."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from upath import UPath

from dselect_core.storage.appender import LOGGED_ROWS, UNLOGGED_ROWS, Appender
from dselect_core.storage.files import ORPHAN_SECONDS
from dselect_core.storage.row_log import RowLog, read_rows
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import stamped
from tests.core.test_store import FINGERPRINT, grades, missing, reopen, stored_grades

WRITER = """
import os, signal, sys
from upath import UPath
from dselect_core.storage.appender import Appender
from dselect_core.storage.score_store import Store
from tests.core.test_store import grades
with Appender(Store(UPath(sys.argv[1]), retry_column="grade"), 4, 3600, costly=True) as appender:
    for i, name in enumerate("abcdef"):
        appender.add(grades({name: float(i)}))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(UPath(tmp_path) / FINGERPRINT, retry_column="grade")


def logs(store: Store) -> list[Path]:
    return sorted(Path(store.folder.path).glob("*.log"))


def parts(store: Store) -> list[Path]:
    return sorted(Path(store.folder.path).glob("*.parquet"))


def log_of(store: Store, *frames: pl.DataFrame) -> Path:
    """A log as a process that was killed leaves it."""
    log = RowLog(store.folder)
    for frame in frames:
        log.append(stamped(frame))
    return logs(store)[-1]


def make_old(path: Path) -> None:
    """As if its writer had been killed long ago."""
    then = time.time() - ORPHAN_SECONDS - 1
    os.utime(path, (then, then))


def test_a_killed_process_loses_no_row_that_was_added(store: Store) -> None:
    command = [sys.executable, "-c", WRITER, str(store.folder)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9
    assert len(parts(store)) == 1 and len(logs(store)) == 1  # four rows in a part, and two behind it
    assert stored_grades(store, "abcdef") == dict(zip("abcdef", map(float, range(6)), strict=True))
    assert missing(store, "abcdefg") == "g"


def test_every_row_is_seen_by_others_at_once_and_the_log_goes_with_its_part(store: Store) -> None:
    with Appender(store, rows=3, seconds=3600, costly=True) as appender:
        for name in "ab":
            appender.add(grades({name: 1.0}))
            assert name not in missing(reopen(store), "abc")
        (first,) = logs(store)
        appender.add(grades({"c": None}))
        assert logs(store) == [] and len(parts(store)) == 1
        appender.add(grades({"d": 1.0}))
        assert logs(store) != [first]
        assert missing(reopen(store), "abcd") == "c"  # a failed row is due again, logged or not
    assert logs(store) == []
    assert stored_grades(reopen(store), "abcd") == {"a": 1.0, "b": 1.0, "c": None, "d": 1.0}


def test_a_torn_end_costs_the_row_that_was_being_written_and_no_other(store: Store) -> None:
    path = log_of(store, *(grades({name: 1.0}) for name in "abc"))
    whole = path.read_bytes()
    length = len(whole) // 3
    for cut in (len(whole) - 1, 2 * length + 40, 2 * length + 7, 2 * length):
        path.write_bytes(whole[:cut])
        assert missing(reopen(store), "abc") == "c"
        assert reopen(store).skipped == {}
    path.write_bytes(b"")
    assert missing(reopen(store), "abc") == "abc"


def test_an_altered_record_is_told_and_what_stands_before_it_is_kept(store: Store) -> None:
    path = log_of(store, *(grades({name: 1.0}) for name in "abc"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 + 400] ^= 1
    path.write_bytes(bytes(data))
    found = reopen(store)
    assert missing(found, "abc") == "bc"
    (why,) = found.skipped.values()
    assert "does not match its check" in why


def test_a_log_of_another_provenance_is_not_taken(store: Store) -> None:
    path = log_of(store, grades({"a": 1.0}))
    assert read_rows(path.read_bytes(), FINGERPRINT[::-1]) == (None, True)


def test_a_compaction_leaves_a_log_to_its_writer_and_takes_it_when_that_must_be_dead(store: Store) -> None:
    path = log_of(store, grades({"a": 1.0}), grades({"b": None}))
    for name in "cd":
        store.append(grades({name: 1.0}))
    assert store.compact() == 2
    assert store.gc(pl.DataFrame({"sample_id": ["a", "b", "c", "d"]})) == 0
    assert logs(store) == [path]
    make_old(path)
    assert reopen(store).compact() == 2
    assert logs(store) == [] and len(parts(store)) == 1
    assert stored_grades(reopen(store), "abcd") == {"a": 1.0, "b": None, "c": 1.0, "d": 1.0}


def test_rows_that_are_kept_no_more_go_from_an_old_log_too(store: Store) -> None:
    make_old(log_of(store, grades({"a": 1.0}), grades({"b": 1.0})))
    assert store.gc(pl.DataFrame({"sample_id": ["a"]})) == 1
    assert missing(reopen(store), "ab") == "b"


def test_where_no_log_can_be_parts_are_written_by_count(s3: dict[str, Any], tmp_path: Path) -> None:
    bucket = UPath("s3://logged", **s3)
    bucket.fs.mkdir(bucket.path)
    store = Store(bucket / FINGERPRINT)
    with Appender(store, rows=4096, seconds=3600, costly=True) as appender:
        assert appender.rows == UNLOGGED_ROWS
        for i in range(UNLOGGED_ROWS):
            appender.add(grades({str(i): 1.0}))
        assert len(store.parts()) == 1
    with Appender(Store(UPath(tmp_path) / FINGERPRINT), rows=4096, seconds=3600, costly=True) as on_disk:
        assert on_disk.rows == LOGGED_ROWS
