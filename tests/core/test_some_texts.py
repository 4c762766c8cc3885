"""Texts of some samples are those of all, filtered; and what a coreset holds are the texts that it chose."""

import json
from pathlib import Path

import polars as pl
import pytest

from dselect_core.corpus import raw_dataset
from dselect_core.corpus.raw_dataset import land_source, read_samples, samples_that_begin
from dselect_core.errors import DamagedFileError
from dselect_core.pool.corpus_index import Index
from dselect_core.pool.pool_tables import pool_samples
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two sources of 40 samples that share 20, in groups of 7 rows."""
    monkeypatch.setattr(raw_dataset, "_GROUP_ROWS", 7)
    sources = {}
    for name, first in (("a", 0), ("b", 20)):
        rows = [{"instruction": f"Say {i}", "input": "", "output": f"It is {i}."} for i in range(first, first + 40)]
        (tmp_path / f"{name}.json").write_text(json.dumps([*rows, rows[3]]))
        sources[name] = {"path": str(tmp_path / f"{name}.json")}
    settings = {"storage": str(tmp_path / "out"), "sources": sources, "coresets": {}}
    workspace = Workspace(Settings.model_validate(settings))
    for name in sources:
        land_source(workspace, name)
    return workspace


def test_some_of_the_pool_are_all_of_it_filtered(place: Workspace) -> None:
    index = Index(pl.DataFrame(), {"a": {}, "b": {}}, {}, {})
    whole = pool_samples(place, index)
    assert whole.height == 60
    for ids in (whole["sample_id"][::3], whole["sample_id"][59:], whole["sample_id"].clear(), pl.Series(["nobody"])):
        assert pool_samples(place, index, ids).equals(whole.filter(pl.col("sample_id").is_in(ids.implode())))


def test_every_beginning_of_an_id_finds_what_begins_so(place: Workspace) -> None:
    whole = read_samples(place, "a")
    for beginning in {id[:length] for id in whole["sample_id"] for length in (0, 1, 2, 32)} | {"zz", "f" * 33}:
        found = samples_that_begin(place, "a", beginning)
        assert found.equals(whole.filter(pl.col("sample_id").str.starts_with(beginning)))


def test_a_damaged_file_is_no_source_of_some_texts(place: Workspace) -> None:
    path = Path(str(place.samples("a")))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="checksum"):
        read_samples(place, "a", pl.Series(["nobody"]))
