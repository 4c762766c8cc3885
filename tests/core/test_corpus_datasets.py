"""Hugging Face `datasets`: folders of save_to_disk and of data files, and, from a hub on loopback, by name and hf://.

The hub speaks the part of the real one's HTTP protocol that reading a dataset needs (repository information,
listings, files with ranges), so the real `datasets`, `huggingface_hub` and fsspec clients run. A repository is a
folder; its only commit is the hash of its files.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import pytest

from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.source_files import files_signature
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec

ROWS = [{"prompt": "1", "completion": "a", "id": 7}, {"prompt": "2", "completion": " ", "id": 8}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# --- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["dataset", "path"])
def test_a_folder_of_save_to_disk(tmp_path: Path, key: str) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    spec = SourceSpec.model_validate({key: str(folder)})
    got = ingest("s", spec)
    assert (got.rows, got.samples.height) == (2, 1) and got.balances
    assert got.quarantine.select("file", "row").rows() == [(str(folder), 2)]
    assert got.signature == files_signature(spec)


def test_of_saved_splits_the_one_of_the_spec(tmp_path: Path) -> None:
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:1])
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "saved")
    for split, rows in (("train", 2), ("test", 1)):
        got = ingest("s", SourceSpec(dataset=str(tmp_path / "saved"), split=split))
        assert got.rows == rows and got.files[0].file == str(tmp_path / "saved" / split)
    with pytest.raises(DselectError, match=r"saved: no split 'dev'\. Set `split` to one of: test, train\."):
        ingest("s", SourceSpec(dataset=str(tmp_path / "saved"), split="dev"))


def test_a_selection_of_rows_keeps_its_order_and_media_are_not_decoded(tmp_path: Path) -> None:
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "completion": datasets.Value("string"), "image": datasets.Image()}
    )
    rows = [
        {"prompt": str(i), "completion": "a", "image": {"path": None, "bytes": b"no image"} if i == 3 else None}
        for i in range(5)
    ]
    datasets.Dataset.from_list(rows, features=features).select([4, 3, 0]).save_to_disk(tmp_path / "saved")
    got = ingest("s", SourceSpec(dataset=str(tmp_path / "saved")))
    prompts = {row["messages"][0]["content"]: row["origins"][0]["row"] for row in got.samples.to_dicts()}
    assert prompts == {"4": 1, "0": 3}
    assert got.quarantine["reason"].to_list() == ["has `image`: only text can be used"]


def test_turns_of_mixed_types_as_datasets_keeps_them(tmp_path: Path) -> None:
    part = [{"type": "text", "text": "q2"}]
    rows = [[{"role": "user", "content": content}, {"role": "assistant", "content": "a"}] for content in ("q1", part)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/x.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    data = datasets.load_dataset(str(tmp_path / "raw"), split="train")
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "x.parquet")
    expected = ingest("s", SourceSpec(path=str(tmp_path / "raw"))).samples.drop("origins")
    assert expected.height == 2
    for spec in ({"dataset": str(tmp_path / "saved")}, {"path": str(tmp_path / "x.parquet")}):
        assert ingest("s", SourceSpec.model_validate(spec)).samples.drop("origins").equals(expected)


def test_a_folder_of_data_files_is_loaded_by_datasets(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "data/train.parquet")
    spec = SourceSpec(dataset=str(tmp_path / "data"))
    got = ingest("s", spec)
    assert (got.rows, got.files[0].file) == (2, f"{tmp_path / 'data'}:train")
    datasets.Dataset.from_list(ROWS[:1]).to_parquet(tmp_path / "data/train.parquet")
    assert files_signature(spec) != got.signature


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder. Mend `dataset` in the source, or put the dataset there."),
        (lambda folder: (folder.mkdir(), (folder / "state.json").write_text("{")), "cannot be loaded ("),
    ],
)
def test_a_folder_that_is_no_dataset(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(DselectError) as failed:
        ingest("s", SourceSpec(dataset=str(tmp_path / "x")))
    assert str(failed.value).startswith(f"{tmp_path / 'x'}: {message}")


def test_a_torn_arrow_file_of_a_saved_dataset(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    file = next((tmp_path / "saved").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DselectError, match=r"saved: cannot be loaded \(.*\)\. Save it again with `save_to_disk`\."):
        ingest("s", SourceSpec(dataset=str(tmp_path / "saved")))


# --- by name ---------------------------------------------------------------------------------------------------------


def _files(repo: Path) -> list[Path]:
    return sorted(path for path in repo.rglob("*") if path.is_file())


def _commit(repo: Path) -> str:
    return hashlib.sha1(b"".join(path.read_bytes() for path in _files(repo))).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    root: Path
    requested_paths: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        form = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.requested_paths.append(url.path)
        match unquote(url.path).strip("/").split("/"):
            case ["api", "datasets", org, name, "tree", _, *folder] if not self.root.joinpath(
                org, name, *folder
            ).is_dir():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            case ["api", "datasets", org, name, *rest] if (repo := self.root / org / name).is_dir():
                answer = json.dumps(self._api(repo, rest, url.query, form)).encode()
                self._send(200, answer, {"Content-Type": "application/json"})
            case ["datasets", org, name, "resolve", _, *path] if (
                file := self.root.joinpath(org, name, *path)
            ).is_file():
                self._file(self.root / org / name, file)
            case ["datasets", org, name, "resolve", *_] if (repo := self.root / org / name).is_dir():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _commit(repo)})
            case _:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_POST = do_GET

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _api(self, repo: Path, rest: list[str], query: str, form: bytes) -> object:
        match rest:
            case ["tree", _, *folder]:
                top = repo.joinpath(*folder)
                return [
                    self._entry(repo, p)
                    for p in (top.rglob("*") if "recursive=true" in query.lower() else top.iterdir())
                ]
            case ["paths-info", _]:
                paths = (json.loads(form) if form.startswith(b"{") else parse_qs(form.decode()))["paths"]
                return [self._entry(repo, repo / path) for path in paths if (repo / path).exists()]
        siblings = [{"rfilename": str(path.relative_to(repo))} for path in _files(repo)]
        return {
            "id": str(repo.relative_to(self.root)),
            "sha": _commit(repo),
            "siblings": siblings,
            "private": False,
            "tags": [],
        }

    def _entry(self, repo: Path, path: Path) -> dict[str, object]:
        body = path.read_bytes() if path.is_file() else b""
        kind = "file" if path.is_file() else "directory"
        return {
            "type": kind,
            "path": str(path.relative_to(repo)),
            "oid": hashlib.sha1(body).hexdigest(),
            "size": len(body),
        }

    def _file(self, repo: Path, file: Path) -> None:
        body = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": _commit(repo)}
        wanted = self.headers.get("Range")
        if wanted is None or self.command == "HEAD":
            self._send(200, body, headers)
            return
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = body[int(start) : int(end or len(body)) + 1]
        self._send(206, part, {**headers, "Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}"})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """The hub's folder, its address, and the paths that were requested from it."""
    root, requested_paths = tmp_path / "hub", list[str]()
    root.mkdir()
    handler = type("OneHub", (Hub,), {"root": root, "requested_paths": requested_paths})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{server.server_port}", requested_paths
    server.shutdown()
    server.server_close()


