"""`dselect` as a person types it: each command in a process of its own, and the UI over HTTP."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.e2e.conftest import WORDS
from tests.e2e.graph import TINY, alpaca

DSELECT = [str(Path(sys.executable).with_name("dselect"))]


def dselect(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "DSELECT_CONFIG")}
    done = subprocess.run(
        [*DSELECT, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    # Words, whatever the width of the terminal made of the lines.
    return re.sub(r"\s+", " ", done.stdout + done.stderr)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, taken through init and a first refresh."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "files" / "chat").mkdir(parents=True)
    (folder / "files" / "tasks.json").write_text(json.dumps(alpaca(WORDS)))
    turns = [[{"from": "human", "value": f"Hi {w}"}, {"from": "gpt", "value": f"Hello {w}!"}] for w in WORDS]
    lines = [json.dumps({"conversations": turn}) for turn in turns]
    (folder / "files" / "chat" / "one.jsonl").write_text("\n".join([*lines, "{broken"]))
    told = dselect(folder, "init", "files")
    assert "source chat: 21 rows in 1 file(s), sharegpt: 20 samples, 0 duplicates, 1 quarantined" in told
    config = folder / "dselect.yaml"
    written = yaml.safe_load(config.read_text())
    assert written["sources"] == {"chat": {"path": "files/chat"}, "tasks": {"path": "files/tasks.json"}}
    config.write_text(config.read_text() + "\n" + yaml.safe_dump({"warmup": TINY}))
    assert "not made" not in dselect(folder, "refresh")
    return folder


def test_the_first_refresh_made_three_coresets_and_the_second_has_nothing_to_do(project: Path) -> None:
    told = dselect(project, "refresh")
    assert "Nothing to do" in told
    assert "Warning" not in told
    for recipe in ("d3-10pct", "mads-10pct", "random-10pct"):
        assert f".dselect/coresets/{recipe}" in told
    assert "Everything is up to date." in dselect(project, "status")


def test_status_says_what_is_stale_and_why(project: Path) -> None:
    config = project / "dselect.yaml"
    held = config.read_text()
    try:
        config.write_text(held.replace("budget: 10%", "budget: 20%") + "difficulty: {beta: 2.0}\n")
        told = dselect(project, "status")
        assert "recipe d3-10pct is changed" in told
        assert "difficulty_scores[tasks] is stale: its settings or code changed" in told
    finally:
        config.write_text(held)
    assert "Everything is up to date." in dselect(project, "status")


def test_init_does_not_write_over_a_file_and_says_when_there_is_no_data(project: Path, tmp_path: Path) -> None:
    assert "dselect.yaml is there already" in dselect(project, "init", "files", code=2)
    assert "no data files" in dselect(tmp_path, "init", ".", code=2)


def test_errors_are_messages_and_not_tracebacks(tmp_path: Path, project: Path) -> None:
    told = dselect(tmp_path, "refresh", code=2)
    assert "no such file. Write one with `dselect init FOLDER`" in told
    assert "Traceback" not in told
    assert "no recipe 'd4'" in dselect(project, "refresh", "--recipe", "d4", code=2)
    assert "--select: AssetKey(s) ['nosuch']" in dselect(project, "plan", "--select", "nosuch", code=2)


def test_brackets_that_a_person_types_are_printed_as_they_are(tmp_path: Path) -> None:
    told = dselect(tmp_path, "plan", "-c", "cfg[/old].yaml", code=2)
    assert "cfg[/old].yaml: no such file" in told
    assert "Traceback" not in told
    assert "No such command 'pl[/an]'" in dselect(tmp_path, "pl[/an]", code=2)
    assert "--port" in dselect(tmp_path, "dev", "--port", "[red]80", code=2)


def test_brackets_in_globs_and_in_samples_are_printed_as_they_are(tmp_path: Path) -> None:
    settings = {
        "sources": {"none": {"path": "data/[abc]*.json"}, "file": {"path": "f[red].json"}},
        "coresets": {"r": {"strategy": "random", "budget": 1}},
        "warmup": TINY,
    }
    (tmp_path / "dselect.yaml").write_text(yaml.safe_dump(settings))
    text = "[INST] Say [/INST] and [red]"
    (tmp_path / "f[red].json").write_text(
        json.dumps([{"instruction": text, "input": "", "output": "[/INST] :warning:"}])
    )
    assert "data/[abc]*.json" in dselect(tmp_path, "plan")
    told = dselect(tmp_path, "refresh", code=1)
    assert "failed" in told
    assert "data/[abc]*.json" in told
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.json").write_text(json.dumps(alpaca(WORDS[:2])))
    dselect(tmp_path, "refresh")
    samples = pl.read_parquet(tmp_path / ".dselect" / "raw" / "file" / "samples.parquet")
    told = dselect(tmp_path, "why", samples["sample_id"][0])
    assert f"user: {text} assistant: [/INST] :warning:" in told
    assert "f[red].json, row 1" in told


def test_export_copies_one_form_or_all(project: Path, tmp_path: Path) -> None:
    dselect(project, "export", "d3-10pct", str(tmp_path / "one"), "--format", "messages")
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["coreset.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "one" / "coreset.jsonl").read_text().splitlines()]
    assert [m["role"] for m in rows[0]["messages"]] == ["user", "assistant"]
    dselect(project, "export", "d3-10pct", str(tmp_path / "all"))
    assert {p.name for p in (tmp_path / "all").iterdir()} >= {"manifest.json", "order.parquet", "dataset"}
    assert "unknown format 'csv'" in dselect(project, "export", "d3-10pct", str(tmp_path), "--format", "csv", code=2)


def graphql(port: int, query: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def test_dev_shows_the_graph_and_the_runs_that_refresh_made(project: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "DSELECT_CONFIG")}
    server = subprocess.Popen(
        [*DSELECT, "dev", "--port", str(port)],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        nodes: list[dict[str, Any]] = []
        deadline = time.monotonic() + 120
        while not nodes and time.monotonic() < deadline:
            time.sleep(1)
            try:
                nodes = graphql(port, "{ assetNodes { assetKey { path } staleStatus groupName } }")["assetNodes"]
            except OSError:
                continue
        assert len(nodes) == 14
        runs = graphql(port, "{ runsOrError { ... on Runs { results { status tags { key value } } } } }")
        results = runs["runsOrError"]["results"]
        assert results
        assert {run["status"] for run in results} == {"SUCCESS"}
        assert all({"key": "dselect/command", "value": "refresh"} in run["tags"] for run in results)
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)
