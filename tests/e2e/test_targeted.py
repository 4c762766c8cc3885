"""`targeted` on the real graph: from target rows to the order, and what each edit moves."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.lm.target_model import open_target_model
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.pool_tables import load_targets, pool_vectors
from dselect_core.scores.forward_scores import forward_scores
from dselect_core.settings.settings import load_settings
from tests.core.test_select_targeted import by_rule
from tests.e2e.conftest import RECIPES, WORDS, InState
from tests.e2e.content import id_of
from tests.e2e.graph import Graph, alpaca, assert_as_planned, made, materialised
from tests.e2e.test_cli import dselect

pytestmark = pytest.mark.some(3)

WANT = alpaca(["crimson", "greenest", "whiter"], offset=300)
TARGETED = {
    "near": {"strategy": "targeted", "budget": "40%"},
    "nearest": {"strategy": "targeted", "budget": 9, "by": "max"},
    "mixed": {"strategy": "targeted", "budget": 12, "targeted": "70%", "general": "topk:upd"},
}


@pytest.fixture
def wanted(graph: Graph, in_state: InState) -> Graph:
    return in_state(graph, want)


def want(graph: Graph) -> None:
    """A target source and recipes that compare with it, beside those that do not."""
    graph.source("want", WANT)
    graph.settings(
        sources={name: {"path": f"data/{name}.json"} for name in "ab"}
        | {"want": {"path": "data/want.json", "role": "target"}},
        coresets=RECIPES | TARGETED,
    )
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    assert done.is_whole, done
    assert not graph.plan().steps


def similarity(graph: Graph) -> tuple[list[str], list[str], list[list[float]]]:
    """Ids of the pool, ids of the examples, and their cosines, from the stored vectors."""
    index = read_index(graph.workspace)
    rows = pool_vectors(graph.workspace, index, "weighted_embeddings")
    targets = load_targets(graph.workspace, index, "weighted_embeddings")

    def on_grid(vectors: np.ndarray) -> np.ndarray:
        scale = math.floor(4096 - math.sqrt(vectors.shape[1]) / 2)
        vectors = vectors.astype(np.float64)
        return np.rint(vectors * scale / np.sqrt((vectors**2).sum(1))[:, None])

    pool, examples = on_grid(rows.values), on_grid(targets.vectors)
    squares = (pool**2).sum(1)[:, None] * (examples**2).sum(1)[None]
    return rows.keys["sample_id"].to_list(), targets.sample_ids.to_list(), (pool @ examples.T / squares**0.5).tolist()


def assert_orders_are_by_rule(graph: Graph) -> None:
    ids, examples, cosines = similarity(graph)
    assert examples == sorted(examples)
    upd = graph.scores("difficulty").sort("sample_id")["upd"].to_numpy()
    general = np.argsort(-np.rint(upd * 2**16), kind="stable").tolist()
    for recipe, spec in TARGETED.items():
        order = graph.order(recipe)
        expected = by_rule(cosines, spec.get("by", "round-robin"), spec.get("targeted"), general)[: order.height]
        assert order["sample_id"].to_list() == [ids[row] for row, _ in expected]
        assert order["target"].to_list() == [examples[e] if e >= 0 else None for _, e in expected]
        assert order["gain"].to_list() == [cosines[row][e] if e >= 0 else None for row, e in expected]


def test_orders_follow_from_the_stored_vectors_and_why_names_the_example(wanted: Graph) -> None:
    assert_orders_are_by_rule(wanted)
    assert {wanted.order(name).height for name in TARGETED} == {int(0.4 * wanted.pool().height), 9, 12}
    assert not set(wanted.order("near")["sample_id"]) & {id_of(row) for row in WANT}
    assert wanted.manifest("near")["targets"]["examples"] == 3
    assert "targets" not in wanted.manifest("d3")
    row = wanted.order("mixed").row(0, named=True)
    told = dselect(wanted.folder, "why", row["sample_id"])
    assert f"chosen, 1 of 12; taken by target example {row['target']} of want, cosine {row['gain']:.4f}" in told
    general = wanted.order("mixed").filter(pl.col("target").is_null()).row(0, named=True)
    told = dselect(wanted.folder, "why", general["sample_id"])
    assert f"chosen, {general['rank']} of 12; it is of the general share, chosen by topk:upd; 70% are targeted" in told


def test_the_vectors_are_means_weighted_by_position(wanted: Graph) -> None:
    """Of the states that the model gives for the tokens of each sample alone."""
    import torch

    lm = open_target_model(wanted.workspace)
    samples = pl.read_parquet(str(wanted.workspace.samples("want"))).sort("sample_id")
    kinds = frozenset({"weighted_embeddings", "embeddings"})
    frames = list(forward_scores(lm, samples, kinds, wanted.workspace.settings))
    of_kind = {kind: pl.concat([f[kind] for f in frames]).sort("sample_id") for kind in kinds}
    stored = load_targets(wanted.workspace, read_index(wanted.workspace), "weighted_embeddings")
    for at, messages in enumerate(samples["messages"].to_list()):
        ids = lm.renderer.render([{"role": m["role"], "content": m["content"]} for m in messages], None).ids
        with torch.inference_mode():
            states = lm.forward.body(input_ids=torch.tensor(ids)[None].long()).last_hidden_state[0].double().numpy()
        weights = np.arange(1, len(ids) + 1)
        expected = (states * weights[:, None]).sum(0) / weights.sum()
        np.testing.assert_allclose(stored.vectors[at], expected, atol=1e-5)
        np.testing.assert_allclose(of_kind["embeddings"]["embedding"][at].to_numpy(), states.mean(0), atol=1e-5)
        assert not np.allclose(expected, states.mean(0), atol=1e-3)


def test_a_new_target_example_computes_one_row_and_the_coresets_that_compare_with_it(wanted: Graph) -> None:
    wanted.source("want", [*WANT, *alpaca(["bluely"], offset=400)])
    planned = wanted.plan()
    done = wanted.refresh()
    assert_as_planned(planned, done)
    figures = materialised(done)
    assert figures["embeddings", "want"]["rows computed"] == 1
    assert not {key for key in figures if key[1] in ("a", "b")}
    assert {recipe for asset, recipe in figures if asset == "coreset"} == set(TARGETED)
    why = {step.partition: step.why for step in planned.steps if step.asset == "coreset"}
    assert why == dict.fromkeys(TARGETED, "target examples changed")
    assert wanted.manifest("near")["targets"]["examples"] == 4
    assert_orders_are_by_rule(wanted)
    causes = wanted.manifest("near")["changes"]
    assert causes["entered"].keys() | causes["left"].keys() <= {"targets"}
    assert not wanted.plan().steps


def test_a_new_target_example_is_nobodys_near_duplicate_and_moves_no_other_coreset(wanted: Graph) -> None:
    wanted.settings(near_duplicates={"threshold": 1.0})
    assert wanted.refresh().is_whole
    wanted.source("want", [*WANT, *alpaca(["bluely"], offset=400)])
    planned = wanted.plan()
    due = {step.partition: step.why for step in planned.steps if step.asset == "coreset"}
    assert due == dict.fromkeys(TARGETED, "target examples changed")
    done = wanted.refresh()
    assert_as_planned(planned, done)
    assert {recipe for asset, recipe in made(done) if asset == "coreset"} == set(TARGETED)


def test_an_approximate_search_tells_its_recall_in_the_manifest_the_plan_and_the_ui(wanted: Graph) -> None:
    assert "search" not in wanted.manifest("near")
    approximate = TARGETED["near"] | {"search": "approximate"}
    wanted.settings(coresets=RECIPES | TARGETED | {"near": approximate})
    planned = wanted.plan()
    notes = {step.partition: step.note for step in planned.steps if step.asset == "coreset"}
    assert notes == {"near": "the nearest rows are looked for in inverted lists, its recall is measured"}
    done = wanted.refresh()
    assert_as_planned(planned, done)
    told = wanted.manifest("near")["search"]
    page = (wanted.folder / ".dselect" / "reports" / "coresets" / "near.html").read_text()
    assert "search: recall" in page
    assert materialised(done)["coreset", "near"]["search: recall"] == told["recall"]
    assert told["by"] == "inverted lists" and told["recall measured on examples"] == 3
    wanted.source("want", [*WANT, *alpaca(["bluely"], offset=400)])
    notes = {step.partition: step.note for step in wanted.plan().steps if step.asset == "coreset"}
    assert notes["near"].endswith(f"its recall was {told['recall']:.1%} the last time")
    assert not notes["nearest"] and not notes["mixed"]


def test_a_new_row_of_the_pool_computes_one_row(wanted: Graph) -> None:
    wanted.source("a", [*alpaca(WORDS), *alpaca(["crimson"], offset=777)])
    planned = wanted.plan()
    done = wanted.refresh()
    assert_as_planned(planned, done)
    figures = materialised(done)
    assert figures["embeddings", "a"]["rows computed"] == 1
    assert ("embeddings", "want") not in figures
    assert_orders_are_by_rule(wanted)


def test_a_larger_budget_goes_on_from_the_saved_order(wanted: Graph) -> None:
    before = wanted.order("mixed")
    wanted.settings(coresets=RECIPES | TARGETED | {"mixed": TARGETED["mixed"] | {"budget": 20}})
    planned = wanted.plan()
    done = wanted.refresh()
    assert_as_planned(planned, done)
    assert materialised(done)["coreset", "mixed"]["rows computed"] == 8
    assert made(done) == {("coreset_spec", "mixed"), ("candidates", "mixed"), ("coreset", "mixed")}
    assert wanted.order("mixed").head(12).equals(before)


def test_a_kill_between_the_index_and_the_coresets_is_made_good(wanted: Graph) -> None:
    wanted.source("want", [*WANT, *alpaca(["bluely"], offset=400)])
    wanted.refresh_killed("candidates")
    planned = wanted.plan()
    assert {step.partition: step.why for step in planned.steps if step.asset == "coreset"} == dict.fromkeys(
        TARGETED, "target examples changed"
    )
    assert_as_planned(planned, wanted.refresh())
    assert_orders_are_by_rule(wanted)


def test_without_the_recipes_nothing_of_them_stays_due(wanted: Graph) -> None:
    orders = {name: wanted.order(name) for name in RECIPES}
    wanted.settings(coresets=RECIPES)
    planned = wanted.plan()
    done = wanted.refresh()
    assert_as_planned(planned, done)
    assert not {recipe for asset, recipe in made(done) if asset == "coreset"}
    assert read_index(wanted.workspace).targets == {}
    assert not wanted.plan().steps
    assert all(wanted.order(name).equals(order) for name, order in orders.items())


def test_without_a_target_source_the_settings_say_what_to_add(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.sources("a")
    graph.settings(coresets=TARGETED)
    with pytest.raises(DselectError, match=r"coresets\.\w+\.strategy: `targeted` .*`role: target` under `sources`"):
        load_settings(graph.config)
