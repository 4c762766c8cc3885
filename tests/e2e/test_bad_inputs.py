"""Bad input and the message it gives: the file, row or key, and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dselect_core.errors import DselectError
from dselect_core.settings.settings import load_settings
from tests.e2e.conftest import WORDS
from tests.e2e.graph import TINY, Graph, alpaca, errors, materialised
from tests.tiny import save_llama

RANDOM = {"r": {"strategy": "random", "budget": "10%"}}


def refused(tmp_path: Path, **settings: Any) -> str:
    """The message of settings that are refused when they are read."""
    path = tmp_path / "dselect.yaml"
    path.write_text(yaml.safe_dump({"sources": {"a": {"path": "a.json"}}, "coresets": RANDOM} | settings))
    with pytest.raises(DselectError) as error:
        load_settings(path)
    assert str(path) in str(error.value)
    return str(error.value)


def project(tmp_path: Path, **settings: Any) -> Graph:
    graph = Graph(tmp_path)
    graph.source("a", alpaca(WORDS))
    graph.settings(**{"sources": {"a": {"path": "data/a.json"}}, "coresets": RANDOM, "warmup": TINY} | settings)
    return graph


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": {"path": "x"}}, "modle: unknown key `modle`; did you mean `model`?"),
        ({"warmup": {"step": 3}}, "warmup.step: unknown key `step`; did you mean `steps`?"),
        ({"sources": {"a": {"pth": "x", "path": "a"}}}, "sources.a.pth: unknown key `pth`; did you mean `path`?"),
        ({"coresets": {"c": {"strategy": "d3", "budgets": 1, "budget": 1}}}, "did you mean `budget`?"),
        ({"coresets": {"c": {"strategy": "d4", "budget": 1}}}, "unknown strategy `d4`; did you mean `d3`?"),
        ({"coresets": {"c": {"strategy": "topk:udp", "budget": 1}}}, "did you mean `topk:upd`?"),
        ({"coresets": {"c": {"strategy": "d3", "budget": -5}}}, "coresets.c.budget: budget -5 must be above zero"),
        ({"coresets": {"c": {"strategy": "d3", "budget": "120%"}}}, "budget '120%' is over 100%"),
        ({"coresets": {"c": {"strategy": "d3", "budget": "lots"}}}, "budget 'lots' is not understood"),
        ({"coresets": {"c": {"strategy": "d3"}}}, "coresets.c.budget: this key is required"),
        ({"sources": {"a": {}}}, "sources.a: give either `path` (files) or `dataset`"),
        ({"sources": {"a/b": {"path": "x"}}}, "source name 'a/b': use letters, digits"),
        ({"sources": {"a": {"path": "x", "format": "csv"}}}, "sources.a.format"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, **settings)


def test_no_settings_at_all(tmp_path: Path) -> None:
    with pytest.raises(DselectError, match=r"dselect.yaml: no such file. Write one with `dselect init FOLDER`"):
        load_settings(tmp_path / "dselect.yaml")
    (tmp_path / "dselect.yaml").write_text("sources: [")
    with pytest.raises(DselectError, match="not valid YAML"):
        load_settings(tmp_path / "dselect.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "gone.json"),
        ("empty.json", "", "empty.json"),
        ("shape.json", json.dumps([{"foo": 1, "bar": 2}] * 3), "keys found: foo, bar"),
        ("text.json", "once upon a time", "text.json"),
    ],
)
def test_a_file_that_is_bad_as_a_whole(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    graph = project(tmp_path, sources={"a": {"path": "data/a.json"}, "bad": {"path": f"data/{name}"}})
    if content is not None:
        (tmp_path / "data" / name).write_text(content)
    done = graph.refresh()
    assert message in errors(done)
    assert [run.partition for run in done.failed] == ["bad"]
    # The other source has its coreset all the same.
    assert ("coreset", "r") in materialised(done)


def test_bad_rows_are_kept_apart_with_their_reason_and_counted(tmp_path: Path) -> None:
    rows: list[Any] = [
        *alpaca(WORDS),
        {"instruction": "x", "input": "", "output": ""},
        {"instruction": 3, "output": "y"},
    ]
    graph = project(tmp_path)
    graph.source("a", rows)
    figures = materialised(graph.refresh())["raw_dataset", "a"]
    assert (figures["rows"], figures["samples"], figures["duplicates"], figures["quarantined"]) == (22, 20, 0, 2)
    table = figures["quarantine, first rows"]
    assert "the response is blank" in table
    assert "a number, not text" in table


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (21, "coreset r: budget 21 rows is larger than the pool of 20 samples"),
        ("9999999 tokens", "coreset r: budget 9999999 tokens is larger than all"),
    ],
)
def test_a_budget_the_pool_cannot_fill(tmp_path: Path, budget: Any, message: str) -> None:
    done = project(tmp_path, coresets={"r": {"strategy": "random", "budget": budget}}).refresh()
    assert message in errors(done)


def test_a_model_path_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = project(
        tmp_path, model={"path": "./nothing"}, coresets={"d": {"strategy": "topk:upd", "budget": 2}}
    ).refresh()
    assert "nothing: this folder is not a Hugging Face model (no config.json)" in errors(done)
    missing = project(tmp_path, model={"path": "./gone"}).refresh()
    assert "gone: no such folder" in errors(missing)


def test_a_tokenizer_without_a_chat_template_falls_back_and_says_so(tmp_path: Path) -> None:
    save_llama(tmp_path / "llama", template=None)
    graph = project(tmp_path, model={"path": "./llama"}, coresets={"d": {"strategy": "topk:upd", "budget": 2}})
    figures = materialised(graph.refresh())["warmup_model", None]
    assert figures["template"] == "alpaca"
    assert figures["template_is_fallback"] == "True"
    assert graph.manifest("d")["model"]["template"] == "alpaca"


def test_a_sample_longer_than_the_window_is_scored_and_flagged(tmp_path: Path) -> None:
    import polars as pl

    graph = project(
        tmp_path, coresets={"d": {"strategy": "topk:upd", "budget": 2}, "m": {"strategy": "miwv", "budget": 2}}
    )
    long = {"instruction": "long " * 900, "input": "", "output": "The end of it."}
    graph.source("a", [*alpaca(WORDS), long])
    assert not graph.refresh().failed
    table = graph.scores("difficulty")
    cut = table.filter("truncated")
    assert cut.height == 1
    assert cut["upd"].null_count() == 0
    assert cut["cut_prompt_tokens"].item() > 0
    assert cut["cut_response_tokens"].item() == 0
    miwv = pl.read_parquet(str(graph.workspace.pool_table("miwv"))).filter(
        pl.col("sample_id") == cut["sample_id"].item()
    )
    assert miwv["miwv"].item() is None
    assert miwv["reason"].item() == "no room for a shot in the window"
