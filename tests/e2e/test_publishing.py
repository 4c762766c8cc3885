"""`publication` in the graph, and versions of coresets in the storage: planned, made, refused and told."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from upath import UPath

from dselect_core.coreset.export import export_coreset
from tests.e2e.conftest import WORDS, InState
from tests.e2e.graph import Graph, alpaca, assert_as_planned, errors, made
from tests.e2e.test_cli import dselect

PUBLISHED = ("publication", "r")
RECIPES = {"r": {"strategy": "random", "budget": 5}, "q": {"strategy": "random", "budget": 4}}
PUBLISH: dict[str, Any] = {"to": "out", "recipes": ["r"], "license": "cc0-1.0"}


def recipes(budget: int) -> dict[str, Any]:
    return RECIPES | {"r": RECIPES["r"] | {"budget": budget}}


@pytest.fixture
def graph(tmp_path: Path, in_state: InState) -> Graph:
    """Two recipes that need no model, of which one is published."""
    graph = Graph(tmp_path / "project")
    graph.folder.mkdir()

    def make(graph: Graph) -> None:
        graph.source("a", alpaca(WORDS))
        graph.sources("a")
        graph.settings(coresets=RECIPES, publish=PUBLISH)
        planned = graph.plan()
        done = graph.refresh()
        assert PUBLISHED in made(done)
        assert_as_planned(planned, done)
        assert graph.refresh().runs == []

    return in_state(graph, make)


def pointer(graph: Graph) -> dict[str, Any]:
    return dict(json.loads((graph.folder / "out" / "r" / "latest.json").read_text()))


def test_a_coreset_that_moves_is_published_and_one_that_does_not_is_left(graph: Graph) -> None:
    first = pointer(graph)
    assert first["rows"] == 5 and not (graph.folder / "out" / "q").exists()
    graph.settings(coresets=recipes(6))
    planned = graph.plan()
    assert [(step.asset, step.partition) for step in planned.steps if step.asset == "publication"] == [PUBLISHED]
    done = graph.refresh()
    assert PUBLISHED in made(done)
    assert_as_planned(planned, done)
    assert pointer(graph)["rows"] == 6 and pointer(graph)["versions"][1] == first["version"]
    # Other terms are another version, of the same coreset.
    graph.settings(publish=PUBLISH | {"license": "mit"})
    assert made(graph.refresh()) == {PUBLISHED}
    assert pointer(graph)["license"] == "mit"
    # A recipe that comes to be published, and all that are not any more.
    graph.settings(publish=PUBLISH | {"license": "mit", "recipes": None, "keep": 2})
    assert made(graph.refresh()) == {("publication", "q")}
    graph.settings(publish=None)
    assert graph.refresh().runs == [] and "up to date" in dselect(graph.folder, "status")
    assert {path.name for path in (graph.folder / "out").iterdir()} == {"r", "q"}


def test_a_check_that_is_missing_refuses_and_is_told_until_it_is_not_required(graph: Graph) -> None:
    before = pointer(graph)
    graph.settings(coresets=recipes(6), publish=PUBLISH | {"require": ["few_chosen_are_alike"]})
    assert "if `publish.require` then holds (few_chosen_are_alike)" in [step.note for step in graph.plan().steps]
    done = graph.refresh()
    assert not done.is_whole
    assert "coreset r is not published: the check few_chosen_are_alike is missing" in errors(done)
    assert pointer(graph) == before
    told = dselect(graph.folder, "status")
    assert "publication[r] is stale" in told and "publication[r] is refused: the check few_chosen_are_alike" in told
    (step,) = graph.plan().steps
    assert step.note.startswith("refused as things stand: the check few_chosen_are_alike is missing")
    graph.settings(publish=PUBLISH)
    assert "1 runs" in dselect(graph.folder, "refresh")
    assert pointer(graph)["rows"] == 6


def test_versions_of_a_coreset_are_kept_and_one_that_does_not_move_keeps_its_changes(graph: Graph) -> None:
    def changes() -> pl.DataFrame:
        return pl.read_parquet(graph.folder / ".dselect" / "coresets" / "r" / "changes.parquet")

    graph.settings(keep_versions=2, publish=None)
    for budget in (6, 7):
        graph.settings(coresets=recipes(budget))
        assert not graph.refresh().failed
    manifest = graph.manifest("r")
    assert [len(each["folder"].split("/")) for each in manifest["versions"]] == [2, 2]
    folders = {path.name for path in (graph.folder / ".dselect" / "coresets" / "r" / "versions").iterdir()}
    assert folders == {each["folder"].split("/")[1] for each in manifest["versions"]}
    entered = changes()
    assert entered.filter(pl.col("change") == "entered").height == 1
    # The last row of the source is not chosen: without it the coreset is made again, and is what it was.
    chosen = set(graph.order("r")["sample_id"])
    rows = alpaca(WORDS)
    samples = pl.read_parquet(graph.folder / ".dselect" / "raw" / "a" / "samples.parquet")
    rows_of = {o["row"] for id, of in samples.select("sample_id", "origins").iter_rows() if id in chosen for o in of}
    last = max(set(range(1, len(rows) + 1)) - rows_of)
    graph.source("a", [row for number, row in enumerate(rows, start=1) if number != last])
    assert ("coreset", "r") in made(graph.refresh())
    assert graph.manifest("r")["versions"][1:] == manifest["versions"][1:]
    assert graph.manifest("r")["version"] == manifest["version"] and graph.manifest("r")["counts"]["pool"] == 19
    assert changes().equals(entered)
    export_coreset(UPath(graph.folder / ".dselect" / "coresets" / "r"), str(graph.folder / "copy"), "messages")
    assert len((graph.folder / "copy" / "coreset.jsonl").read_text().splitlines()) == 7


def test_what_is_lost_where_it_was_published_comes_back_and_nothing_else_is_made(graph: Graph) -> None:
    graph.refresh()
    version = pointer(graph)["version"]
    lost = graph.folder / "out" / "r" / version / "coreset.parquet"
    before = pl.read_parquet(lost)["sample_id"]
    lost.unlink()
    assert f"publication[r] is lost: {graph.folder}/out/r lacks coreset.parquet of version {version}" in (
        dselect(graph.folder, "status")
    )
    planned = graph.plan()
    assert [(step.asset, step.partition) for step in planned.steps] == [PUBLISHED]
    done = graph.refresh()
    assert made(done) == {PUBLISHED} and done.is_whole
    assert_as_planned(planned, done)
    # The rows of the version, which are its name; gains and origins are those of the coreset as it is now.
    assert pl.read_parquet(lost)["sample_id"].equals(before) and graph.refresh().runs == []
    # Where the coreset moves too, it is published once, as it then is.
    (graph.folder / "out" / "r" / "latest.json").unlink()
    graph.settings(coresets=recipes(6))
    done = graph.refresh()
    assert [m.asset_key.to_user_string() for run in done.runs for m in run.materializations].count("publication") == 1
    assert pointer(graph)["rows"] == 6
