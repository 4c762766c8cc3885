"""A coreset is published in one step: at no moment, and after no kill, does anybody see a mixture of two versions."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from dselect_core.coreset import published
from dselect_core.coreset.export import export_coreset
from dselect_core.coreset.published import FILES, MANIFEST, PublishedVersion, check_file, read_version, restore
from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.storage import switch_folder
from dselect_core.storage.json_file import read_json
from tests.core.killed_publish import contents, publish_version

ROOT = Path(__file__).parents[2]
FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlsym"}


@pytest.fixture(scope="module")
def bucket(s3: dict[str, Any]) -> UPath:
    made = UPath("s3://published", **s3, use_listings_cache=False)
    made.fs.mkdir(made.path)
    return made


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    root = UPath(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket") / f"{uuid.uuid4()}"
    return root / "coresets" / "r"


@pytest.fixture
def on_disk(tmp_path: Path) -> UPath:
    return UPath(tmp_path) / "coresets" / "r"


@pytest.fixture(params=["one exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How folders are switched. Only the system's answer is replaced, as a network share would give it."""
    if request.param == "two renames":
        monkeypatch.setattr(switch_folder, "_exchange", lambda *_: False)
    return str(request.param)


def seen(folder: UPath) -> str | None:
    """The version that a reader sees, None where there is none. Fails where it sees anything but one whole version."""

    def read(version: PublishedVersion) -> str:
        name = str(version.manifest["version"])
        for file, content in contents(name).items():
            assert version.read(file) == content, f"{file} is not of version {name}"
        return name

    try:
        return read_version(folder, read)
    except FileNotFoundError:
        return None


