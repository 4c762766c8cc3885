"""The store at unlucky moments: a folder that changes while it is listed, a compaction that takes long on S3."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from dselect_core.storage import store_folder
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import StoreFolder
from tests.core.test_store import FINGERPRINT, elsewhere, grades, ids, missing, reopen, stored_grades


@pytest.fixture
def bucket(s3: dict[str, Any]) -> UPath:
    made = UPath(f"s3://{uuid.uuid4()}", **s3)
    elsewhere(made).fs.mkdir(made.path)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(UPath(tmp_path) / FINGERPRINT)


def test_a_compaction_while_the_folder_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing may miss both what came and what went; it is made until two are alike."""
    for name in "abc":
        store.append(grades({name: 1.0}))
    listed, other = Path.iterdir, reopen(store)
    todo = [other.compact]

    def meanwhile(self: Path) -> Iterator[Path]:
        if self == Path(store.folder.path) and todo:
            assert todo.pop()() == 3
            return iter([])  # the old files are gone already, the new one was not there yet
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", meanwhile)
    assert missing(store) == ""


def test_a_reader_beside_one_compaction_of_many_parts_on_s3(bucket: UPath) -> None:
    """On S3 the replaced parts go one by one, and slowly."""
    count = 40
    store = Store(bucket / FINGERPRINT)
    names = [f"{number:03}" for number in range(count)]
    for name in names:
        store.append(grades({name: 1.0}))
    with ThreadPoolExecutor(1) as threads:
        compacted = threads.submit(reopen(store).compact)
        while not compacted.done():
            assert len(stored_grades(store, names)) == count
    assert compacted.result() == count


def test_files_that_keep_vanishing_are_an_error_in_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(grades({"a": 1.0}))
    monkeypatch.setattr(store_folder, "_PATIENCE_SECONDS", 0.1)

    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(StoreFolder, "_load_part", gone)
    with pytest.raises(FileNotFoundError, match="its files keep vanishing"):
        store.missing(ids("a"))
