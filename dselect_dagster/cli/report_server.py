"""Serves the pages of the coresets on this machine, beside the Dagster UI of `dselect dev`, which links to them.

A browser opens no file from a page of a server, so the link in the UI needs an address. A process of its own serves
pages alone, from wherever the storage is, and ends with the process that holds its standard input. The pages show rows
of the corpus, so a page of another site that points a name of its own at this machine is not answered.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_bytes

_HOSTS = ("127.0.0.1", "localhost")


def start_report_server(reports_url: str, config: Path) -> bool:
    """Serve what `reports_url` names, until this process ends, or the one that it becomes by exec.

    False, and nothing is started, where that is no port of this machine over http, or something serves there already.
    """
    address = urlsplit(reports_url)
    if address.scheme != "http" or address.hostname not in _HOSTS or address.port is None:
        return False
    try:
        listening = socket.create_server((str(address.hostname), address.port))
    except OSError:
        return False
    with listening:
        arguments = [str(config), str(listening.fileno()), address.path.rstrip("/")]
        process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, *arguments],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the process that it ends with
        )
    assert process.stdin is not None
    os.set_inheritable(process.stdin.fileno(), True)
    return True


def page_at(workspace: Workspace, path: str) -> bytes | None:
    """The page at a path of the address, None where there is none. No other file of the storage is ever read."""
    if path in ("/", "/index.html"):
        page = workspace.reports / "index.html"
    elif (named := re.fullmatch(r"/coresets/([^/]+)\.html", path)) and (
        recipe := unquote(named[1])
    ) in workspace.settings.coresets:
        page = workspace.report(recipe)
    elif refreshed := re.fullmatch(r"/refreshes/([0-9A-Za-z-]+\.html)", path):
        page = workspace.refresh_reports / refreshed[1]
    else:
        return None
    with contextlib.suppress(FileNotFoundError):
        return read_bytes(page)
    return None


def _handler(config: Path, prefix: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            path = urlsplit(self.path).path
            found = None
            if host in _HOSTS and path.startswith(prefix):
                # Read anew: recipes come and go while it serves.
                found = page_at(Workspace(load_settings(config)), path.removeprefix(prefix) or "/")
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND, "No such page: `dselect refresh` writes it with its coreset")
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(found)))
            self.send_header("Cache-Control", "no-cache")
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def main(config: str, listening: str, prefix: str) -> None:
    """Serve on a socket that listens already, until standard input ends."""
    server = ThreadingHTTPServer(("", 0), _handler(Path(config), prefix), bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(listening))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
