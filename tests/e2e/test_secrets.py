"""Secrets that libraries and endpoints quote: searched in every byte that was written and printed.

Runs that fail in several ways, then one that succeeds, with a key in the environment, passwords and tokens in the
addresses of sources, and options of file systems.
"""

import base64
import json
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.e2e.graph import TINY, Graph, alpaca
from tests.e2e.killed_refresh import environment
from tests.openai_server import OpenAIServer, Reply, Request, completion, error, rating

ROOT = Path(__file__).parents[2]
KEY = "sk-secret-4f9a8b7c6d"
PASSWORD = "pa55-w0rd-secret"
TOKEN = "t0ken-secret-value"
OPTION = "0ption-secret/plus+"
BASIC = base64.b64encode(f"judge:{PASSWORD}".encode()).decode()  # how a password in an address is sent
SECRETS = [KEY, PASSWORD, TOKEN, OPTION, "0ption-secret%2Fplus%2B", BASIC]
WORDS = [f"{a}{b}" for a in ("red", "green", "blue", "white") for b in ("", "ish", "er", "ly")]


def dselect(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dselect_dagster.cli", *arguments], cwd=folder, timeout=300,
        env=environment(PYTHONPATH=str(ROOT), JUDGE=KEY), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout.decode()


@pytest.fixture
def web(request: pytest.FixtureRequest) -> Iterator[str]:
    """A web server that holds one file of rows, and quotes what it was asked for in its errors."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            data = json.dumps(alpaca(WORDS)).encode() if self.path.startswith("/rows.json") else None
            self.send_response(200, "OK") if data else self.send_response(500, f"no {self.path}")
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data or b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def leaks(folder: Path, skip: set[str]) -> list[str]:
    """Files that hold a secret: in their bytes, in a table's texts, in a database's rows, or compressed."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in skip:
            continue
        texts = [path.read_bytes()]
        if path.suffix == ".parquet":
            texts.append(str(pl.read_parquet(path).to_dicts()).encode())
        if path.suffix == ".db":
            with sqlite3.connect(path) as held:
                tables = [row[0] for row in held.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                for table in tables:
                    for row in held.execute(f"SELECT * FROM '{table}'"):
                        texts += [_plain(value) for value in row if isinstance(value, str | bytes)]
        found += [f"{secret} in {path}" for secret in SECRETS if any(secret.encode() in text for text in texts)]
    return found


def _plain(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def echo(request: Request) -> Reply:
    """What careless endpoints say: the key itself, in errors and in the reply."""
    key = request.headers["authorization"].removeprefix("Bearer ")
    match len(request.text) % 4:
        case 0:
            return error(400, f"Incorrect API key provided: {key}.")
        case 1:
            return rating(4, reason=f"I was asked with {key}")
        case 2:
            return completion(f"no rating for {key}")
        case _:
            return completion(json.dumps({"rating": f"{key}"}))


def test_no_secret_is_written_or_printed_whatever_fails(tmp_path: Path, web: str) -> None:
    graph = Graph(tmp_path)
    good = {"path": f"http://ann:{PASSWORD}@{web}/rows.json?token={TOKEN}"}
    sources: dict[str, dict[str, Any]] = {
        "good": good,
        "broken": {"path": f"http://ann:{PASSWORD}@{web}/other.json?token={TOKEN}&x=1"},
        "unreachable": {"path": f"https://ann:{PASSWORD}@127.0.0.1:9/x.json"},
        "bucket": {
            "path": "s3://bucket/x.json",
            "storage_options": {"key": "AKIAEXAMPLE", "secret": OPTION, "endpoint_url": "http://127.0.0.1:9"},
        },
        "wrong": {"path": "memory://x.json", "storage_options": {"nosuch": OPTION}},
    }
    recipes = {"best": {"strategy": "topk:grade", "budget": 1}}
    told = []
    with OpenAIServer(lambda request: error(401, f"wrong key {request.headers['authorization']}")) as server:
        url = server.base_url.replace("://", f"://judge:{PASSWORD}@")
        graph.settings(
            sources=sources, coresets=recipes, warmup=TINY, parts={"rows": 3},
            grader={"base_url": url, "model": "judge", "api_key": {"env": "JUDGE"}, "max_retries": 0},
        )  # fmt: skip
        told += [dselect(tmp_path, "plan"), dselect(tmp_path, "refresh", "--debug")]
        assert "failed dependability_grades [good]" in told[1]
        assert "***" in told[1]
        assert "authorization" in server.requests[0].headers
        server.answer = echo
        grader = {"base_url": server.base_url, "model": "judge", "api_key": {"env": "JUDGE"}, "max_retries": 0}
        graph.settings(sources={"good": good}, grader=grader)
        told += [dselect(tmp_path, "refresh"), dselect(tmp_path, "status")]
        assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        server.answer = lambda request: rating(4, reason=f"said with {request.headers['authorization']}")
        graph.settings(grader=grader | {"model": "other"})
        told += [dselect(tmp_path, "refresh")]
        assert graph.manifest("best")["counts"]["rows"] == 1
    samples = pl.read_parquet(tmp_path / ".dselect" / "raw" / "good" / "samples.parquet")
    told += [dselect(tmp_path, "why", samples["sample_id"][0])]
    (tmp_path / "dselect.yaml").write_text(f"sources: {{a: {{path: 'http://u:{PASSWORD}@h/x\n: ]")
    told += [dselect(tmp_path, "plan", "--debug")]
    (tmp_path / "dselect.yaml").write_text(f"sources: {{a: {{path: [{{'http://u:{PASSWORD}@h/x': 1}}]}}}}\n")
    told += [dselect(tmp_path, "plan")]
    for secret in SECRETS:
        assert secret not in "\n".join(told), [text for text in told if secret in text]
    assert leaks(tmp_path, skip={"dselect.yaml"}) == []


def test_the_search_finds_what_it_should(tmp_path: Path) -> None:
    pl.DataFrame({"a": [f"x {KEY}"] * 100}).write_parquet(tmp_path / "a.parquet", compression="zstd")
    with sqlite3.connect(tmp_path / "a.db") as held:
        held.execute("CREATE TABLE t (x)")
        held.execute("INSERT INTO t VALUES (?)", [zlib.compress(PASSWORD.encode())])
    assert [leak.partition(" in ")[0] for leak in leaks(tmp_path, set())] == [PASSWORD, KEY]
