"""A coreset is published in one step: at no moment, and after no kill, does anybody see a mixture of two versions."""

import contextlib
import errno
import json
import os
import shutil
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
from dselect_core.coreset.published import FILES, MANIFEST, PublishedVersion, check_file, read_version
from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.storage.json_file import read_json
from tests.core.killed_publish import contents, publish_version

ROOT = Path(__file__).parents[2]
FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"}
LINKED = {name.split("/")[0] for name in FILES} - {MANIFEST}


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
    """The version that the links on a disk lead to, by plain files alone."""
    if not (folder / "latest").exists():
        return None
    version = str(json.loads((folder / "latest" / MANIFEST).read_text())["version"])
    for name, content in contents(version).items():
        assert (folder / "latest" / name).read_bytes() == content
        assert not (folder / name).exists() or (folder / name).read_bytes() == content
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


def folders(folder: UPath) -> list[str]:
    """The folders of versions, listed in the pointer or not."""
    start = f"{folder.path}/versions/"
    return sorted({path.removeprefix(start).split("/")[0] for path in folder.fs.find(f"{folder.path}/versions")})


def kept(folder: UPath) -> list[str]:
    """The versions that the pointer lists, whole, the one in force first."""
    pointer = read_json(folder / MANIFEST)
    for each in pointer["versions"]:
        own = read_json(folder / each["folder"] / MANIFEST)
        assert own["version"] == each["version"] and "folder" not in own
        for name, content in contents(each["version"]).items():
            assert (folder / each["folder"] / name).read_bytes() == content
    return [each["version"] for each in pointer["versions"]]


def age(folder: UPath) -> None:
    """Make all that lies in the versions two hours old."""
    for path in [*(Path(folder.path) / "versions").rglob("*")]:
        os.utime(path, (time.time() - 7200, time.time() - 7200))


@pytest.mark.parametrize("first", [None, "a"])
def test_a_kill_before_any_operation_on_files_leaves_one_whole_version(on_disk: UPath, first: str | None) -> None:
    steps = 0
    found: list[str | None] = []
    by_links: list[str | None] = []
    while True:
        shutil.rmtree(on_disk.path, ignore_errors=True)
        if first is not None:
            publish_version(on_disk, first)
        killed = killed_at(steps, lambda: publish_version(on_disk, "b"))
        found.append(seen(on_disk))
        by_links.append(seen_by_a_stranger(Path(on_disk.path)))
        if not killed:
            break
        steps += 1
    # Each step but the last ones sees the old version, and the switch is passed once; the links follow it.
    for each in (found, by_links):
        switched = each.index("b")
        assert steps > 3 * len(FILES) and set(each[:switched]) == {first} and set(each[switched:]) == {"b"}
    assert found.index("b") < by_links.index("b")


def test_what_a_killed_writer_left_goes_after_an_hour(on_disk: UPath) -> None:
    publish_version(on_disk, "a")
    assert killed_at(20, lambda: publish_version(on_disk, "b"))
    assert len(folders(on_disk)) == 2
    publish_version(on_disk, "c")
    assert len(folders(on_disk)) == 3 and kept(on_disk) == ["c", "a"]
    age(on_disk)
    publish_version(on_disk, "d")
    assert len(folders(on_disk)) == 3 and kept(on_disk) == ["d", "c", "a"]


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
    assert switched == len(FILES) + 1 and set(found[:switched]) == {"a"} and set(found[switched:]) == {"b"}


def test_readers_beside_writers_see_whole_versions_only(folder: UPath) -> None:
    versions = "abcdefgh"
    publish_version(folder, "a")

    def write(turn: int) -> None:
        for version in versions[turn::2] * (2 if folder.protocol else 8):
            publish_version(folder, version)

    with ThreadPoolExecutor(4) as threads:
        writers = [threads.submit(write, turn) for turn in (0, 1)]
        found = []
        while not all(writer.done() for writer in writers):
            found.append(seen(folder))
        for writer in writers:
            writer.result()
    assert len(set(found)) > 3 and seen(folder) in ("g", "h") and None not in found


def test_versions_are_kept_as_many_as_are_asked_for_and_what_is_not_ours_stays(folder: UPath) -> None:
    (folder / "NOTES.md").parent.mkdir(parents=True, exist_ok=True)
    (folder / "NOTES.md").write_bytes(b"mine")
    for version in "abcd":
        publish_version(folder, version)
    assert kept(folder) == ["d", "c", "b"] and len(folders(folder)) == 3
    path_of_c = folder / read_json(folder / MANIFEST)["versions"][1]["folder"]
    publish_version(folder, "a", keep=5)
    assert kept(folder) == ["a", "d", "c", "b"] and path_of_c.exists()
    publish_version(folder, "e", keep=1)
    assert kept(folder) == ["e"] == [seen(folder)] and len(folders(folder)) == 1
    assert (folder / "NOTES.md").read_bytes() == b"mine"
    if not folder.protocol:
        names = {path.name for path in Path(folder.path).iterdir()}
        assert names == {*LINKED, MANIFEST, "latest", "versions", "NOTES.md"}


