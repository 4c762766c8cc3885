"""Bad input and the message it gives: the file, row or key, and what to do."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dselect_core.corpus import raw_dataset
from dselect_core.errors import DselectError
from dselect_core.settings.settings import load_settings
from tests.e2e.conftest import WORDS
from tests.e2e.graph import TINY, Graph, alpaca, errors, materialised
from tests.tiny import save_llama

pytestmark = pytest.mark.some(12)

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


def test_a_source_that_goes_bad_keeps_its_rows_in_the_pool_and_others_land_are_scored_and_chosen(
    tmp_path: Path,
) -> None:
    graph = project(
        tmp_path,
        sources={"a": {"path": "data/a.json"}, "b": {"path": "data/b.json"}},
        coresets={"d": {"strategy": "topk:upd", "budget": "100%"}},
    )
    graph.source("b", alpaca(["other"] * 7))
    assert not graph.refresh().failed
    (tmp_path / "data" / "b.json").write_text('[{"instruction": "cut')
    graph.source("a", alpaca([*WORDS, "more"]))
    graph.plan()
    done = graph.refresh()
    assert [(run.partition, list(run.errors)) for run in done.failed] == [("b", ["raw_dataset"])]
    assert "b.json: broken JSON array: Unterminated string" in errors(done)
    assert "Until then the 7 samples of b that landed last stay in the pool." in errors(done)
    figures = materialised(done)
    assert figures["difficulty_scores", "a"]["rows computed"] == 1
    assert graph.order("d").height == len(WORDS) + 1 + 7


def test_a_bad_file_that_is_skipped_is_told_and_its_source_lands(tmp_path: Path) -> None:
    graph = project(tmp_path, sources={"f": {"path": "data", "on_bad_file": "skip"}})
    bad = tmp_path / "data" / "bad.jsonl.gz"
    bad.write_bytes(b"\x1f\x8b no gzip")
    (tmp_path / "data" / "notes.csv").write_text("instruction,output")
    done = graph.refresh()
    figures = materialised(done)["raw_dataset", "f"]
    assert not done.failed
    assert (figures["rows"], figures["samples"], figures["quarantined"], figures["bad files"]) == (20, 20, 0, 1)
    assert str(tmp_path / "data" / "notes.csv") in figures["files skipped, first names"]
    assert "bad.jsonl.gz" in figures["quarantine, first rows"]
    (row,) = pl.read_parquet(str(graph.workspace.quarantine("f"))).to_dicts()
    assert (row["file"], row["row"]) == (str(bad), None)
    assert row["reason"].startswith(f"bad file: {bad}: torn or unreadable")
    checks = {check.check_name: check.passed for run in done.runs for check in run.result.get_asset_check_evaluations()}
    assert checks["every_row_accounted_for"] and not checks["quarantine_is_small"]
    # Once it is mended it lands with the others.
    bad.write_bytes(gzip.compress(json.dumps(alpaca(["more"])[0]).encode()))
    figures = materialised(graph.refresh())["raw_dataset", "f"]
    assert (figures["rows"], figures["bad files"]) == (21, 0)


def test_a_value_that_stops_the_reader_of_its_format_stops_neither_plan_nor_source(tmp_path: Path) -> None:
    graph = project(tmp_path, sources={"a": {"path": "data/a.json"}, "t": {"path": "data/t.parquet"}})
    days = pa.array([0, 2**31 - 1], pa.date32())  # the second is beyond Python's calendar
    table = pa.table({"prompt": ["p", "q"], "completion": ["a", "b"], "target": days})
    pq.write_table(table, tmp_path / "data" / "t.parquet")
    assert {step.partition for step in graph.plan().steps if step.asset == "raw_dataset"} == {"a", "t"}
    figures = materialised(graph.refresh())["raw_dataset", "t"]
    assert (figures["samples"], figures["quarantined"]) == (1, 1)


def test_a_row_over_the_limit_of_its_source_is_quarantined(tmp_path: Path) -> None:
    graph = project(tmp_path, sources={"a": {"path": "data/a.json", "max_row_bytes": 2000}})
    graph.source("a", [*alpaca(WORDS), {"instruction": "long " * 900, "output": "o"}])
    figures = materialised(graph.refresh())["raw_dataset", "a"]
    assert (figures["samples"], figures["quarantined"]) == (20, 1)
    assert "larger than max_row_bytes: 4,5" in figures["quarantine, first rows"]


def test_a_new_landing_revision_lands_every_source_and_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = project(tmp_path, coresets={"d": {"strategy": "topk:upd", "budget": 2}})
    graph.refresh()
    assert graph.refresh().runs == []
    monkeypatch.setattr(raw_dataset, "_LANDING_REVISION", 10**6)
    done = graph.refresh()
    assert set(materialised(done)) == {("raw_dataset", "a")}
    assert graph.refresh().runs == []


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
    read = {"d": {"strategy": "topk:upd", "budget": 2}}
    done = project(tmp_path, model={"path": "./nothing"}, coresets=read).refresh()
    assert "nothing: this folder is not a Hugging Face model (no config.json)" in errors(done)
    missing = project(tmp_path, model={"path": "./gone"}, coresets=read).refresh()
    assert "gone: no such folder" in errors(missing)
    # What nothing reads is not looked for.
    assert project(tmp_path, model={"path": "./gone"}).refresh().is_whole


def test_a_tokenizer_without_a_chat_template_falls_back_and_says_so(tmp_path: Path) -> None:
    save_llama(tmp_path / "llama", template=None)
    graph = project(tmp_path, model={"path": "./llama"}, coresets={"d": {"strategy": "topk:upd", "budget": 2}})
    figures = materialised(graph.refresh())["warmup_model", None]
    assert figures["template"] == "alpaca"
    assert figures["template_is_fallback"] == "True"
    assert graph.manifest("d")["model"]["template"] == "alpaca"


def test_a_sample_longer_than_the_window_is_scored_and_flagged(tmp_path: Path) -> None:
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
