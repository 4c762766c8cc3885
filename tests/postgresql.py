"""A real PostgreSQL on loopback: an own folder, port and password, gone after the test.

The programs are those of the machine (`make test` installs Debian's where there are none). PostgreSQL refuses to run as
root, so root lends the folder to the account `nobody`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

USER = "dagster"


def free_ports(count: int) -> list[int]:
    """So many ports that nothing listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def programs() -> Path:
    """The folder of initdb and postgres."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    assert found is not None, "no PostgreSQL on this machine: `make test` installs Debian's; elsewhere install it"
    return Path(found).resolve().parent


@contextlib.contextmanager
def postgresql(password: str) -> Iterator[int]:
    """The port of a server whose user USER has that password, and an empty database of its name."""
    as_user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    port = free_ports(1)[0]
    with contextlib.ExitStack() as stack:
        # Not pytest's folder, which other accounts cannot enter.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dselect-postgresql-")))
        (folder / "password").write_text(password)
        if as_user:
            for path in (folder, folder / "password"):
                shutil.chown(path, as_user["user"])
        initdb = ["initdb", "-D", "data", "-U", USER, "-A", "scram-sha-256", "--pwfile=password", "--no-sync"]
        options = ["-k", ".", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"]
        server = [str(programs() / "postgres"), "-D", "data", "-p", str(port), *options]
        subprocess.run(
            [str(programs() / initdb[0]), *initdb[1:]], cwd=folder, check=True, capture_output=True, **as_user
        )
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(server, cwd=folder, stdout=log, stderr=log, **as_user)
        stack.callback(process.wait, timeout=30)
        stack.callback(process.terminate)
        stop = time.monotonic() + 30
        while True:
            try:
                with contextlib.closing(connect(port, password, "postgres")) as server_connection:
                    server_connection.autocommit = True
                    server_connection.cursor().execute(f"CREATE DATABASE {USER}")
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < stop and process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield port


def connect(port: int, password: str, database: str = USER) -> Any:
    """A connection to the server."""
    return psycopg2.connect(host="127.0.0.1", port=port, user=USER, password=password, dbname=database)


def texts(port: int, password: str) -> Iterator[bytes]:
    """All that the tables hold, row by row."""
    with contextlib.closing(connect(port, password)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT * FROM "{table}"')
            for row in cursor.fetchall():
                for value in row:
                    if isinstance(value, str | memoryview | bytes):
                        yield value.encode() if isinstance(value, str) else bytes(value)