def test_the_same_choice_is_no_new_version(folder: UPath) -> None:
    for version in "ab":
        publish_version(folder, version)
    before = read_json(folder / MANIFEST)
    publish_version(folder, "b", origins="moved")
    now = read_json(folder / MANIFEST)
    assert now == before | {"origins": "moved"} and len(folders(folder)) == 2
    # The same choice with other gains is the same version, in another folder; who reads the old one may finish.
    files = {name: content + (b"!" if name == "order.parquet" else b"") for name, content in contents("b").items()}
    published.publish(folder, files.items(), {"recipe": "r", "version": "b"})
    now = read_json(folder / MANIFEST)
    assert [each["version"] for each in now["versions"]] == ["b", "a"] and now["folder"] != before["folder"]
    assert (folder / before["folder"] / MANIFEST).exists() and len(folders(folder)) == 3


def test_a_version_that_lost_a_file_is_written_again(folder: UPath) -> None:
    publish_version(folder, "a")
    read_version(folder, lambda version: version.path("alpaca.json")).unlink()
    publish_version(folder, "a")
    assert seen(folder) == "a" == kept(folder)[0] and len(kept(folder)) == 1


@pytest.mark.parametrize("lists_files", [False, True], ids=["0.1", "0.2"])
def test_the_files_of_earlier_versions_are_read_and_taken_over(
    folder: UPath, lists_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_choice_of", lambda version: version.manifest["version"])  # these are no tables
    for name, content in contents("a").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    listed = {name: published._facts(content) for name, content in contents("a").items()}
    manifest = {"version": "a"} | ({"files": listed} if lists_files else {})
    (folder / MANIFEST).write_bytes(json.dumps(manifest).encode())
    assert seen(folder) == "a"
    publish_version(folder, "b")
    assert seen(folder) == "b" and kept(folder) == ["b", "a"]
    assert folder.protocol or seen_by_a_stranger(Path(folder.path)) == "b"
    assert len(folder.fs.find(folder.path)) == 2 * len(FILES) + 1 or not folder.protocol


def test_an_object_store_of_0_2_is_taken_over(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_choice_of", lambda version: version.manifest["version"])
    folder = bucket / f"{uuid.uuid4()}" / "r"
    publish_version(folder, "a")
    pointer = read_json(folder / MANIFEST)
    del pointer["versions"]
    (folder / MANIFEST).write_bytes(json.dumps(pointer).encode())
    publish_version(folder, "b")
    assert seen(folder) == "b" and kept(folder) == ["b", "a"]


def test_where_a_disk_has_no_links_the_pointer_says_where_the_files_lie(
    on_disk: UPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)  # the system's answer, as some network shares give it
    for version in "abcd":
        publish_version(on_disk, version)
    assert seen(on_disk) == "d" and kept(on_disk) == ["d", "c", "b"] and len(folders(on_disk)) == 3
    assert {path.name for path in Path(on_disk.path).iterdir()} == {MANIFEST, "versions"}
    assert "no links to the version in force" in caplog.text


def test_a_copy_that_followed_the_links_is_published_to_as_ever(on_disk: UPath, tmp_path: Path) -> None:
    publish_version(on_disk, "a")
    copy = UPath(shutil.copytree(on_disk.path, tmp_path / "copy"))
    assert not Path(copy.path, "latest").is_symlink() and seen(copy) == "a"
    publish_version(copy, "b")
    assert seen(copy) == "b" == seen_by_a_stranger(Path(copy.path)) and kept(copy) == ["b", "a"]
    # What is not ours is neither removed nor led away from.
    again = UPath(shutil.copytree(on_disk.path, tmp_path / "again"))
    Path(again.path, "dataset", "mine.txt").write_text("mine")
    publish_version(again, "b")
    assert seen(again) == "b" and Path(again.path, "dataset", "mine.txt").read_text() == "mine"


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
            assert copied == {name: right[name] for name in copied} and not {"folder", "versions"} & {*manifest}
            copies += 1
        writer.result()
    assert copies > 1


def test_an_export_names_what_is_gone(on_disk: UPath, tmp_path: Path) -> None:
    with pytest.raises(DselectError, match="this coreset is not made yet; run `dselect refresh`"):
        export_coreset(on_disk, str(tmp_path / "copy"), "all")
    publish_version(on_disk, "a")
    read_version(on_disk, lambda version: version.path("coreset.jsonl")).unlink()
    with pytest.raises(DselectError, match=r"a file of this coreset is gone .*coreset\.jsonl"):
        export_coreset(on_disk, str(tmp_path / "copy"), "messages")


def test_a_writer_that_fails_leaves_the_version_in_force_and_nothing_else(folder: UPath) -> None:
    publish_version(folder, "a")

    def files() -> Iterator[tuple[str, bytes]]:
        yield from list(contents("b").items())[:3]
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(OSError, match="no space left"):
        published.publish(folder, files(), {"version": "b"})
    assert seen(folder) == "a" and kept(folder) == ["a"]


def test_a_folder_behind_a_symbolic_link_is_published_to_where_it_lies(on_disk: UPath, tmp_path: Path) -> None:
    elsewhere = tmp_path / "large disk" / "r"
    elsewhere.mkdir(parents=True)
    Path(on_disk.path).parent.mkdir()
    Path(on_disk.path).symlink_to(elsewhere)
    for version in "ab":
        publish_version(on_disk, version)
        assert Path(on_disk.path).is_symlink() and seen_by_a_stranger(elsewhere) == version == seen(on_disk)
