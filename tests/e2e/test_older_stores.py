"""A store that an older version made (data/store-<version>.tar.gz) is read by today's code: same scores, same choices.

Each holds two sources of 29 rows, a builtin model of 35,000 parameters, all kinds of score in several parts,
difficulties under two β, saved orders, and a coreset of each of seven recipes. Commit 1bff08c made that of 0.1, d523581
that of 0.2. How many rows were computed anew is printed.
"""

import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.coreset.coreset import make_coreset
from dselect_core.coreset.manifest import read_manifest
from dselect_core.coreset.published import MANIFEST, publish
from dselect_core.fingerprint import digest
from dselect_core.kinds import all_kinds, kind_of
from dselect_core.lineage.explain import story
from dselect_core.neighbors.update_neighbors import update_neighbors
from dselect_core.pool.corpus_index import build_index, needed_kinds, read_index
from dselect_core.pool.pool_tables import pool_scores
from dselect_core.scores.update import update_scores
from dselect_core.scores.update_pairs import update_pairs
from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json
from tests.core.killed_publish import contents
from tests.e2e.graph import Graph, materialised

DATA = Path(__file__).parents[1] / "data"
# The heuristic grader has another version since, so its grades are other scores; all else is what it was.
OTHER_PROVENANCE: dict[str, set[str]] = {"0.1": {"grades"}, "0.2": {"grades"}}
NEW_KINDS = {"ifd", "weighted_embeddings"}  # no version before had them, and no recipe of these stores reads them


@pytest.fixture(params=OTHER_PROVENANCE)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def workspace(tmp_path: Path, version: str) -> Iterator[Workspace]:
    with tarfile.open(DATA / f"store-{version}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    yield Workspace(load_settings(tmp_path / "dselect.yaml"))


def test_every_score_is_found_and_none_is_computed(workspace: Workspace, version: str) -> None:
    scores_then = {
        name: pool_scores(workspace, read_index(workspace), name)
        for name, kind in all_kinds().items()
        if (kind.by_source or name == "miwv") and name not in NEW_KINDS
    }
    left_out = OTHER_PROVENANCE[version] | NEW_KINDS
    kinds = {name for name, kind in all_kinds().items() if kind.by_source and name not in left_out}
    for source in ("a", "b"):
        for name, report in update_scores(workspace, source, frozenset(kinds)).items():
            assert (name, report.computed, report.skipped) == (name, 0, {})
    index = build_index(workspace, ["a", "b"], needed_kinds(workspace.settings) - OTHER_PROVENANCE[version])
    assert update_neighbors(workspace, index).computed == 0
    assert update_pairs(workspace, "miwv", index).computed == 0
    for name in kinds | {"miwv"}:
        assert pool_scores(workspace, index, name).equals(scores_then[name]), name


def test_every_coreset_is_chosen_again_from_its_saved_order(workspace: Workspace) -> None:
    for recipe in workspace.settings.coresets:
        folder = workspace.coreset(recipe)
        order_then = pl.read_parquet(str(folder / "order.parquet"))
        manifest_then = read_manifest(workspace, recipe)
        coreset = make_coreset(workspace, recipe)
        assert coreset.selection.order.equals(order_then), recipe
        assert coreset.selection.reused == coreset.selection.rows, recipe
        assert coreset.changes is not None
        assert set(coreset.changes["change"]) == {"kept"}
        manifest = read_manifest(workspace, recipe)
        assert manifest is not None and manifest_then is not None
        assert [each["version"] for each in manifest["versions"]] == [coreset.version]
        same = ("order", "spec_version", "strategy", "options", "selection_revision", "counts", "sources")
        assert {key: manifest[key] for key in same} == {key: manifest_then[key] for key in same}


def test_a_coreset_of_then_is_a_version_once_another_takes_its_place(workspace: Workspace) -> None:
    for recipe in workspace.settings.coresets:
        folder = workspace.coreset(recipe)
        order_then = pl.read_parquet(str(folder / "order.parquet"))
        publish(folder, contents("b").items(), {"recipe": recipe, "version": "b"})
        now, then = read_json(folder / MANIFEST)["versions"]
        assert (now["version"], then["version"]) == ("b", digest(order_then["sample_id"]))
        assert pl.read_parquet(str(folder / then["folder"] / "order.parquet")).equals(order_then)
        assert (folder / "order.parquet").read_bytes() == contents("b")["order.parquet"]


def test_the_story_of_a_sample_names_the_scores_of_then_with_their_provenance(workspace: Workspace) -> None:
    sample = read_index(workspace).frame["sample_id"][0]
    told = story(workspace, sample, ["a", "b"])
    betas = {score.provenance["beta"]: score.in_force for score in told.scores if score.kind == "difficulty"}
    assert betas[1.0] and not betas.get(2.0, False)
    assert {score.kind for score in told.scores if score.in_force} == set(all_kinds()) - NEW_KINDS
    assert len(told.choices) == len(workspace.settings.coresets)


@pytest.mark.walk(1)
def test_a_refresh_over_it_lands_and_scores_nothing_anew(
    workspace: Workspace, version: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """As after an upgrade with a new Dagster home. The rows that landed may be scored by another builtin model."""
    model = next((tmp_path / ".dselect" / "models").glob("builtin-*"))
    shutil.copytree(model, tmp_path / "model")
    graph = Graph(tmp_path)
    orders_then = {recipe: graph.order(recipe) for recipe in workspace.settings.coresets}
    graph.settings(model={"path": "model"})
    done = graph.refresh()
    assert not done.failed
    figures: dict[tuple[str, str | None], dict[str, Any]] = materialised(done)
    computed = {key: shown["rows computed"] for key, shown in figures.items() if "rows computed" in shown}
    record_property(f"rows computed anew over a store of {version}", sum(computed.values()))
    assets = {kind_of(name).asset for name in OTHER_PROVENANCE[version]}
    assert {asset for (asset, _), rows in computed.items() if rows} <= assets
    reads_grades = {"d3", "apart"} if "grades" in OTHER_PROVENANCE[version] else set()
    for recipe in {*workspace.settings.coresets} - reads_grades:
        assert graph.order(recipe).equals(orders_then[recipe]), recipe
    assert graph.refresh().runs == []
