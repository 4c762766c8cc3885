"""Any exception of a command as one line with its remedy, and an exit code; the traceback only with `--debug`."""

import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from dselect_core.errors import DselectError, explain_os_error, object_store_error
from dselect_core.redact import redact

BAD_INPUT, FAILED = 2, 1


def explain(error: BaseException) -> tuple[str, int]:
    """(the line, the exit code): 2 for what a person can mend in files and options, 1 for all else."""
    if isinstance(error, DselectError):
        return str(error), BAD_INPUT
    if hasattr(error, "format_message"):  # typer's, whose class is another one in each of its versions
        return _usage(error), BAD_INPUT
    for each in _chain(error):
        if isinstance(each, sqlite3.Error):
            return database_message(each), BAD_INPUT
        if type(each).__module__.startswith("psycopg"):
            return _database_server_message(each), BAD_INPUT
        if (of_store := object_store_error(each)) is not None:
            return redact(str(of_store)), BAD_INPUT
        if isinstance(each, OSError):
            return explain_os_error(each), BAD_INPUT
        if isinstance(each, ImportError):
            return f"{each}. Install it into this environment (`pip install {each.name or '…'}`).", BAD_INPUT
        if isinstance(each, UnicodeEncodeError):
            return f"{each}. The locale of this terminal lacks it: set PYTHONUTF8=1.", BAD_INPUT
        if isinstance(each, MemoryError):
            return "no memory left. Close programs, or set a smaller `model.batch_tokens`.", FAILED
    what = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {what}. This was not foreseen: `--debug` shows where; please report it.", FAILED


def database_message(error: sqlite3.Error) -> str:
    """What is wrong with Dagster's database, and what to do about it."""
    home = os.environ.get("DAGSTER_HOME", "$DAGSTER_HOME")
    said = str(error)
    if "locked" in said or "busy" in said:
        remedy = "Another process writes to it: wait until it has ended, or stop it, and run the command again"
    elif "full" in said:
        remedy = "The disk is full: make room there and run the command again"
    elif "readonly" in said or "unable to open" in said:
        remedy = "Change the owner or mode of that folder, or name another one in $DAGSTER_HOME"
    elif "not a database" in said or "malformed" in said:
        remedy = (
            "It is broken: move that folder away and run `dselect refresh`, which takes all scores from the storage "
            "and makes the history of runs anew"
        )
    else:
        remedy = (
            "It may be of another version of Dagster: name another folder in $DAGSTER_HOME, or move that one away and "
            "run `dselect refresh`, which takes all scores from the storage"
        )
    return f"{home}: Dagster's database fails ({said}). {remedy}."


def _database_server_message(error: BaseException) -> str:
    home = os.environ.get("DAGSTER_HOME", "$DAGSTER_HOME")
    said = redact(" ".join(str(error).split()))[:300].rstrip(". ")
    return (
        f"Dagster's database fails ({said}). Check that the server is up, and the address, user and password that "
        f"`storage` in {home}/dagster.yaml names. The scores are in the storage, and nothing of them is lost."
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it; the original error of a database is in `orig`."""
    seen: set[int] = set()
    current: Any = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = getattr(current, "orig", None) or current.__cause__ or current.__context__


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    help_line = f" `{context.command_path} --help` lists what there is." if context is not None else ""
    return f"{error.format_message().rstrip('.')}.{help_line}"
