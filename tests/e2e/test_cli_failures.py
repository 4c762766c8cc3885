"""What is wrong around a command is one line with its remedy and an exit code, and a traceback only with --debug."""

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from dselect_core.errors import DselectError, explain_os_error
from dselect_dagster.cli.failures import explain
from tests.e2e.graph import TINY
from tests.e2e.killed_refresh import environment

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "sources": {"a": {"path": "a.json"}},
    "coresets": {"r": {"strategy": "random", "budget": 1}},
    "warmup": TINY,
}
LONG = "n" * 300


def dselect(folder: Path, *arguments: str, module: str = "dselect_dagster.cli", **more: str) -> tuple[int, str]:
    """(exit code, what was printed)."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, env=environment(PYTHONPATH=str(ROOT), **more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=200,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dselect.yaml").write_text(yaml.safe_dump(SETTINGS))
    (tmp_path / "a.json").write_text('[{"instruction": "Hi", "input": "", "output": "Hello"}]')
    return tmp_path


@pytest.mark.parametrize("module", ["dselect_dagster", "dselect_dagster.cli", "dselect_dagster.cli.app"])
def test_every_way_to_start_it_works(module: str, tmp_path: Path) -> None:
    code, told = dselect(tmp_path, "--help", module=module)
    assert code == 0
    assert "refresh" in told
    assert "--debug" in told
    code, told = dselect(tmp_path, "plan", module=module)
    assert code == 2
    assert "no such file. Write one with `dselect init FOLDER`" in told


def _settings(**top: object) -> Callable[[Path], None]:
    return lambda folder: (folder / "dselect.yaml").write_text(yaml.safe_dump(SETTINGS | top)) and None


def _bytes(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return write


def _folder(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)

    return make


HOME = ".dselect/dagster"
CASES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "settings that are not UTF-8": (_bytes("dselect.yaml", b"storage: \xff\xfe"), ["plan"], "Save it as UTF-8"),
    "settings in UTF-16": (_bytes("dselect.yaml", "storage: x".encode("utf-16")), ["plan"], "Save it as UTF-8"),
    "a folder for settings": (_folder("dselect.yaml"), ["plan"], "name a file"),
    "broken YAML": (_bytes("dselect.yaml", b"a: [1\nb: pass-word"), ["plan"], "in line 2"),
    "a control character in YAML": (_bytes("dselect.yaml", b"a: \x1b[2J"), ["plan"], "at character 4"),
    "nesting without end": (_bytes("dselect.yaml", b"[" * 5000), ["plan"], "nested too deeply"),
    "NUL in the name of a source": (_bytes("dselect.yaml", b'sources: {"a\\0b": {path: x}}'), ["plan"], "Take it out"),
    "NUL in a path": (_bytes("dselect.yaml", b'sources: {a: {path: "x\\0y"}}'), ["refresh"], "sources.a.path"),
    "NUL in storage": (_bytes("dselect.yaml", b'storage: "\\0"'), ["refresh"], "storage"),
    "300 characters in the name of a source": (_settings(sources={LONG: {"path": "a.json"}}), ["plan"], "200 bytes"),
    "300 characters in the name of a recipe": (
        _settings(coresets={LONG: SETTINGS["coresets"]["r"]}), ["refresh"], "200 bytes",
    ),
    "a recipe whose name is a control sequence": (
        _settings(coresets={"a\x1b(0x": SETTINGS["coresets"]["r"]}), ["refresh"], "printable",
    ),
    "300 characters in --config": (_settings(), ["plan", "-c", LONG], "Use a shorter one"),
    "300 characters in --recipe": (_settings(), ["refresh", "--recipe", LONG], "there are: r"),
    "300 characters for why": (_settings(), ["why", LONG], ""),
    "300 characters for init": (_settings(), ["init", LONG, "-c", "other.yaml"], ""),
    "300 characters as file to write": (_settings(), ["init", ".", "-c", LONG], "Use a shorter one"),
    "300 characters as storage": (_settings(storage=LONG), ["refresh"], "Use a shorter one"),
    "a file where the storage is": (_bytes(".dselect", b""), ["refresh"], "Remove that file"),
    "a file where the Dagster home is": (_bytes(HOME, b""), ["status"], "Remove that file"),
    "a folder nobody may write as storage": (_settings(storage="/sys/x"), ["refresh"], "name another place"),
    "a broken dagster.yaml": (_bytes(f"{HOME}/dagster.yaml", b"telemetry: [\n"), ["status"], "Mend it, or remove it"),
    "a dagster.yaml that Dagster refuses": (_bytes(f"{HOME}/dagster.yaml", b"nosuch: 1\n"), ["plan"], "Mend it"),
    "no database of runs": (_bytes(f"{HOME}/history/runs.db", b"no database" * 500), ["status"], "move that folder"),
    "no database of events": (
        _bytes(f"{HOME}/history/runs/index.db", b"no database" * 500), ["refresh"], "move that folder",
    ),
    "no database of schedules": (_bytes(f"{HOME}/schedules/schedules.db", b"\0" * 5000), ["plan"], "move that folder"),
    "a folder for a database": (_folder(f"{HOME}/history/runs.db"), ["status"], "$DAGSTER_HOME"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_with_the_remedy(case: str, project: Path) -> None:
    prepare, command, remedy = CASES[case]
    prepare(project)
    code, told = dselect(project, *command)
    assert code in (1, 2), told
    assert "Traceback" not in told
    assert "pass-word" not in told
    if remedy:
        assert remedy in told, told


def test_a_locked_database_says_who_waits_for_whom(project: Path) -> None:
    dselect(project, "status")
    with closing(sqlite3.connect(project / HOME / "history" / "runs.db")) as held:
        held.execute("BEGIN EXCLUSIVE")
        code, told = dselect(project, "refresh")
    assert code == 2
    assert "Traceback" not in told
    assert "Another process writes to it: wait until it has ended" in told


def test_debug_shows_the_traceback_of_a_step_that_failed(project: Path) -> None:
    (project / "a.json").write_text("{")
    told = dselect(project, "refresh")[1]
    assert "Traceback" not in told
    assert "land_source" not in told
    assert "land_source" in dselect(project, "refresh", "--debug")[1]


def test_debug_shows_the_traceback_wherever_it_stands(project: Path) -> None:
    (project / "dselect.yaml").unlink()
    for arguments in (["--debug", "plan"], ["plan", "--debug"]):
        code, told = dselect(project, *arguments)
        assert code == 2
        assert "Traceback (most recent call last)" in told
        assert told.splitlines()[-1].startswith("error ")


def test_a_terminal_that_knows_no_unicode_and_a_reader_that_has_gone(project: Path) -> None:
    (project / "dselect.yaml").write_text(yaml.safe_dump(SETTINGS | {"sources": {"größe": {"path": "日本.json"}}}))
    code, told = dselect(project, "plan", PYTHONIOENCODING="ascii")
    assert code == 0, told
    assert "gr\\xf6\\xdfe" in told
    assert "Traceback" not in told
    command = f"'{sys.executable}' -m dselect_dagster.cli plan | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=project, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.stderr == ""


def test_a_disk_that_fills_up_during_a_run(project: Path) -> None:
    full = project / "full"
    full.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", full], check=False).returncode
    ):
        pytest.skip("no tmpfs may be mounted here")
    try:
        rows = [f'{{"instruction": "{os.urandom(4000).hex()}", "input": "", "output": "x"}}' for _ in range(200)]
        (project / "a.json").write_text("[" + ",".join(rows) + "]")
        _settings(storage=str(full / "s"))(project)
        code, told = dselect(project, "refresh")
        assert code == 1, told
        assert "the disk is full. Make room there" in told
        assert "Traceback" not in told
        with contextlib.suppress(OSError), (full / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        code, told = dselect(project, "status", DAGSTER_HOME=str(full / "home"))
        assert code == 2, told
        assert "Traceback" not in told
        assert "ake room there" in told
    finally:
        subprocess.run(["umount", full], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO, errno.EFBIG])
def test_what_the_system_refuses_has_a_remedy(number: int) -> None:
    told = explain_os_error(OSError(number, os.strerror(number), "/data/a.parquet"))
    assert told.startswith("/data/a.parquet: ")
    assert len(told.split(". ")) >= 2


def test_the_cause_of_an_error_counts_and_what_is_not_foreseen_says_so() -> None:
    try:
        try:
            raise sqlite3.OperationalError("database or disk is full")
        except sqlite3.Error as error:
            raise RuntimeError("(sqlite3.OperationalError) …") from error
    except RuntimeError as error:
        assert "The disk is full: make room there" in explain(error)[0]
    assert explain(DselectError("x")) == ("x", 2)
    assert explain(OSError("no number"))[0] == "no number."
    told, code = explain(ZeroDivisionError("division\nby zero"))
    assert (code, told.count("\n")) == (1, 0)
    assert "`--debug` shows where" in told
