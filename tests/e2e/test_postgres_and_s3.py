"""A team's own storage, all of it real: sources, tables and exports on S3, the Dagster instance on PostgreSQL.

As the files in deploy/ set it up, on loopback. The S3 server dies in the middle of a refresh; once it is back, two
processes, each with a folder of its own as on two machines, go on at once.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from dselect_core.coreset.export import export_coreset
from dselect_dagster.cli.failures import explain
from dselect_dagster.defs.progress_log import listen_to_progress
from dselect_dagster.refresh.instance import hold_refresh_lock, open_instance
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, errors, made
from tests.e2e.killed_refresh import environment
from tests.postgresql import USER, postgresql, texts
from tests.seaweedfs import SeaweedFS
from tests.tiny import save_llama

ROOT = Path(__file__).parents[2]
KEY, SECRET, PASSWORD = "AKIA0dselect0test", "s3-secret-0f9e8d7c", "pg-secret-6b5a4c3d"
FILES = {"0.json": alpaca(WORDS), "1.json": [*alpaca(WORDS[:8], offset=50), alpaca(WORDS)[0]]}
RECIPES = {"d3": {"strategy": "d3", "budget": "40%"}}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("s3"), KEY, SECRET)
    server.start()
    server.client().mkdir("corpus")
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _credentials(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    where = {"AWS_ENDPOINT_URL": s3.url, "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in {**pair, **where, "DAGSTER_HOME": ""}.items():
        monkeypatch.setenv(name, value)


def use_postgresql(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """The environment that deploy/dagster.yaml reads."""
    values = {"HOST": "127.0.0.1", "PORT": str(port), "USER": USER, "PASSWORD": PASSWORD, "DB": USER}
    for name, value in values.items():
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", value)


class Deployed(Graph):
    """A graph whose instance is that of deploy/dagster.yaml."""

    def home(self, name: str) -> str:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "deploy" / "dagster.yaml", folder)
        return str(folder)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        os.environ["DAGSTER_HOME"] = self.home("home")
        with open_instance(self.config) as instance:
            yield instance


def test_as_on_a_disk_through_an_outage_and_by_two_processes_at_once(
    s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"path": str(save_llama(tmp_path / "model"))}
    local = Graph(tmp_path / "local", dg.DagsterInstance.ephemeral())
    (local.folder / "data").mkdir(parents=True)
    store = s3.client()
    for name, rows in FILES.items():
        (local.folder / "data" / name).write_text(json.dumps(rows))
        store.pipe_file(f"corpus/in/{name}", json.dumps(rows).encode())
    local.settings(model=model, coresets=RECIPES, sources={"a": {"path": "data/*.json"}})
    assert ("coreset", "d3") in made(local.refresh())

    graph = Deployed(tmp_path / "remote")
    graph.folder.mkdir()
    graph.settings(
        model=model, coresets=RECIPES, storage="s3://corpus/out", sources={"a": {"path": "s3://corpus/in/*.json"}}
    )
    with postgresql(PASSWORD) as port:
        use_postgresql(monkeypatch, port)
        dies_under_the_scoring(s3, graph)
        s3.start()
        told = by_two_processes_at_once(graph)
        written = b"".join(texts(port, PASSWORD))

    manifest = json.loads(store.cat_file("corpus/out/coresets/d3/manifest.json"))
    assert manifest["counts"] == local.manifest("d3")["counts"]
    folder = f"corpus/out/coresets/d3/{manifest['folder']}"
    assert pl.read_parquet(store.cat_file(f"{folder}/order.parquet")).equals(local.order("d3"))
    export_coreset(graph.workspace.coreset("d3"), "s3://corpus/published/d3", "messages")
    assert store.cat_file("corpus/published/d3/coreset.jsonl") == store.cat_file(f"{folder}/coreset.jsonl")

    written += b"".join(store.cat(store.find("corpus")).values()) + told.encode()
    written += b"".join(path.read_bytes() for path in graph.folder.rglob("*") if path.is_file())
    assert b"raw_dataset" in written
    for secret in (KEY, SECRET, PASSWORD):
        assert secret.encode() not in written


def dies_under_the_scoring(s3: SeaweedFS, graph: Graph) -> None:
    def scored(unit: str, *_: int) -> None:
        if "difficulty" in unit:
            s3.stop()

    with listen_to_progress(scored):
        broken = graph.refresh()
    assert [(run.partition, list(run.errors)) for run in broken.failed] == [("a", ["score_source"])]
    for said in (errors(broken), broken.broken_off or ""):
        assert said.startswith("the object store does not answer: ") and s3.url in said
        assert said.endswith("then run the command again: what was finished is kept.") and len(said.splitlines()) == 1
    with pytest.raises(Exception) as raised:
        graph.plan()
    assert explain(raised.value)[0].startswith("the object store does not answer: ")


def by_two_processes_at_once(graph: Deployed) -> str:
    """What the second one printed. It starts while this one is at work, and this one ends once the other waits."""
    with (
        graph.instance() as instance,
        hold_refresh_lock(graph.config, instance, lambda: pytest.fail("nobody else yet")),
    ):
        other = subprocess.Popen(
            [sys.executable, "-m", "dselect_dagster.cli", "refresh"], cwd=graph.folder, text=True,
            env=environment(DAGSTER_HOME=graph.home("other"), PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        done = made(graph.refresh())
        assert ("coreset", "d3") in done and ("raw_dataset", "a") not in done  # what was landed before stands
        assert other.stdout is not None
        waits = other.stdout.readline()
        assert "Another refresh is at work" in waits
    told, _ = other.communicate(timeout=120)
    assert other.returncode == 0 and "Nothing to do" in told, told
    return waits + told


def test_a_refusal_and_a_database_that_is_down_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Deployed(tmp_path)
    graph.source("a", FILES["1.json"])
    graph.settings(
        sources={"a": {"path": "data/a.json"}}, storage="s3://corpus/other",
        storage_options={"key": KEY, "secret": "wr0ng-secret"}, coresets={"some": {"strategy": "random", "budget": 2}},
    )  # fmt: skip
    with pytest.raises(Exception) as raised:
        Graph(tmp_path, dg.DagsterInstance.ephemeral()).plan()
    said, _ = explain(raised.value)
    assert said.startswith("the object store refuses: ") and "credentials" in said and "wr0ng" not in said
    use_postgresql(monkeypatch, port=9)
    with pytest.raises(Exception) as raised, graph.instance():
        pass
    said, _ = explain(raised.value)
    assert said.startswith("Dagster's database fails (") and "port 9" in said and PASSWORD not in said
