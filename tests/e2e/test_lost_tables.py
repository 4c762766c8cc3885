"""What Dagster calls made and the storage lacks is planned, said, made again and told; no source leaves in silence."""

import contextlib
import errno
import os
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest

from dselect_core.coreset.manifest import TAKEN_OUT
from tests.e2e.conftest import RECIPES, WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned, made, materialised
from tests.e2e.test_cli import dselect
from tests.e2e.test_older_stores import DATA, OTHER_PROVENANCE

pytestmark = pytest.mark.some(3)

STORAGE = ".dselect"
# What is removed → what of it is made again, and nothing else.
LOST = {
    "scores/difficulty/a.json": {("difficulty_scores", "a")},
    "scores/grades/b.json": {("dependability_grades", "b")},
    "raw/a/samples.parquet": {("raw_dataset", "a")},
    "raw/b/quarantine.parquet": {("raw_dataset", "b")},
    "coresets": {("coreset", name) for name in RECIPES},
    "coresets/d3/latest/coreset.parquet": {("coreset", "d3")},
    "corpus/index.parquet": {("corpus_index", None)},
    "corpus/neighbors.parquet": {("neighbors", None)},
    "corpus/miwv.parquet": {("miwv_values", None)},
    "corpus": {("corpus_index", None), ("neighbors", None), ("miwv_values", None)},
    "specs/weak.json": {("coreset_spec", "weak")},
    "models": {("warmup_model", None)},
    "models/current.json": {("warmup_model", None)},
}


def remove(graph: Graph, path: str) -> None:
    place = graph.folder / STORAGE / path
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()


def orders(graph: Graph) -> dict[str, pl.DataFrame]:
    return {recipe: graph.order(recipe) for recipe in RECIPES}


