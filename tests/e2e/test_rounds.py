"""D3's rounds on the real graph: each choice against brute force, edits that are counted, a kill, what is shown."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from dselect_core.coreset.coreset import make_coreset, rounds_of
from dselect_core.coreset.spec import write_spec
from dselect_core.corpus.raw_dataset import land_source
from dselect_core.lm.target_model import make_target_model
from dselect_core.pool.corpus_index import build_index, needed_kinds
from dselect_core.rounds.make_round import make_round
from dselect_core.rounds.round_record import RoundRecord, read_record
from dselect_core.scores.update import update_scores
from dselect_core.select.length_correction import without_length
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors
from dselect_core.select.saved_order import read_saved_order
from dselect_core.select.whitening import whitened
from tests.e2e.content import write
from tests.e2e.graph import Graph, assert_as_planned, made, materialised
from tests.e2e.killed_refresh import environment
from tests.e2e.test_cli import dselect
from tests.e2e.test_row_by_row import rows
from tests.tiny import save_llama

pytestmark = pytest.mark.some(3)

ROOT = Path(__file__).parents[2]
POOL, PART_ROWS = 48, 8
WARMUP = {"samples": 4, "by": "random"}
ROUNDS = {"strategy": "d3", "budget": 13, "rounds": 3, "warmup": WARMUP}
RECIPES = {"rounds": ROUNDS, "plain": {"strategy": "d3", "budget": 10}}
ASSETS = {f"d3_round_{n}" for n in (1, 2, 3)}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("rounds"))
    model = save_llama(tmp_path_factory.mktemp("model"))
    write(graph.folder / "data" / "a" / "0.jsonl", rows(0, POOL))
    graph.settings(
        model={"path": str(model), "batch_tokens": 1},  # a row a batch: many moments to be killed at
        sources={"a": {"path": "data/a"}},
        coresets=RECIPES,
        feedback={"method": "full", "epochs": 1, "batch_tokens": 256, "learning_rate": 1e-3},
        parts={"rows": PART_ROWS},
    )
    planned = graph.plan()
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert_as_planned(planned, done)
    return graph


@pytest.fixture(scope="module")
def _snapshot(first: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(first.folder, tmp_path_factory.mktemp("snapshot") / "project"))


def records(graph: Graph, count: int = 3) -> list[RoundRecord]:
    return [read_record(graph.workspace, "rounds", n + 1) for n in range(count)]


OPTIONS = {"per": "token", "length_corrected": True, "whiten": True, "quota": {"b": {"min": "40%", "max": "60%"}}}


def by_brute_force(graph: Graph, record: RoundRecord, before: list[str], wanted: int, options: bool) -> list[str]:
    """The greedy choice over the stored scores of a round: every distance to every centre, each time."""
    workspace, stores = graph.workspace, record.facts["scores"]
    ids = graph.pool().select("sample_id")
    upd = workspace.open_store("difficulty", stores["difficulty"]).read(ids, ["upd"])["upd"].to_numpy()
    grade = workspace.open_store("grades", stores["grades"]).read(ids, ["grade"])["grade"].to_numpy()
    vectors = workspace.open_store("embeddings", stores["embeddings"]).read_array(ids).values
    of_b = (graph.pool()["sources"].list.first() == "b").to_numpy()
    tokens = np.ones(ids.height, dtype=np.int64)
    if options:
        tokens = records(graph)[0].table["response_tokens"].cast(pl.Int64).to_numpy()
        upd = np.clip(without_length(upd.astype(np.float64), tokens, ["ab"[each] for each in of_b.tolist()]), 0, 1)
        vectors = whitened(vectors)
    weights = np.rint(upd.astype(np.float64) * grade / SCORE_STEP).astype(np.int64) / tokens
    grid = round_unit_vectors(vectors)[0].astype(np.int64)
    names = ids["sample_id"].to_list()
    chosen = [names.index(name) for name in before]
    for _ in range(wanted):
        nearest = np.ones(ids.height)
        if chosen:
            nearest = ((grid[:, None, :] - grid[chosen][None]) ** 2).sum(axis=2).min(axis=1)
        gains = (weights**2 * nearest) if chosen else weights
        gains[chosen] = -1
        if options:  # of the first p rows ⌊0.4 p⌋ to ⌈0.6 p⌉ are of b
            rank, rows_of_b = len(chosen) + 1, int(of_b[chosen].sum()) + of_b
            gains[(10 * rows_of_b > 6 * rank + 9) | (10 * rows_of_b < 4 * rank - 9)] = -1
        chosen.append(int(np.argmax(gains)))
    return [names[row] for row in chosen[len(before) :]]


def assert_brute_force_agrees(graph: Graph, shares: list[int], options: bool = False) -> None:
    before: list[str] = []
    for record, until in zip(records(graph, len(shares)), shares, strict=True):
        warm_up = record.came_in.filter(round=0)["sample_id"].to_list()
        before += warm_up
        own = record.came_in.filter(pl.col("round") == record.number)["sample_id"].to_list()
        assert own == by_brute_force(graph, record, before, until - len(before), options), record.number
        before += own
        assert record.chosen["sample_id"].to_list() == before
    assert graph.order("rounds")["sample_id"].to_list() == before


def test_each_round_is_an_asset_that_says_what_its_model_was_tuned_on_and_who_came_in(graph: Graph) -> None:
    with graph.instance() as instance:
        for asset in ASSETS:
            assert instance.get_dynamic_partitions(asset) == ["rounds"]
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == {"rounds"}
        of_round = dg.AssetRecordsFilter(asset_key=dg.AssetKey("d3_round_2"))
        materialization = instance.fetch_materializations(of_round, limit=1).records[0].asset_materialization
    assert materialization is not None
    shown = {name: value.value for name, value in materialization.metadata.items()}
    assert (shown["rows tuned on"], shown["tuned on"], shown["models tuned"]) == (5, "chosen before round 2", 1)
    assert (shown["rows computed"], shown["rows reused"]) == (POOL, 0)
    assert 0 < shown["tokens tuned"] < shown["tokens"]
    for record in records(graph):
        assert record.came_in.height == [5, 4, 4][record.number - 1]
    assert records(graph)[1].came_in["sample_id"][0] in str(shown["who came in"])
    assert graph.refresh().runs == []
    assert graph.plan().steps == []


def test_brute_force_over_the_stored_scores_gives_each_round_s_choice(graph: Graph) -> None:
    assert_brute_force_agrees(graph, [5, 9, 13])
    fingerprints = [record.facts["scores"]["difficulty"] for record in records(graph)]
    assert len(set(fingerprints)) == 3
    seen = [record.table.sort("sample_id")["upd"] for record in records(graph)]
    assert not seen[0].equals(seen[1])
    provenance = graph.workspace.open_store("difficulty", fingerprints[1]).provenance
    assert provenance["tuned"]["rows"] == 5
    assert provenance["tuned"]["tuning"]["method"] == "full"


def append_a_row(graph: Graph) -> None:
    write(graph.folder / "data" / "a" / "1.jsonl", rows(300, 1))


def set_recipe(**changes: Any) -> Callable[[Graph], None]:
    def change(graph: Graph) -> None:
        graph.settings(coresets=RECIPES | {"rounds": ROUNDS | changes})

    return change


# An edit → rows scored in each round; None: those that the choice before it decides.
EDITS: dict[str, tuple[Callable[[Graph], None], list[int | None]]] = {
    "a row more": (append_a_row, [1, None, None]),
    # Shares of 5, 4, 4 become 5, 5, 4: the first round stands, and so does the model of the second.
    "a row more in the budget": (set_recipe(budget=14), [0, 0, POOL]),
    "a budget that moves the first round": (set_recipe(budget=16), [0, POOL, POOL]),
    "another warm-up": (set_recipe(warmup=WARMUP | {"samples": 3}), [POOL, None, None]),
    "the warm-up by k-center": (set_recipe(warmup=WARMUP | {"by": "kcenter"}), [POOL, POOL, POOL]),
    "the warm-up beside the budget": (set_recipe(warmup=WARMUP | {"in_budget": False}), [0, POOL, POOL]),
    "no warm-up": (set_recipe(warmup=None), [0, POOL, POOL]),
    "two rounds": (set_recipe(rounds=2), [0, POOL]),
    "tokens": (set_recipe(budget="260 tokens"), [0, None, None]),
    "length corrected, per token": (set_recipe(length_corrected=True, per="token"), [0, None, None]),
    "balanced over one source": (set_recipe(balance="source"), [0, 0, 0]),
    "short responses left out": (set_recipe(min_response_tokens=4), [None, None, None]),
    "another way of tuning": (lambda graph: graph.settings(feedback={"epochs": 2, "batch_tokens": 256}), [POOL] * 3),
}


@pytest.mark.walk(2)
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_does_again_what_it_moves_and_ends_as_a_fresh_run(graph: Graph, tmp_path: Path, edit: str) -> None:
    change, scored = EDITS[edit]
    change(graph)
    planned = graph.plan()
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert_as_planned(planned, done)
    figures = materialised(done)
    computed = [figures[f"d3_round_{n + 1}", "rounds"]["rows computed"] for n in range(len(scored))]
    assert all(wanted in (None, found) for wanted, found in zip(scored, computed, strict=True)), computed
    for step in planned.steps:
        if step.asset in ASSETS and step.computed is not None:
            assert computed[int(step.asset[-1]) - 1] <= step.computed
    if edit != "a row more":
        assert ("coreset", "plain") not in figures
    if edit in ("a row more in the budget", "two rounds"):
        assert_brute_force_agrees(graph, {"two rounds": [7, 13]}.get(edit, [5, 10, 14]))
    assert graph.refresh().runs == []
    fresh = from_scratch(graph, tmp_path)
    assert (
        graph.order("rounds")
        .select("sample_id", "rank", "round")
        .equals(fresh.order("rounds").select("sample_id", "rank", "round"))
    )
    for name in ("gain", "upd", "grade"):
        difference = (graph.order("rounds")[name] - fresh.order("rounds")[name]).abs().max()
        assert difference is None or difference <= 1e-4, name


def from_scratch(graph: Graph, place: Path) -> Graph:
    """The same data and settings, made by the functions of the core in a storage of their own."""
    fresh = Graph(place / "fresh")
    shutil.copytree(graph.folder / "data", fresh.folder / "data")
    shutil.copy(graph.config, fresh.config)
    workspace = fresh.workspace
    land_source(workspace, "a")
    make_target_model(workspace, pl.DataFrame)
    kinds = needed_kinds(workspace.settings)
    update_scores(workspace, "a", kinds)
    build_index(workspace, ["a"], kinds)
    write_spec(workspace, "rounds")
    rounds = rounds_of(workspace, "rounds")
    for number in range(rounds.spec.round_count):
        make_round(rounds, number + 1)
    make_coreset(workspace, "rounds")
    return fresh


def test_the_options_of_d3_hold_in_every_round(graph: Graph) -> None:
    """Every one of them at once, two sources, and the warm-up rows in the budget."""
    write(graph.folder / "data" / "b" / "0.jsonl", rows(300, 20))
    sources = {"a": {"path": "data/a"}, "b": {"path": "data/b"}}
    graph.settings(sources=sources, coresets=RECIPES | {"rounds": ROUNDS | OPTIONS})
    done = graph.refresh()
    assert done.is_whole, [run.errors for run in done.failed]
    assert_brute_force_agrees(graph, [5, 9, 13], options=True)
    of_b = [sources == ["b"] for sources in graph.order("rounds").sort("rank")["sources"].to_list()]
    for rank in range(1, 14):
        assert math.floor(0.4 * rank) <= sum(of_b[:rank]) <= math.ceil(0.6 * rank)
    manifest = graph.manifest("rounds")
    assert manifest["options"] == {"per": "token", "length_corrected": True, "whiten": True}
    assert [(one["group"], one["chosen"]) for one in manifest["mixture"]] == [
        ("b", sum(of_b)),
        ("all others", 13 - sum(of_b)),
    ]
    saved = read_saved_order(graph.workspace.orders / f"{manifest['order']}.parquet", manifest["order"])
    assert saved is not None  # with the groups, which `why` names
    groups = saved.table.join(graph.pool(), on="sample_id").select("state_group", pl.col("sources").list.first())
    assert set(groups.rows()) == {(0, "b"), (1, "a")}


def test_killed_in_round_2_it_goes_on(graph: Graph, tmp_path: Path) -> None:
    set_recipe(warmup=None)(graph)
    log = tmp_path / "log"
    log.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.killed_refresh", str(graph.folder), str(log)],
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and "round 2 of rounds\t20\t" not in log.read_text():
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert "finished" not in log.read_text()
    rounds = rounds_of(graph.workspace, "rounds")
    model = rounds.model(2, rounds.record_before(2))
    assert model.is_tuned
    kept = POOL - rounds.scores(model).missing_rows().height
    assert 20 - PART_ROWS < kept < POOL
    planned = graph.plan()
    assert {step.asset: step.computed for step in planned.steps if step.asset in ASSETS} == {
        "d3_round_2": POOL - kept,
        "d3_round_3": POOL,
    }
    done = graph.refresh()
    assert_as_planned(planned, done)
    figures = materialised(done)
    assert ("d3_round_1", "rounds") not in figures
    assert figures["d3_round_2", "rounds"]["rows computed"] == POOL - kept
    assert figures["d3_round_2", "rounds"]["models tuned"] == 0
    assert_brute_force_agrees(graph, [5, 9, 13])


def test_a_lost_record_is_made_again_from_the_stored_scores(graph: Graph) -> None:
    path = Path(str(graph.workspace.round_record("rounds", 2)))
    before = path.read_bytes()
    path.unlink()
    planned = graph.plan()
    assert [(step.asset, step.partition, step.computed) for step in planned.steps] == [("d3_round_2", "rounds", 0)]
    done = graph.refresh()
    assert made(done) == {("d3_round_2", "rounds")}
    assert path.read_bytes() == before


def test_lost_weights_are_made_again_only_where_a_score_is_missing(graph: Graph) -> None:
    shutil.rmtree(graph.folder / ".dselect" / "rounds" / "runs")
    assert graph.refresh().runs == []
    append_a_row(graph)
    graph.refresh(select=dg.AssetSelection.all() - dg.AssetSelection.assets(*ASSETS, "coreset"))
    first_round = make_round(rounds_of(graph.workspace, "rounds"), 1)
    assert (first_round.tuned, first_round.rows_computed) == (True, 1)


def test_why_tells_the_round_and_the_model_and_the_manifest_names_them(graph: Graph) -> None:
    order = graph.order("rounds")
    told = {number: dselect(graph.folder, "why", order.filter(round=number)["sample_id"][0]) for number in (0, 1, 3)}
    assert "chosen, 1 of 13, as a warm-up row (random), before round 1 of 3" in told[0]
    assert "in round 1 of 3, by the scores of the model tuned on 4 warm-up rows, gain" in told[1]
    assert "in round 3 of 3, by the scores of the model tuned on the 9 rows chosen before, gain" in told[3]
    left = graph.pool().join(order, on="sample_id", how="anti")["sample_id"][0]
    assert "by the scores of the model tuned on the 9 rows chosen before (round 3 of 3)" in dselect(
        graph.folder, "why", left
    )
    assert told[3].count("not used now") == 0
    manifest = graph.manifest("rounds")
    assert [one["came_in"] for one in manifest["rounds"]] == [5, 4, 4]
    assert manifest["rounds"][2]["tuned_on_rows"] == 9
    assert manifest["in_rounds"] == {"rounds": 3, "warmup": {**WARMUP, "in_budget": True}}
    assert "rounds" not in graph.manifest("plain")
    assert "in_rounds" not in graph.manifest("plain")


def test_rounds_that_are_gone_leave_the_other_coresets_alone(graph: Graph) -> None:
    append_a_row(graph)
    graph.refresh()  # `plain` was made beside the rounds
    graph.settings(coresets={"plain": RECIPES["plain"]})
    graph.refresh()
    assert graph.refresh().runs == []
    assert "Everything is up to date" in dselect(graph.folder, "status")
    with graph.instance() as instance:
        assert instance.get_dynamic_partitions("d3_round_1") == []


def test_a_warm_up_larger_than_the_first_share_is_refused_with_the_remedy(graph: Graph) -> None:
    set_recipe(warmup=WARMUP | {"samples": 6})(graph)
    told = dselect(graph.folder, "refresh", code=1)
    assert "round 1 of rounds: the warm-up rows take 6 rows, and the first of 3 rounds has 5" in told
    assert "in_budget: false" in told


@pytest.mark.parametrize("recipe", [{"strategy": "kcenter", "rounds": 2}, {"strategy": "random", "warmup": WARMUP}])
def test_rounds_of_another_strategy_are_refused(graph: Graph, recipe: dict[str, Any]) -> None:
    graph.settings(coresets={"other": {"budget": 5} | recipe})
    told = dselect(graph.folder, "plan", code=2)
    assert "is for d3" in told


def test_one_round_is_the_recipe_that_it_was(graph: Graph) -> None:
    recorded = json.loads((graph.folder / ".dselect" / "specs" / "plain.json").read_text())
    assert recorded.keys() == {"strategy", "budget", "seed", "checksum"}
    graph.settings(coresets=RECIPES | {"plain": RECIPES["plain"] | {"rounds": 1}})
    assert graph.refresh().runs == []


@pytest.mark.parametrize("warmup", [None, WARMUP])
def test_graders_that_get_names_over_a_pool_that_is_made(graph: Graph, warmup: dict[str, Any] | None) -> None:
    more = {"strategy": "d3", "budget": 10, "rounds": 2, "grade": "one"} | ({"warmup": warmup} if warmup else {})
    graph.settings(
        graders={"one": {}, "two": {}}, coresets={"plain": RECIPES["plain"] | {"grade": "two"}, "more": more}
    )
    planned = {(step.asset, step.partition) for step in graph.plan().steps}
    assert {("d3_round_2", "more"), ("coreset", "more")} <= planned
    done = graph.refresh()
    assert done.is_whole and made(done) >= planned & {("d3_round_2", "more"), ("coreset", "more")}
    assert len(graph.order("more")) == 10
