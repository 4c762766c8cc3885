"""dselect.yaml: what it means, relative to where it lies, and the schema that is shipped with it."""

import bz2
import json
import lzma
import os
from pathlib import Path

import jsonschema
import polars as pl
import pytest
import yaml

from dselect_core.corpus.starter_config import make_starter_config
from dselect_core.errors import DselectError
from dselect_core.pool.corpus_index import needed_kinds
from dselect_core.select.budget import Budget
from dselect_core.settings.settings import SCHEMA_FILE, Settings, json_schema, load_settings

ROOT = Path(__file__).parents[2]


def test_local_paths_are_relative_to_the_file_and_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    text = {
        "sources": {"a": {"path": ["x.json", "s3://b/*.json"]}, "b": {"dataset": "org/name"}},
        "model": {"path": "models/mine"},
        "embeddings": {"path": "BAAI/bge-large-en-v1.5"},
        "coresets": {"c": {"strategy": "d3", "budget": "10%"}},
    }
    (tmp_path / "dselect.yaml").write_text(yaml.safe_dump(text))
    settings = load_settings(tmp_path / "dselect.yaml")
    assert settings.sources["a"].paths == [str(tmp_path / "x.json"), "s3://b/*.json"]
    assert settings.sources["b"].dataset == "org/name"
    assert settings.storage == str(tmp_path / ".dselect")
    assert settings.model.path == str(tmp_path / "models" / "mine")
    assert settings.embeddings.path == "BAAI/bge-large-en-v1.5"
    assert settings.coresets["c"].budget == Budget("percent", 10)


def test_the_shipped_schema_is_that_of_the_settings_and_takes_the_files_we_ship(tmp_path: Path) -> None:
    shipped = json.loads(SCHEMA_FILE.read_text())
    assert shipped == json_schema(), "run `python -m dselect_core.settings.settings` to write it again"
    (tmp_path / "a.json").write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    for text in ((ROOT / "dselect.yaml").read_text(), make_starter_config(tmp_path, tmp_path)[0]):
        jsonschema.validate(yaml.safe_load(text), shipped)
        Settings.model_validate(yaml.safe_load(text))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"sources": {}, "coresets": {}, "modle": {}}, shipped)


def test_a_starter_config_keeps_its_comments_apart_from_long_and_odd_paths(tmp_path: Path) -> None:
    """YAML asks for a space before `#`; PyYAML does without, editors do not."""
    folder = tmp_path / "a folder: of {odd} names, and a rather long one #1"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}')
    text, descriptions, _ = make_starter_config(folder, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("  rows:")]
    assert line.endswith(f"}}  # {descriptions['rows']}")
    source = Settings.model_validate(yaml.safe_load(text)).sources["rows"]
    assert source.paths == [f"{folder.name}/rows.jsonl"]


def test_a_starter_config_has_every_readable_file_and_names_all_others(tmp_path: Path) -> None:
    row = b'{"instruction": "a", "output": "b"}\n'
    folder = tmp_path / "f"
    (folder / "sub" / "_hidden").mkdir(parents=True)
    (folder / "notes").mkdir()
    readable = {"kept.jsonl": row, "more.jsonl.bz2": bz2.compress(row), "pressed.ndjson.xz": lzma.compress(row)}
    for name, body in readable.items():
        (folder / name).write_bytes(body)
    pl.DataFrame({"prompt": ["p"], "completion": ["c"]}).write_parquet(folder / "small.pq")
    pl.DataFrame({"prompt": ["p"], "completion": ["c"]}).write_ipc(folder / "other.ipc")
    unread = ["table.csv", "table.tsv", "LICENSE", "sub/inner.csv", "sub/_hidden/x.json", "notes/read.me"]
    for name in ("sub/kept.json", *unread):
        (folder / name).write_bytes(b"instruction,output\nHi,Hello\n" if name.endswith("csv") else row)
    text, sources, not_read = make_starter_config(folder, tmp_path)
    assert list(sources) == ["kept", "more", "other", "pressed", "small", "sub"]
    assert all("1 samples" in description for description in sources.values())
    assert not_read == [
        "not read: CSV: sub/inner.csv, table.csv",
        "not read: TSV: table.tsv",
        "not read: hidden by the name of the file or its folder: sub/_hidden/x.json",
        "not read: no data files in it: notes",
        "not read: no ending of a data file: LICENSE",
    ]
    assert set(not_read) <= {line.strip().removeprefix("# ") for line in text.splitlines()}
    Settings.model_validate(yaml.safe_load(text))


def test_a_starter_config_chooses_not_from_what_is_for_measuring(tmp_path: Path) -> None:
    apart = ["dev", "gsm8k_test", "EVAL.v2", "held-out", "my-validation-set"]
    for name in [*apart, "latest", "devices", "contest", "train"]:
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    text, _, _ = make_starter_config(tmp_path, tmp_path)
    assert Settings.model_validate(yaml.safe_load(text)).sources_of("eval") == sorted(apart)
    (line,) = [line for line in text.splitlines() if line.startswith("  dev:")]
    assert "role: eval}" in line
    assert "# eval, by its name: never chosen from; 1 rows in" in line


def test_a_starter_config_leaves_something_to_choose_from(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    text, _, _ = make_starter_config(tmp_path, tmp_path)
    assert Settings.model_validate(yaml.safe_load(text)).sources_of("train") == ["test"]


def test_a_folder_of_unreadable_files_only_is_an_error_that_names_them(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.csv").write_text("instruction,output")
    with pytest.raises(DselectError, match=r"no data files.*; not read: CSV: 0\.csv, .*4\.csv and 2 more"):
        make_starter_config(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "name", ["a\nb #1", "q\"'\\", "tab\there", "e\x1b[2J", "a...b", "n" * 240, "ü" * 120, "\u202ex"]
)
def test_a_starter_config_can_be_read_whatever_its_files_are_called(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.json").write_text('[{"instruction": "a", "output": "b"}]')
    text, sources, _ = make_starter_config(tmp_path, tmp_path)
    (spec,) = Settings.model_validate(yaml.safe_load(text)).sources.values()
    assert spec.paths == [f"{name}.json"]
    (source,) = sources
    assert len(source.encode()) <= 100
    assert "\x1b" not in text


def test_a_file_whose_name_no_settings_can_hold_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"instruction": "a", "output": "b"}]')
    try:
        (tmp_path / os.fsdecode(b"b\xff.json")).write_text("[]")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (line,) = make_starter_config(tmp_path, tmp_path).not_read
    assert line.startswith("not read: the name is not UTF-8") and line.endswith(r"b\udcff.json")


def test_only_what_a_recipe_reads_is_needed() -> None:
    def needed(**coresets: object) -> frozenset[str]:
        return needed_kinds(Settings.model_validate({"sources": {}, "coresets": coresets}))

    assert needed(r={"strategy": "random", "budget": 3}) == frozenset()
    assert needed(r={"strategy": "random", "budget": "90 tokens"}) == {"difficulty"}
    assert needed(m={"strategy": "miwv", "budget": 3}) == {"miwv", "prompts", "difficulty"}
    assert needed(k={"strategy": "kcenter", "budget": 3}, a={"strategy": "mads", "budget": 3}) == {
        "embeddings",
        "activations",
    }