def seen_by_a_stranger(folder: Path) -> str | None:
    """The version that lies in the folder on a disk, by its plain files alone."""
    if not folder.exists():
        return None
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    version = str(json.loads(found.pop(MANIFEST))["version"])
    assert found == contents(version)
    return version


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Fork, and do the work; the process is killed before its operation on files number `step`. Whether it was."""
    pid = os.fork()
    if pid == 0:
        left = step

        def hook(event: str, _: tuple[Any, ...]) -> None:
            nonlocal left
            if event in FILE_EVENTS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work failed"
    return os.WIFSIGNALED(status)


def leftovers(folder: UPath) -> list[str]:
    return sorted(path.name for path in Path(folder.path).parent.iterdir() if path.name != folder.name)


def age(folder: UPath) -> None:
    """Make all that killed writers left two hours old."""
    for path in Path(folder.path).parent.iterdir():
        if path.name != folder.name:
            os.utime(path, (time.time() - 7200, time.time() - 7200))


@pytest.mark.parametrize("first", [None, "a"])
def test_a_kill_before_any_operation_on_files_leaves_one_whole_version(
    on_disk: UPath, way: str, first: str | None
) -> None:
    steps = 0
    found: list[str | None] = []
    while True:
        if first is None:
            for name in ("r", *leftovers(on_disk)) if on_disk.parent.exists() else ():
                subprocess.run(["rm", "-rf", str(Path(on_disk.path).parent / name)], check=True)
        else:
            publish_version(on_disk, first)
        killed = killed_at(steps, lambda: publish_version(on_disk, "b"))
        between_renames = first is not None and not on_disk.exists()
        assert way == "two renames" or not between_renames
        restore(on_disk)
        found.append(seen_by_a_stranger(Path(on_disk.path)))
        assert found[-1] == seen(on_disk)
        if not killed:
            break
        steps += 1
    # Each step but the last ones sees the old version, and the switch is passed once.
    switched = found.index("b")
    assert steps > 3 * len(FILES) and set(found[:switched]) == {first} and set(found[switched:]) == {"b"}
    if first is not None:
        age(on_disk)
        publish_version(on_disk, "c")
        assert seen(on_disk) == "c" and leftovers(on_disk) == []


def test_a_kill_before_any_request_to_an_object_store_leaves_one_whole_version(
    s3: dict[str, Any], bucket: UPath
) -> None:
    folder = bucket / f"{uuid.uuid4()}" / "r"
    publish_version(folder, "a")
    found = []
    for step in range(100):
        command = [sys.executable, "-m", "tests.core.killed_publish", str(folder), json.dumps(s3), "b", str(step)]
        code = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120).returncode
        assert code in (0, -signal.SIGKILL)
        found.append(seen(folder))
        if code == 0:
            break
        if found[-1] == "b":
            publish_version(folder, "a")
    switched = found.index("b")
    assert switched == len(FILES) and set(found[:switched]) == {"a"} and set(found[switched:]) == {"b"}


def test_readers_beside_writers_see_whole_versions_only(folder: UPath, way: str) -> None:
    versions = "abcdefgh"
    publish_version(folder, "a")
    gaps = []

    def write(turn: int) -> None:
        for version in versions[turn::2] * (3 if folder.protocol else 25):
            publish_version(folder, version)

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(write, turn) for turn in (0, 1)]
        found = []
        while not all(writer.done() for writer in writers):
            found.append(seen(folder))
            gaps += [version for version in found[-1:] if version is None]
        for writer in writers:
            writer.result()
    assert len(set(found)) > 3 and seen(folder) in ("g", "h")
    assert way == "two renames" or gaps == []


def test_a_replaced_version_goes_and_what_is_not_ours_stays(folder: UPath, way: str) -> None:
    for version in "ab":
        publish_version(folder, version)
    for name in ("NOTES.md", "dataset/mine.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for version in "cd":
        publish_version(folder, version)
    within = read_json(folder / MANIFEST).get("folder", "")
    expected = {f"{within}/{name}".lstrip("/") for name in contents("d")} | {MANIFEST, "NOTES.md", "dataset/mine.txt"}
    found = {path.removeprefix(folder.path).lstrip("/") for path in folder.fs.find(folder.path)}
    assert expected <= found
    # In an object store the three replaced ones are not an hour old.
    assert len(found - expected) == (3 * len(contents("d")) if folder.protocol else 0)
    assert (folder / "NOTES.md").read_bytes() == b"NOTES.md" and seen(folder) == "d"
    assert folder.protocol or leftovers(folder) == []


def test_in_an_object_store_older_versions_and_what_a_killed_writer_left_go_after_an_hour(
    bucket: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bucket / f"{uuid.uuid4()}" / "r"
    (folder / "versions" / "20200101T000000Z-00000000" / "dataset" / "README.md").write_bytes(b"left")
    for version in "abc":
        publish_version(folder, version)
    assert len(folder.fs.find(folder.path)) == 3 * len(contents("a")) + 2
    monkeypatch.setattr(published, "ORPHAN_SECONDS", -60.0)
    for version in "de":
        publish_version(folder, version)
        # The last one may still be read by somebody.
        assert len(folder.fs.find(folder.path)) == 2 * len(contents("a")) + 1 and seen(folder) == version


def test_the_files_of_version_0_2_are_read_and_replaced(folder: UPath) -> None:
    for name, content in contents("a").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_bytes(json.dumps({"version": "a"}).encode())
    assert seen(folder) == "a"
    publish_version(folder, "b")
    assert seen(folder) == "b" and len(folder.fs.find(folder.path)) == len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(folder: UPath, name: str) -> None:
    publish_version(folder, "a")
    path = read_version(folder, lambda version: version.path(name))
    whole = path.read_bytes()
    check_file(folder, name)
    for damaged in (b"", whole[:-2], whole[:5] + bytes([whole[5] ^ 1]) + whole[6:]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError) as raised:
            check_file(folder, name)
        assert raised.value.path == path
    path.unlink()
    with pytest.raises(FileNotFoundError):
        check_file(folder, name)
    publish_version(folder, "b")
    assert seen(folder) == "b"


def test_an_export_beside_a_writer_is_of_one_version(folder: UPath, tmp_path: Path) -> None:
    publish_version(folder, "a")
    target, copies = tmp_path / "copy", 0
    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(lambda: [publish_version(folder, version) for version in "bcdefg" * 3])
        while not writer.done():
            export_coreset(folder, str(target), "all")
            manifest = read_json(UPath(target / MANIFEST))
            copied = {name: (target / name).read_bytes() for name in contents("a") if name != "changes.parquet"}
            right = contents(manifest["version"])
            assert copied == {name: right[name] for name in copied} and "folder" not in manifest
            copies += 1
        writer.result()
    assert copies > 1


def test_an_export_names_what_is_gone(on_disk: UPath, tmp_path: Path) -> None:
    with pytest.raises(DselectError, match="this coreset is not made yet; run `dselect refresh`"):
        export_coreset(on_disk, str(tmp_path / "copy"), "all")
    publish_version(on_disk, "a")
    (on_disk / "coreset.jsonl").unlink()
    with pytest.raises(DselectError, match=r"a file of this coreset is gone .*coreset\.jsonl"):
        export_coreset(on_disk, str(tmp_path / "copy"), "messages")


def test_a_writer_that_fails_leaves_the_version_in_force_and_nothing_else(folder: UPath) -> None:
    publish_version(folder, "a")

    def files() -> Iterator[tuple[str, bytes]]:
        yield from list(contents("b").items())[:3]
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space left"):
        published.publish(folder, files(), {"version": "b"})
    assert seen(folder) == "a" and (folder.protocol or leftovers(folder) == [])


def test_a_folder_behind_a_symbolic_link_is_switched_where_it_lies(on_disk: UPath, tmp_path: Path) -> None:
    elsewhere = tmp_path / "large disk" / "r"
    elsewhere.mkdir(parents=True)
    Path(on_disk.path).parent.mkdir()
    Path(on_disk.path).symlink_to(elsewhere)
    for version in "ab":
        publish_version(on_disk, version)
        assert Path(on_disk.path).is_symlink() and seen_by_a_stranger(elsewhere) == version == seen(on_disk)


def test_where_the_disk_refuses_the_version_in_force_stays(on_disk: UPath, way: str) -> None:
    publish_version(on_disk, "a")
    before = leftovers(on_disk)
    with pytest.raises(FileNotFoundError):
        switch_folder.switch_folder(Path(on_disk.path).with_name("no such"), Path(on_disk.path))
    assert seen(on_disk) == "a" and leftovers(on_disk) == before
