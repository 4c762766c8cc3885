"""The whole graph on an object store: sources and storage on S3, over the network, on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from dselect_core.coreset.export import export_coreset
from tests.e2e.conftest import WORDS
from tests.e2e.graph import TINY, Graph, alpaca, made


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[s3fs.S3FileSystem, str]]:
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    try:
        store = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True, use_listings_cache=False)
        store.mkdir("corpus")
        yield store, endpoint
    finally:
        server.stop()


def test_sources_and_storage_on_s3(bucket: tuple[s3fs.S3FileSystem, str], tmp_path: Path) -> None:
    store, endpoint = bucket
    store.pipe_file("corpus/in/a.json", json.dumps(alpaca(WORDS)).encode())
    graph = Graph(tmp_path)
    options = {"endpoint_url": endpoint}
    graph.settings(
        warmup=TINY,
        storage="s3://corpus/out",
        storage_options=options,
        sources={"a": {"path": "s3://corpus/in/*.json", "storage_options": options}},
        coresets={"d3": {"strategy": "d3", "budget": "25%"}, "weak": {"strategy": "miwv", "budget": 2}},
    )
    assert {("coreset", "d3"), ("coreset", "weak"), ("warmup_model", None)} <= made(graph.refresh())
    assert made(graph.refresh()) == set()
    store.invalidate_cache()
    first = json.loads(store.cat_file("corpus/out/coresets/d3/manifest.json"))
    lines = store.cat_file(f"corpus/out/coresets/d3/{first['folder']}/coreset.jsonl").decode().splitlines()
    assert len(lines) == 5
    # Another object under the glob is noticed, and its rows join the pool.
    store.pipe_file("corpus/in/b.json", json.dumps(alpaca(WORDS[:4], offset=70)).encode())
    assert ("raw_dataset", "a") in made(graph.refresh())
    manifest = json.loads(store.cat_file("corpus/out/coresets/d3/manifest.json"))
    assert manifest["counts"]["pool"] == 24 and manifest["changes"]["kept"] > 0
    # One request made the new version the one in force, and who reads the old one may finish.
    assert manifest["folder"] != first["folder"]
    for version in (first, manifest):
        for name, facts in version["files"].items():
            assert store.size(f"corpus/out/coresets/d3/{version['folder']}/{name}") == facts["bytes"]
    export_coreset(graph.workspace.coreset("d3"), str(tmp_path / "copy"), "messages")
    assert len((tmp_path / "copy" / "coreset.jsonl").read_text().splitlines()) == manifest["counts"]["rows"]
    # An object that vanished, and one that is empty, are made again.
    vanished, emptied = "corpus/out/scores/difficulty/a.json", "corpus/out/corpus/index.parquet"
    store.rm_file(vanished)
    store.pipe_file(emptied, b"")
    assert {("difficulty_scores", "a"), ("corpus_index", None)} == made(graph.refresh())
    store.invalidate_cache()
    assert store.info(vanished)["size"] and store.info(emptied)["size"]
    assert made(graph.refresh()) == set()