# The hub's address is read once, when its client is imported: hence a process of its own.
SCRIPT = """
import json, sys
from dselect_core.settings.settings import SourceSpec
from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.source_files import files_signature
from dselect_core.errors import DselectError
for spec in json.loads(sys.argv[1]):
    try:
        signature = files_signature(SourceSpec(**spec))
        got = ingest("s", SourceSpec.model_validate(spec))
        files = [file.file for file in got.files]
        answer = [files, got.rows, got.samples.height, got.balances, got.signature == signature, signature]
    except DselectError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""


REMEDY = (
    "No folder has that name either: check it; `hf auth login` for a private dataset; set `revision` to a commit "
    "to work from the cache."
)


def on_hub(address: str, home: Path, *specs: dict[str, Any]) -> list[Any]:
    online = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "0")
    env = {
        **os.environ,
        **online,
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = [sys.executable, "-c", SCRIPT, json.dumps(specs)]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_dataset_by_name_and_by_url(tmp_path: Path, hub: tuple[Path, str, list[str]]) -> None:
    root, address, requested_paths = hub
    train = root / "org/data/data/train.jsonl"
    train.parent.mkdir(parents=True)
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    url = "hf://datasets/org/data"
    specs = [
        {"dataset": "org/data"},
        {"path": url},
        {"path": f"{url}/data/*.jsonl"},
        {"path": f"{url}@main/data/train.jsonl"},
    ]
    first = on_hub(address, tmp_path / "home", *specs)
    at = "data/train.jsonl"
    names = ["org/data:train", f"{url}/{at}", f"{url}/{at}", f"{url}@main/{at}"]
    assert [answer[:5] for answer in first] == [[[name], 2, 1, True, True] for name in names]

    # A new commit has a new signature and is what is read, although the old one is in the cache.
    with train.open("a") as file:
        file.write(json.dumps({"prompt": "3", "completion": "c"}) + "\n")
    second = on_hub(address, tmp_path / "home", *specs)
    assert [answer[1:3] for answer in second] == [[3, 2]] * 4
    assert all(new[5] != old[5] for new, old in zip(second, first, strict=True))

    # A pinned commit needs no answer from the hub to know its version.
    requested_paths.clear()
    commit = _commit(root / "org/data")
    pinned = on_hub(address, tmp_path / "home", {"dataset": "org/data", "revision": commit})
    assert pinned[0][:3] == [["org/data:train"], 3, 2] and pinned[0][5] == second[0][5]
    assert "/api/datasets/org/data" not in requested_paths


def test_what_the_hub_does_not_have(tmp_path: Path, hub: tuple[Path, str, list[str]]) -> None:
    root, address, _ = hub
    (root / "org/data").mkdir(parents=True)
    (root / "org/data/train.jsonl").write_text(json.dumps(ROWS[0]))
    gone, split, file = on_hub(
        address,
        tmp_path / "home",
        {"dataset": "org/gone"},
        {"dataset": "org/data", "split": "dev"},
        {"path": "hf://datasets/org/data/gone.jsonl"},
    )
    assert gone.startswith("org/gone: cannot be loaded (RepositoryNotFoundError: 404 Client Error")
    assert gone.endswith(REMEDY)
    assert split == (
        "org/data:dev: cannot be loaded (ValueError: Unknown split \"dev\". Should be one of ['train'].). "
        "Check `dataset`, `name` and `split`."
    )
    assert file.startswith("hf://datasets/org/data/gone.jsonl: no such file or folder")


def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    (answer,) = on_hub("http://127.0.0.1:9", tmp_path / "home", {"dataset": "org/data"})
    assert answer.startswith("org/data: cannot be loaded (ConnectError")
    assert answer.endswith(REMEDY)
