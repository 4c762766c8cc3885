"""Every file under the storage is deleted, emptied, cut off or altered, one at a time: two outcomes are right.

`refresh` ends in the tables and coresets of a fresh run, or it fails with a message that names the file. Each outcome
is counted, and a third one fails the test. `DSELECT_LOST_FILES=all` tries every file in every way; by default a sample.
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dselect_core.coreset.published import read_version
from dselect_core.errors import DselectError
from dselect_core.pool.corpus_index import read_index
from dselect_core.storage.files import read_parquet
from tests.e2e.conftest import WORDS
from tests.e2e.content import assert_same_order, assert_same_table
from tests.e2e.graph import Graph, alpaca

WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda data: None,
    "emptied": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "altered": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
}
SAMPLE = 6
RECIPES = {"d3": {"strategy": "d3", "budget": "25%"}, "weak": {"strategy": "miwv", "budget": 5}}
MORE = {"d3": {"strategy": "d3", "budget": "50%"}, "weak": {"strategy": "miwv", "budget": 9}}
RESTORED, NAMED = "ends in the tables of a fresh run", "fails and names the file"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Refreshed until nothing is due. Its data lies elsewhere, so that a copy of the folder has the same sources."""
    data = Graph(tmp_path_factory.mktemp("data"))
    data.source("a", [*alpaca(WORDS), {"instruction": "Say nothing", "input": "", "output": ""}])
    data.source("b", [*alpaca(WORDS[:8], offset=50), alpaca(WORDS)[0]])  # its last row stands in `a` too
    graph = Graph(tmp_path_factory.mktemp("whole"))
    sources = {name: {"path": str(data.folder / "data" / f"{name}.json")} for name in "ab"}
    graph.settings(storage="store", sources=sources, coresets=RECIPES)
    assert graph.refresh().is_whole
    assert graph.refresh().runs == []
    return graph


def test_each_file_that_is_lost_or_damaged_is_made_again_or_named(
    whole: Graph, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    store = whole.folder / "store"
    paths = [path for path in store.rglob("*") if path.is_file() and not path.is_symlink()]
    files = sorted(path.relative_to(store) for path in paths)
    cases = [(path, way) for path in files for way in WAYS]
    if os.environ.get("DSELECT_LOST_FILES") != "all":
        seed = random.randrange(10**6)
        print(f"seed {seed}")
        cases = sorted(random.Random(seed).sample(cases, SAMPLE))
    if only := os.environ.get("DSELECT_LOST_FILES_UNDER"):
        cases = [case for case in cases if str(case[0]).startswith(only)]
    outcomes: Counter[str] = Counter()
    third = {}
    for number, (path, way) in enumerate(cases):
        graph = Graph(Path(shutil.copytree(whole.folder, tmp_path / str(number))))
        file = graph.folder / "store" / path
        data = WAYS[way](file.read_bytes())
        file.unlink() if data is None else file.write_bytes(data)
        outcome = outcome_of(graph, whole, path)
        outcomes[outcome if outcome in (RESTORED, NAMED) else "third"] += 1
        if outcome != RESTORED:
            print(path, way, outcome, flush=True)
        if outcome not in (RESTORED, NAMED):
            third[f"{path} {way}"] = outcome
        shutil.rmtree(graph.folder)
    print(f"{len(cases)} cases: {dict(outcomes)}")
    record_property("lost files", f"{len(cases)} cases: {dict(outcomes)}")
    assert not third, third


def outcome_of(graph: Graph, whole: Graph, path: Path) -> str:
    """RESTORED, NAMED, or in words what a refresh ended in instead."""
    try:
        graph.plan()  # as the command does first
        done = graph.refresh()
    except DselectError as error:
        return NAMED if path.name in str(error) else f"an error that does not name it: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    told = [message for run in done.failed for message in run.errors.values()]
    told += [*done.still_lost.values(), *done.left_out.values()]
    if not done.is_whole:
        return NAMED if any(path.name in message for message in told) else f"it is not named: {told}"
    try:
        assert_as_whole(graph, whole)
        assert graph.plan().steps == []
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return RESTORED


@pytest.mark.walk(1)
@pytest.mark.parametrize("way", WAYS)
def test_a_saved_order_that_is_lost_or_damaged_costs_picks_alone(whole: Graph, tmp_path: Path, way: str) -> None:
    graph = Graph(Path(shutil.copytree(whole.folder, tmp_path / "g")))
    for file in (graph.folder / "store" / "orders").iterdir():
        data = WAYS[way](file.read_bytes())
        file.unlink() if data is None else file.write_bytes(data)
    assert_continues(graph, whole)


def assert_as_whole(graph: Graph, whole: Graph) -> None:
    """All tables and all files of the coresets, read as dselect reads them, are those of the other graph."""
    mine, other = graph.workspace, whole.workspace
    for source in "ab":
        assert read_parquet(mine.samples(source)).equals(read_parquet(other.samples(source)))
        assert read_parquet(mine.quarantine(source)).equals(read_parquet(other.quarantine(source)))
    index = read_index(mine)
    assert index.version == read_index(other).version
    for kind in index.fingerprints:
        assert_same_table(graph.scores(kind), whole.scores(kind), kind)
    for name in ("neighbors.parquet", "miwv.parquet"):
        assert_same_table(*(read_parquet(w.root / "corpus" / name) for w in (mine, other)), name)
    for recipe in RECIPES:
        pointers = [workspace.coreset(recipe) for workspace in (mine, other)]
        folders = [read_version(pointer, lambda made: made.files_folder) for pointer in pointers]
        for name in ("coreset.jsonl", "alpaca.json", "dataset/README.md"):
            assert len({(folder / name).read_bytes() for folder in folders}) == 1, name
        for name in ("order.parquet", "coreset.parquet", "dataset/data/train-00000-of-00001.parquet"):
            assert_same_table(*(read_parquet(folder / name) for folder in folders), name)
        assert_same_order(graph.order(recipe), whole.order(recipe), recipe)
        read_parquet(folders[0] / "changes.parquet")
        manifests = [manifest(pointer) for pointer in pointers]
        assert manifests[0] == manifests[1]


def manifest(folder: Any) -> dict[str, Any]:
    """Without what tells of the coreset that stood before."""
    record = json.loads((folder / "manifest.json").read_text())
    of_versions = ("changes", "checksum", "files", "folder", "versions")
    return {key: value for key, value in record.items() if key not in of_versions}


def assert_continues(graph: Graph, whole: Graph) -> None:
    """Larger budgets end in what they end in where nothing was lost."""
    fresh = Graph(Path(shutil.copytree(whole.folder, graph.folder / "fresh")))
    shutil.rmtree(fresh.folder / "store" / "orders")
    for each in (graph, fresh):
        each.settings(coresets=MORE)
        each.plan()
        assert each.refresh().is_whole
    for recipe in MORE:
        assert_same_order(graph.order(recipe), fresh.order(recipe), recipe)
