"""`dselect plan` and `dselect why` as typed; what the plan says against Dagster's own staleness; scores that vanish."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from dselect_core.corpus.raw_dataset import land_source
from dselect_core.scores.provenance import store_of
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.refresh.instance import open_instance
from dselect_dagster.refresh.refresh import refresh
from dselect_dagster.refresh.staleness import Staleness
from tests.e2e.conftest import RECIPES, WORDS
from tests.e2e.content import computed, id_of
from tests.e2e.graph import Graph, alpaca, assert_as_planned, materialised, settings_of
from tests.e2e.test_cli import dselect
from tests.openai_server import OpenAIServer, rating
from tests.tiny import save_llama

pytestmark = pytest.mark.some(5)


def test_a_plan_writes_nothing_and_its_estimates_say_so(graph: Graph) -> None:
    before = {path: path.stat().st_mtime_ns for path in (graph.folder / ".dselect").rglob("*.parquet")}
    graph.source("a", [*alpaca(WORDS), *alpaca(["mauve", "teal"], offset=70)])
    told = dselect(graph.folder, "plan")
    assert "source a: changed" in told
    assert "raw_dataset a 22" in told
    assert "difficulty_scores a 2 20" in told
    assert "miwv_values ≈" in told
    assert "tokens through the model" in told
    assert told.count("≈") > 5
    assert {path: path.stat().st_mtime_ns for path in (graph.folder / ".dselect").rglob("*.parquet")} == before
    assert dselect(graph.folder, "refresh", "--dry-run") == told
    assert "difficulty_scores a 2 20" in dselect(graph.folder, "refresh")
    assert "Nothing to do." in dselect(graph.folder, "plan")


def test_a_plan_of_one_recipe_names_no_other(graph: Graph) -> None:
    graph.source("a", alpaca(WORDS[:-1]))
    told = dselect(graph.folder, "plan", "--recipe", "d3")
    assert "coreset d3" in told
    assert "coreset weak" not in told
    assert "no recipe 'd4'" in dselect(graph.folder, "plan", "--recipe", "d4", code=2)


@pytest.mark.parametrize("change", ["rows", "beta", "budget"])
def test_what_dagster_calls_stale_is_in_the_plan_and_the_plan_is_what_is_stale_or_follows(
    graph: Graph, change: str
) -> None:
    if change == "rows":
        graph.source("b", alpaca(WORDS[:6], offset=50))
    elif change == "beta":
        graph.settings(difficulty={"beta": 3.0})
    else:
        graph.settings(coresets=RECIPES | {"d3": {"strategy": "d3", "budget": "50%"}})
    planned = {(step.asset, step.partition) for step in graph.plan().steps}
    settings = settings_of(graph)
    defs = build_definitions(settings, str(graph.config))
    with open_instance(graph.config) as instance:
        # Only what lands: from here on Dagster knows what the plan knew before.
        refresh(defs, instance, graph.workspace, select=dg.AssetSelection.assets("raw_dataset", "coreset_spec"))
        stale = {(s.asset.to_user_string(), s.partition) for s in Staleness(defs, instance).stale_partitions()}
    landed = {key for key in planned if key[0] in ("raw_dataset", "coreset_spec")}
    assert stale <= planned
    names = {asset for asset, _ in stale}
    upstream = defs.resolve_asset_graph()
    for asset, partition in planned - landed - stale:
        above = {key.to_user_string() for key in upstream.get_ancestor_asset_keys(dg.AssetKey(asset))}
        assert above & names, f"{asset} {partition} is planned, and nothing above it is stale"


@pytest.mark.parametrize("change", ["a recipe more", "recipes gone", "a source more", "a source gone", "another model"])
def test_the_plan_names_what_the_refresh_then_makes(graph: Graph, change: str, tmp_path: Path) -> None:
    if change == "a recipe more":
        graph.settings(coresets=RECIPES | {"r": {"strategy": "random", "budget": 3}})
    elif change == "recipes gone":
        graph.settings(coresets={"d3": RECIPES["d3"]})
    elif change == "a source more":
        graph.source("c", alpaca(["one", "two", "three"], offset=90))
        graph.sources("abc")
    elif change == "a source gone":
        graph.sources("a")
    else:
        graph.settings(model={"path": str(save_llama(tmp_path))})
    planned = graph.plan()
    assert_as_planned(planned, graph.refresh())


@pytest.mark.parametrize("at", ["difficulty_scores", "corpus_index", "neighbors", "coreset"])
def test_the_plan_after_a_kill_names_what_the_refresh_then_makes(graph: Graph, at: str) -> None:
    graph.source("a", [*alpaca(WORDS), *alpaca(["mauve", "teal"], offset=70)])
    graph.refresh_killed(at)
    planned = graph.plan()
    assert {step.asset for step in planned.steps} >= {"coreset"}
    assert_as_planned(planned, graph.refresh())


def test_a_plan_of_nothing_but_an_unreadable_source_names_it(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.sources("a")
    graph.settings(coresets=RECIPES)
    planned = graph.plan()
    assert [(step.asset, step.why) for step in planned.steps if step.partition == "a"] == [
        ("raw_dataset", "cannot be read")
    ]
    assert "a.json" in planned.problems["a"]


def test_another_option_of_a_strategy_is_planned_as_another_order(graph: Graph) -> None:
    def recipe(**given: object) -> None:
        graph.settings(coresets={"r": given})

    recipe(strategy="facility-location", neighbors=5, budget="25%")
    graph.refresh()
    for neighbors, kept in ((5, 7), (6, 0)):
        recipe(strategy="facility-location", neighbors=neighbors, budget="50%")
        (planned,) = [step for step in graph.plan().steps if step.asset == "coreset"]
        assert planned.exact
        assert (planned.computed, planned.reused) == (14 - kept, kept)
        figures = materialised(graph.refresh())["coreset", "r"]
        assert (figures["rows computed"], figures["rows reused"]) == (14 - kept, kept)
    # How many are too alike to be picked shows in the picking.
    recipe(strategy="deita", threshold=0.99, budget="50%")
    assert [step.exact for step in graph.plan().steps if step.asset == "coreset"] == [False]


def test_the_price_of_grades_is_told_before_they_are_bought(graph: Graph) -> None:
    with OpenAIServer(lambda request: rating(4)) as server:
        grader = {"base_url": server.base_url, "model": "judge-1"}
        graph.settings(grader=grader)
        told = dselect(graph.folder, "plan")
        assert "of judge-1 (price unknown: set grader.usd_per_million_tokens)" in told
        graph.settings(grader=grader | {"usd_per_million_tokens": {"prompt": 1000.0, "completion": 2000.0}})
        plan = graph.plan()
        prompt, completion = plan.judge_tokens
        # Nothing was graded by it yet: 28 answers of at most 256 tokens, and texts of some length.
        assert completion == 28 * 256
        assert prompt > 28 * 100
        usd = plan.usd(graph.workspace.settings)
        assert usd == pytest.approx(prompt / 1000 + completion / 500)
        assert server.requests == []
        assert f"${usd:,.2f}" in dselect(graph.folder, "plan")


def test_scores_that_vanished_from_the_store_are_planned_and_made_again(graph: Graph) -> None:
    store = store_of(graph.workspace, "difficulty")
    parts = store.parts(store.keys)
    before = graph.scores("difficulty")
    Path(parts[0].path.path).unlink()
    planned = graph.plan()
    assert planned.lost
    assert {why for step in planned.steps if (why := step.why)} >= {"scores are gone from the store"}
    figures = materialised(graph.refresh(lost=planned.lost))
    assert computed(figures) == {"difficulty_scores": parts[0].frame.height}
    assert graph.scores("difficulty").select("sample_id", "upd").equals(before.select("sample_id", "upd"))
    assert graph.plan().steps == []


def test_a_torn_part_is_named_and_its_rows_are_made_again(graph: Graph) -> None:
    store = store_of(graph.workspace, "difficulty")
    path = Path(store.parts(store.keys)[0].path.path)
    path.write_bytes(path.read_bytes()[:-100])
    told = dselect(graph.folder, "refresh")
    assert path.name in told
    assert "torn or altered" in told
    assert "scores are gone from the store" in told
    path.unlink()
    assert "Nothing to do" in dselect(graph.folder, "refresh")


def test_altered_vectors_are_named_when_they_are_read_and_made_again(graph: Graph) -> None:
    recipes = graph.workspace.settings.model_dump()["coresets"]
    before = graph.scores("embeddings")
    folder = Path(store_of(graph.workspace, "embeddings").folder.path)
    altered = 0
    for path in folder.glob("*.npy"):
        values = np.load(path)
        values[:3] *= -1
        altered += min(3, len(values))
        np.save(path, values)
    graph.settings(coresets=recipes | {"near": {"strategy": "kcenter", "budget": 3}})
    told = dselect(graph.folder, "refresh")
    assert f"altered: {altered // 2} of its" in told
    assert "scores are gone from the store" in told
    assert_close(graph.scores("embeddings"), before)
    assert graph.order("near").height == 3
    assert "Nothing to do" in dselect(graph.folder, "refresh")


def assert_close(a: pl.DataFrame, b: pl.DataFrame) -> None:
    assert a["sample_id"].equals(b["sample_id"])
    assert np.abs(a["embedding"].to_numpy() - b["embedding"].to_numpy()).max() <= 1e-4


@pytest.fixture
def sample(graph: Graph) -> Iterator[str]:
    yield id_of(alpaca(WORDS)[0])


def test_why_tells_origins_scores_recipes_and_what_each_coreset_did(graph: Graph, sample: str) -> None:
    told = dselect(graph.folder, "why", sample[:10])
    assert sample in told
    # The row stands in both sources.
    assert "a: " in told and "b: " in told
    for kind in ("difficulty", "embeddings", "prompts", "activations", "grades", "miwv"):
        assert f"{kind}, written 20" in told
    assert "upd 0." in told and "grade 1" in told and '"beta": 1.0' in told
    assert "builtin-heuristic" in told
    assert json.dumps(graph.manifest("d3")["model"]["identity"]) in told
    for recipe in ("d3", "weak", "wide"):
        order = graph.order(recipe)["sample_id"].to_list()
        state = f"in: chosen, {order.index(sample) + 1} of {len(order)}" if sample in order else "out: "
        assert f"{recipe} (" in told and state in told


def test_why_names_what_is_out_of_force_and_what_kept_a_row_out(graph: Graph, sample: str) -> None:
    graph.settings(difficulty={"beta": 2.0})
    assert not graph.refresh().failed
    told = dselect(graph.folder, "why", sample)
    assert told.count("difficulty, written") == 2
    assert "(of an earlier provenance or shot; not used now)" in told
    out = (set(graph.pool()["sample_id"]) - set(graph.order("weak")["sample_id"])).pop()
    assert "would gain" in dselect(graph.folder, "why", out)


def test_why_of_no_sample_or_of_several_says_so(graph: Graph) -> None:
    assert "no source holds one whose id begins so" in dselect(graph.folder, "why", "zz", code=2)
    firsts = pl.Series(graph.pool()["sample_id"]).str.head(1)
    common = firsts.value_counts(sort=True)["sample_id"][0]
    assert "samples begin so" in dselect(graph.folder, "why", common, code=2)


def test_landing_after_a_look_takes_the_files_as_they_are_then(graph: Graph) -> None:
    """A plan reads a source in memory; a file that changes between the plan and the landing is read again."""
    graph.source("a", alpaca(WORDS[:10]))
    graph.plan()
    graph.source("a", alpaca(WORDS[:12]))
    assert land_source(graph.workspace, "a").samples.height == 12


def test_what_cannot_be_planned_fails_in_its_run_and_stops_nothing_else(graph: Graph) -> None:
    graph.source("a", alpaca(WORDS[:-1]))
    graph.settings(embeddings={"path": "./no-such-encoder"})
    assert "no-such-encoder" in dselect(graph.folder, "plan", code=2)
    told = dselect(graph.folder, "refresh", code=1)
    assert "no plan" in told
    assert told.count("no-such-encoder") > 1
    assert "raw_dataset a 19" in told
    assert "dependability_grades a 19" in told
