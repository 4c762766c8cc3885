"""Small files of the storage: whatever happens to one, its reader names it, and nothing else is taken for it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from upath import UPath

from dselect_core.coreset.spec import read_spec, write_spec
from dselect_core.errors import DamagedFileError
from dselect_core.lm import load as load_module
from dselect_core.lm import target_model
from dselect_core.lm.load import folder_identity, identity
from dselect_core.select.saved_order import SavedOrder, read_saved_order, write_saved_order
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage import files
from dselect_core.storage.files import read_metadata, read_parquet, read_with_metadata, write_bytes, write_parquet
from dselect_core.storage.json_file import read_json, write_json
from dselect_core.storage.score_store import Store
from dselect_core.storage.source_head import Head, read_head, write_head
from tests.tiny import save_llama

TABLE = pl.DataFrame({"sample_id": [f"{i:032x}" for i in range(50)], "grade": [float(i) for i in range(50)]})
HEAD = Head("f" * 32, "v" * 32, "s" * 32, 50, 3)


def every_damage(whole: bytes) -> Iterator[bytes]:
    """The file emptied, cut off at several places, filled with zeros, and with each of its bytes altered in turn."""
    yield b""
    for length in (1, len(whole) // 2, len(whole) - 1):
        yield whole[:length]
    yield bytes(len(whole))
    for at in range(len(whole)):
        yield whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :]


def outcomes(path: UPath, read: Callable[[], Any]) -> tuple[int, int]:
    """(damages that the reader named, damages after which it gave what was written); any other outcome fails."""
    whole, right = path.read_bytes(), read()
    named = harmless = 0
    for damaged in every_damage(whole):
        path.write_bytes(damaged)
        try:
            found = read()
        except DamagedFileError as error:
            assert (
                error.path == path and str(error).startswith(f"{path}: damaged, ") and "dselect refresh" in str(error)
            )
            named += 1
        else:
            # White space, or the name of the checksum, was altered: what the file says is what was written.
            same = found.equals(right) if isinstance(found, pl.DataFrame) else found == right
            assert same, damaged
            harmless += 1
    path.write_bytes(whole)
    return named, harmless


def test_a_table_is_what_was_written_or_it_is_named(tmp_path: Path) -> None:
    path = UPath(tmp_path) / "corpus" / "neighbors.parquet"
    write_parquet(TABLE, path, {"fingerprint": "é"})
    named, harmless = outcomes(path, lambda: read_parquet(path))
    # Each byte of the checksum's mark may be altered: then it is a table without one.
    assert harmless <= len("dselect.checksum") + 2 and named + harmless == path.stat().st_size + 5


def test_the_metadata_of_a_table_are_what_was_written_or_it_is_named(tmp_path: Path) -> None:
    path = UPath(tmp_path) / "index.parquet"
    write_parquet(TABLE.head(3), path, {"version": "1"})
    whole = path.read_bytes()
    for damaged in every_damage(whole):
        path.write_bytes(damaged)
        try:
            assert read_metadata(path)["version"] == "1"
        except DamagedFileError as error:
            assert error.path == path


def test_heads_and_records_are_what_was_written_or_they_are_named(tmp_path: Path) -> None:
    path = UPath(tmp_path) / "a.json"
    write_head(HEAD, path)
    named, harmless = outcomes(path, lambda: read_head(path))
    assert named > 10 * harmless
    record = {"path": "builtin-é\n", "identity": "local:0", "provenance": {"window": 2, "losses": [1.5, None, 1e-9]}}
    write_json(record, path)
    assert read_json(path) == record
    outcomes(path, lambda: read_json(path)["provenance"])


def test_a_recipe_is_what_was_recorded_or_it_is_named(tmp_path: Path) -> None:
    settings = {"storage": str(tmp_path), "sources": {}, "coresets": {"r": {"strategy": "deita", "budget": 5}}}
    workspace = Workspace(Settings.model_validate(settings))
    with pytest.raises(FileNotFoundError):
        read_spec(workspace, "r")
    write_spec(workspace, "r")
    outcomes(workspace.spec("r"), lambda: read_spec(workspace, "r"))
    write_json({"strategy": "no such", "budget": 5}, workspace.spec("r"))
    with pytest.raises(DamagedFileError, match=r"r\.json: damaged, not a recipe"):
        read_spec(workspace, "r")


def test_files_of_older_versions_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    table, head = UPath(tmp_path) / "t.parquet", UPath(tmp_path) / "h.json"
    write_bytes(files.parquet_bytes(TABLE, {"version": "1"}), table)
    found, metadata = read_with_metadata(table)
    assert found.equals(TABLE) and metadata == {"version": "1"}
    head.write_text(json.dumps(HEAD.__dict__))
    assert read_head(head) == HEAD


def test_other_readers_of_parquet_open_a_sealed_table(tmp_path: Path) -> None:
    write_parquet(TABLE, UPath(tmp_path) / "t.parquet", {"version": "1"})
    path = tmp_path / "t.parquet"
    assert pq.read_table(path).num_rows == pl.read_parquet(path).height == 50
    assert pq.read_metadata(path).metadata[b"version"] == b"1"


def test_a_value_that_only_an_escape_can_write_is_kept(tmp_path: Path) -> None:
    write_json({"path": "\ud800", "of": {1: (2, 3)}}, UPath(tmp_path) / "x.json")
    assert read_json(UPath(tmp_path) / "x.json") == {"path": "\ud800", "of": {"1": [2, 3]}}


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "null", "{", "\xff", "[" * 100_000])
def test_what_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, "latin-1")
    with pytest.raises(DamagedFileError, match=r"x\.json: damaged, "):
        read_json(UPath(tmp_path) / "x.json")


def test_a_saved_order_that_is_damaged_is_named_in_the_log_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = UPath(tmp_path) / "key.parquet"
    saved = SavedOrder("key", TABLE.with_columns(reason=pl.lit(None, pl.String), rank=1, gain=0.5, **{"pass": 0}))
    write_saved_order(saved, path)
    whole = path.read_bytes()
    at = len(whole) // 3  # in a page of data
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert read_saved_order(path, "key") is None
    assert any(f"{path} is ignored" in message for message in caplog.messages)
    write_saved_order(saved, path)
    assert path.read_bytes() == whole


def test_a_file_is_flushed_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves is what was flushed: the content first, then the names of the file and of new folders."""
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append(f"rename {target.relative_to(tmp_path)}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    for _ in range(2):
        write_json({}, UPath(tmp_path) / "scores" / "grades" / "a.json")
    temporary = [step for step in steps if step.endswith(".tmp")]
    assert len(temporary) == 2 and all(step.startswith("flush scores/grades/.a.json.") for step in temporary)
    written = ["flush temporary", "rename scores/grades/a.json", "flush scores/grades"]
    told = ["flush temporary" if step in temporary else step for step in steps]
    assert told == ["flush .", "flush scores", *written, *written]


def test_what_a_killed_writer_left_goes_with_the_next_write_after_an_hour(tmp_path: Path) -> None:
    target, store = UPath(tmp_path) / "a.json", Store(UPath(tmp_path) / ("0" * 32))
    store.append(TABLE)
    left = [
        tmp_path / f".a.json.{'1' * 32}.tmp",
        tmp_path / f".a.json.{'2' * 32}.tmp",
        tmp_path / f".b.json.{'1' * 32}.tmp",
        tmp_path / ("0" * 32) / f".{'3' * 32}.parquet.{'4' * 32}.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
    for path in (left[0], left[2], left[3]):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    write_head(HEAD, target)
    store.compact()
    # The second may still be written, and the third is another file's.
    assert [path.exists() for path in left] == [False, True, True, False]
    assert read_head(target) == HEAD and store.missing(TABLE).is_empty()


# Provenances of models, and the cache of their hashes


def test_a_damaged_provenance_of_a_model_is_told_and_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = {"path": str(save_llama(tmp_path / "model"))}
    settings = {"storage": str(tmp_path / "s"), "sources": {}, "coresets": {}, "model": model}
    workspace = Workspace(Settings.model_validate(settings))
    target_model.make_target_model(workspace, pl.DataFrame)
    [path] = (tmp_path / "s" / "models" / "provenance").iterdir()
    whole, right = path.read_bytes(), target_model.provenance(workspace)
    # The record of the model was made under other settings, so that it does not tell.
    current = UPath(tmp_path / "s" / "models" / "current.json")
    write_json({**read_json(current), "rendering": None}, current)
    for damaged in (b"", whole[:9], whole.replace(b"256", b"257"), whole.replace(b"float32", b"float31")):
        path.write_bytes(damaged)
        assert target_model.provenance(workspace) == right
        if damaged != whole:
            assert str(path) in caplog.text and path.read_bytes() == whole
            caplog.clear()
    outcomes(current, lambda: target_model.read_record(workspace)["identity"])
    write_json({"identity": "x"}, current)
    with pytest.raises(DamagedFileError, match=r"current\.json: damaged, it does not name a model"):
        target_model.read_record(workspace)


def folder_of(place: Path, weights: bytes) -> Path:
    """A model folder whose files all have one time."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in (("config.json", b"{}"), ("model.safetensors", weights)):
        (place / name).write_bytes(data)
        os.utime(place / name, (1_700_000_000, 1_700_000_000))
    return place


def test_folders_with_equal_names_sizes_and_times_are_told_apart(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    one, two = folder_of(tmp_path / "one", b"weights 1"), folder_of(tmp_path / "two", b"weights 2")
    assert identity(str(one), cache=cache) == identity(str(one))
    assert identity(str(two), cache=cache) == identity(str(two)) != identity(str(one))
    # Other content under the same name, with the old size and time: written over, renamed to, or moved there.
    before = identity(str(one), cache=cache)
    folder_of(one, b"weights 3")
    assert identity(str(one), cache=cache) == identity(str(one)) != before
    folder_of(tmp_path / "new", b"weights 4")
    (tmp_path / "new" / "model.safetensors").replace(one / "model.safetensors")
    assert identity(str(one), cache=cache) == identity(str(one))
    two.rename(tmp_path / "old")
    one.rename(tmp_path / "two")
    assert identity(str(two), cache=cache) == identity(str(two))


def test_weights_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, one = tmp_path / "cache.json", folder_of(tmp_path / "one", b"w")
    two = folder_of(tmp_path / "two", b"v")
    found = [folder_identity(folder, cache) for folder in (one, two)]

    def refuse(*_: object) -> None:
        raise AssertionError("a file was hashed")

    monkeypatch.setattr(load_module.hashlib, "file_digest", refuse)
    assert [folder_identity(folder, cache) for folder in (one, two)] == found


def test_a_damaged_or_older_cache_of_hashes_is_never_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, one = tmp_path / "cache.json", folder_of(tmp_path / "one", b"w")
    right = folder_identity(one, cache)
    whole = cache.read_bytes()
    altered = whole.replace(right.encode(), right[::-1].encode())
    for damaged in (b"", whole[:30], altered):
        cache.write_bytes(damaged)
        assert folder_identity(one, cache) == right
        assert str(cache) in caplog.text and cache.read_bytes() == whole
        caplog.clear()
    cache.write_text(json.dumps({"0" * 32: "1" * 32}))  # as version 0.2 wrote it
    assert folder_identity(one, cache) == right and caplog.text == ""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert folder_identity(one, blocked / "cache.json") == right
    assert "is hashed again next time" in caplog.text
