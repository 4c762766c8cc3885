"""S3 through fsspec: the real s3fs against moto's server on loopback."""

import gzip
import json
import uuid
from typing import Any

import pytest
import s3fs

from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.source_files import files_signature
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec


@pytest.fixture
def bucket(s3: dict[str, Any]) -> str:
    name = f"bucket-{uuid.uuid4()}"
    # The writer shares no cache with the reader, as in life.
    writer = s3fs.S3FileSystem(**s3, skip_instance_cache=True)
    writer.mkdir(name)
    put(s3, f"{name}/t0/a.jsonl.gz", gzip.compress(rows("1", "2")))
    put(s3, f"{name}/t0/b.json", json.dumps([{"instruction": "1", "output": "a"}]).encode())
    return name


def put(s3: dict[str, Any], path: str, body: bytes) -> None:
    s3fs.S3FileSystem(**s3, skip_instance_cache=True).pipe_file(path, body)


def rows(*prompts: str) -> bytes:
    return "".join(json.dumps({"prompt": prompt, "completion": "a"}) + "\n" for prompt in prompts).encode()


@pytest.mark.parametrize("path", ["t0", "t0/", "t0/*", "**/*.js*"])
def test_prefixes_and_globs(s3: dict[str, Any], bucket: str, path: str) -> None:
    got = ingest("s", SourceSpec(path=f"s3://{bucket}/{path}", storage_options=s3))
    assert (got.rows, got.samples.height, got.duplicates) == (3, 2, 1)
    assert [file.file for file in got.files] == [f"s3://{bucket}/t0/a.jsonl.gz", f"s3://{bucket}/t0/b.json"]


def test_the_signature_sees_what_others_wrote(s3: dict[str, Any], bucket: str) -> None:
    spec = SourceSpec(path=f"s3://{bucket}/t0/*", storage_options=s3)
    signatures = [files_signature(spec), files_signature(spec)]
    put(s3, f"{bucket}/t0/a.jsonl.gz", gzip.compress(rows("1", "3")))
    signatures.append(files_signature(spec))
    put(s3, f"{bucket}/t0/c.jsonl", rows("4"))
    signatures.append(files_signature(spec))
    assert signatures[0] == signatures[1] and len(set(signatures)) == 3
    assert signatures[-1] == (got := ingest("s", spec)).signature and got.rows == 4


def test_parquet_is_read_by_range(s3: dict[str, Any], bucket: str) -> None:
    import polars as pl

    fs = s3fs.S3FileSystem(**s3)
    with fs.open(f"{bucket}/x.parquet", "wb") as file:
        pl.DataFrame({"prompt": ["1", "2"], "completion": ["a", "b"], "vector": [[0.0]] * 2}).write_parquet(file)
    assert ingest("s", SourceSpec(path=f"s3://{bucket}/x.parquet", storage_options=s3)).samples.height == 2


def test_a_saved_dataset(s3: dict[str, Any], bucket: str) -> None:
    import datasets

    saved = datasets.Dataset.from_list([{"prompt": "1", "completion": "a"}])
    saved.save_to_disk(f"s3://{bucket}/saved", storage_options=s3)
    for spec in ({"dataset": f"s3://{bucket}/saved"}, {"path": f"s3://{bucket}/saved"}):
        got = ingest("s", SourceSpec.model_validate({**spec, "storage_options": s3}))
        assert got.rows == 1 and got.files[0].file == f"s3://{bucket}/saved"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{bucket}/t0/gone.jsonl", "no such file or folder. Mend `path`"),
        ("{bucket}/gone/*", "the glob matches no file. Mend `path`"),
        ("no-such-bucket/x", "no such file or folder"),
    ],
)
def test_a_place_that_is_not_there(s3: dict[str, Any], bucket: str, path: str, message: str) -> None:
    url = f"s3://{path.format(bucket=bucket)}"
    with pytest.raises(DselectError) as failed:
        ingest("s", SourceSpec(path=url, storage_options=s3))
    assert str(failed.value).startswith(f"{url}: {message}")


def test_an_endpoint_that_does_not_answer(s3: dict[str, Any]) -> None:
    closed = {**s3, "endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(DselectError, match=r"s3://b/x\.jsonl: cannot be listed \(.*Check the address, the credentials"):
        files_signature(SourceSpec(path="s3://b/x.jsonl", storage_options=closed))
