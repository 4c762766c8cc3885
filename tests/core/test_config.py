"""dselect.yaml: what it means, relative to where it lies, and the schema that is shipped with it."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from dselect_core.corpus.starter_config import make_starter_config
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
    text, descriptions = make_starter_config(folder, tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("  rows:")]
    assert line.endswith(f"}}  # {descriptions['rows']}")
    source = Settings.model_validate(yaml.safe_load(text)).sources["rows"]
    assert source.paths == [f"{folder.name}/rows.jsonl"]


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