@pytest.mark.parametrize("path", ["raw/a/samples.parquet", "corpus/index.parquet", "scores/grades/b.json"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "the disk"), ConnectionError("cut off"), PermissionError("no")])
def test_a_storage_that_does_not_answer_has_lost_nothing(
    graph: Graph, path: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = graph.folder / STORAGE / path
    os.utime(place, (1e9, 1e9))  # another time, so that it is read again and not trusted
    read = Path.read_bytes

    def fails(self: Path) -> bytes:
        if self == place:
            raise error
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(type(error)):
        graph.plan()
    with contextlib.suppress(type(error)):
        done = graph.refresh()
        assert done.broken_off is not None and done.runs == []
    monkeypatch.undo()
    assert graph.refresh().runs == []


@pytest.mark.walk(3)
@pytest.mark.parametrize("path", LOST)
def test_what_is_lost_is_planned_and_made_again_and_nothing_follows(graph: Graph, path: str) -> None:
    orders_then = orders(graph)
    remove(graph, path)
    planned = graph.plan()
    assert LOST[path] <= set(planned.lost)
    done = graph.refresh()
    assert made(done) == LOST[path]
    assert done.is_whole
    if not path.startswith("models"):  # whether the model comes out the same shows when it is made
        assert_as_planned(planned, done)
    assert (graph.folder / STORAGE / path).exists()
    for recipe, order in orders(graph).items():
        assert order.equals(orders_then[recipe]), recipe
    assert graph.plan().steps == []
    assert graph.refresh().runs == []


def test_status_and_refresh_name_what_is_lost(graph: Graph) -> None:
    remove(graph, "scores/difficulty/a.json")
    remove(graph, "raw/b/samples.parquet")
    remove(graph, "coresets/d3")
    told = dselect(graph.folder, "status")
    assert "difficulty_scores[a] is lost: scores/difficulty/a.json is gone from the storage" in told
    assert "source b is lost" in told
    assert "raw/b/samples.parquet is gone from the storage" in told
    assert "coreset[d3] is lost: coresets/d3/" in told
    told = dselect(graph.folder, "refresh")
    assert "scores/difficulty/a.json is gone from the storage" in told
    assert "raw_dataset b" in told
    assert "coreset d3" in told
    assert "Everything is up to date" in dselect(graph.folder, "status")


@pytest.mark.parametrize("path", ["scores/difficulty/a.json", "raw/a/samples.parquet"])
def test_a_source_whose_files_are_lost_stays_in_the_coresets_when_another_moves(graph: Graph, path: str) -> None:
    remove(graph, path)
    graph.source("b", [*alpaca(WORDS[:8], offset=50), *alpaca(["mauve"], offset=70)])
    done = graph.refresh()
    assert not done.failed
    assert set(graph.manifest("d3")["sources"]) == {"a", "b"}
    assert graph.manifest("d3")["sources_left"] == {}


def test_another_empty_storage_gets_everything(graph: Graph) -> None:
    orders_then = orders(graph)
    graph.settings(storage="elsewhere")
    told = dselect(graph.folder, "status")
    assert "Everything is up to date" not in told
    assert "corpus_index is lost" in told
    done = graph.refresh()
    assert done.is_whole
    assert {("raw_dataset", "a"), ("warmup_model", None), ("neighbors", None), ("coreset", "d3")} <= made(done)
    for recipe, order in orders_then.items():
        assert graph.order(recipe).equals(order), recipe
    assert graph.refresh().runs == []
    # And back: all is there.
    graph.settings(storage=STORAGE)
    assert graph.refresh().runs == []


@pytest.mark.parametrize("version", OTHER_PROVENANCE)
def test_an_older_store_under_an_instance_that_knows_another_is_used(graph: Graph, version: str) -> None:
    for name in ("raw", "scores", "corpus", "coresets", "models", "specs", "orders"):
        remove(graph, name)
    with tarfile.open(DATA / f"store-{version}.tar.gz") as archive:
        members = [m for m in archive.getmembers() if m.name.startswith(".dselect")]
        archive.extractall(graph.folder, members, filter="data")
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert graph.refresh().runs == []
    assert set(graph.manifest("d3")["sources"]) == {"a", "b"}


def test_a_source_that_fails_is_told_until_it_is_mended(graph: Graph) -> None:
    path = graph.folder / "data" / "b.json"
    text = path.read_text()
    remove(graph, "raw/b/samples.parquet")
    path.write_text("{ not json")
    told = dselect(graph.folder, "refresh", code=1)
    assert "b.json" in told
    assert "source b" in told
    # Another source moves: `b` is missed, and the command says so until it is back.
    graph.source("a", alpaca(WORDS[:-1]))
    told = dselect(graph.folder, "refresh", code=1)
    assert "source b is left out of the pool" in told
    assert list(graph.manifest("d3")["sources_left"]) == ["b"]
    path.write_text(text)
    assert "left out" not in dselect(graph.folder, "refresh")
    assert graph.manifest("d3")["sources_left"] == {}
    assert set(graph.manifest("d3")["sources"]) == {"a", "b"}


def test_a_check_of_the_coreset_compares_its_sources_with_the_last(graph: Graph) -> None:
    graph.sources("a")
    done = graph.refresh()
    assert done.is_whole
    assert graph.manifest("d3")["sources_left"] == {"b": TAKEN_OUT}
    assert checks(done, "every_source_kept") == {True}
    graph.sources("ab")
    graph.refresh()
    graph.source("b", [{"instruction": "Say nothing", "input": "", "output": ""}])
    done = graph.refresh()
    assert not done.is_whole
    assert checks(done, "every_source_kept") == {False}


def checks(done: object, name: str) -> set[bool]:
    evaluations = [e for run in done.runs for e in run.result.get_asset_check_evaluations()]  # type: ignore[attr-defined]
    return {evaluation.passed for evaluation in evaluations if evaluation.check_name == name}


@pytest.mark.walk(1)
@pytest.mark.parametrize("meanwhile", ["nothing", "rows", "files"])
def test_a_recipe_that_comes_back_unchanged_is_made_again(graph: Graph, meanwhile: str) -> None:
    with_more = RECIPES | {"more": {"strategy": "kcenter", "budget": 9}}
    for coresets in (with_more, RECIPES):
        graph.settings(coresets=coresets)
        graph.refresh()
    if meanwhile == "rows":
        graph.source("a", alpaca(WORDS[:-1]))
        graph.refresh()
    elif meanwhile == "files":
        remove(graph, "coresets/more")
    graph.settings(coresets=with_more)
    assert "recipe more is new" in dselect(graph.folder, "status")
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    assert ("coreset_spec", "more") in made(done)
    assert (("coreset", "more") in made(done)) == (meanwhile != "nothing")
    assert graph.manifest("more")["counts"]["pool"] == (27 if meanwhile == "rows" else 28)
    # From here on it follows the data as the others do.
    graph.source("b", alpaca(WORDS[:6], offset=50))
    assert ("coreset", "more") in made(graph.refresh())
    assert "Everything is up to date" in dselect(graph.folder, "status")


def test_a_recipe_that_alone_reads_a_score_comes_back(graph: Graph) -> None:
    graph.settings(coresets={name: recipe for name, recipe in RECIPES.items() if name != "wide"})
    graph.refresh()
    graph.source("a", alpaca(WORDS[:-1]))
    graph.refresh()
    graph.settings(coresets=RECIPES)
    assert {("activations", "a"), ("coreset_spec", "wide"), ("coreset", "wide")} <= made(graph.refresh())
    assert graph.manifest("wide")["counts"]["pool"] == 27
    assert graph.refresh().runs == []


def test_a_coreset_names_the_files_and_rows_of_now(graph: Graph) -> None:
    order_then = graph.order("d3")

    def origins() -> set[tuple[str, str, int]]:
        chosen = pl.read_parquet(graph.folder / STORAGE / "coresets" / "d3" / "coreset.parquet")
        return {(o["source"], Path(o["file"]).name, o["row"]) for row in chosen["origins"] for o in row}

    def rows() -> int:
        return int(pl.read_parquet(graph.folder / STORAGE / "coresets" / "d3" / "coreset.parquet")["n_rows"].sum())

    then, rows_then = origins(), rows()
    # Renamed.
    (graph.folder / "data" / "a.json").rename(graph.folder / "data" / "renamed.json")
    graph.settings(sources={"a": {"path": "data/renamed.json"}, "b": {"path": "data/b.json"}})
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    assert {key for key in made(done) if key[0] == "coreset"} == {("coreset", name) for name in RECIPES}
    assert materialised(done)["coreset", "d3"]["rows computed"] == 0
    assert origins() == {(s, "renamed.json" if f == "a.json" else f, row) for s, f, row in then}
    # Reordered, and each row twice.
    graph.source("renamed", [*reversed(alpaca(WORDS)), *alpaca(WORDS)])
    graph.refresh_killed("coreset")
    done = graph.refresh()
    assert done.is_whole
    assert {("coreset", name) for name in RECIPES} <= made(done)
    assert rows() > rows_then
    assert graph.order("d3")["sample_id"].equals(order_then["sample_id"])
    assert graph.refresh().runs == []
