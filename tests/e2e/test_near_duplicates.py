"""Near-duplicates on the real graph: planted ones, rows that come, thresholds that move, and the setting taken out."""

from typing import Any

import polars as pl
import pytest

from dselect_core.lineage.quality_checks import few_near_duplicates
from dselect_core.pool.near_duplicates import read_near_duplicates
from tests.e2e.conftest import RECIPES, WORDS, InState
from tests.e2e.content import id_of
from tests.e2e.graph import CORPUS_WIDE, SCORES, Graph, alpaca, assert_as_planned, made, materialised
from tests.e2e.test_cli import dselect

pytestmark = pytest.mark.some(2)

THRESHOLD = 0.9999  # a model that is tuned for three steps finds all prompts alike to some degree


def answered(prompt: str, *answers: str) -> list[dict[str, str]]:
    return [{"instruction": prompt, "input": "", "output": answer} for answer in answers]


# The heuristic grader gives the first answer 1, a refusal 0.5, and what repeats itself or breaks off 0.2.
RIVERS = answered(
    "Name the three rivers that meet at Passau.",
    "The Danube, the Inn and the Ilz meet at Passau.",
    "I am sorry, but as an AI I cannot answer that.",
    "river river river river river river river river river river river river",
)
HARBOUR = answered(
    "Write one sentence about the old harbour of Lisbon and its ships.",
    "Old ships sleep in the harbour of Lisbon.",
    "The harbour of Lisbon is where",
)
GROUPS = [[id_of(row) for row in rows] for rows in (RIVERS, HARBOUR)]
STRATEGIES = RECIPES | {
    "random": {"strategy": "random", "budget": 20},
    "center": {"strategy": "kcenter", "budget": 20},
    "easy": {"strategy": "topk:upd", "budget": 30},
    "spread": {"strategy": "facility-location", "budget": 20},
}


def as_planned(graph: Graph) -> dict[tuple[str, str | None], dict[str, Any]]:
    """A refresh that makes what the plan said; returns what, with its figures."""
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    assert done.is_whole
    assert not graph.plan().steps
    return materialised(done)


def dropped(graph: Graph) -> dict[str, str]:
    """{sample that is not chosen: the one that is kept for it}"""
    return dict(read_near_duplicates(graph.workspace).table.select("sample_id", "keeper_id").iter_rows())


def just_below_the_most_alike(graph: Graph) -> float:
    """A threshold at which some samples are near-duplicates that are not at THRESHOLD."""
    nearest = pl.read_parquet(str(graph.workspace.neighbors))["similarity"]
    return float(nearest.filter(nearest < THRESHOLD).max()) - 1e-6  # type: ignore[arg-type]


@pytest.fixture
def planted(graph: Graph, in_state: InState) -> Graph:
    return in_state(graph, plant)


def plant(graph: Graph) -> None:
    graph.source("b", [*alpaca(WORDS[:8], offset=50), *RIVERS, *HARBOUR])
    graph.settings(coresets=STRATEGIES, near_duplicates={"threshold": THRESHOLD})
    as_planned(graph)


def test_no_two_of_a_group_are_chosen_the_best_graded_may_be_and_why_tells_it(planted: Graph) -> None:
    assert dropped(planted) == {other: best for best, *others in GROUPS for other in others}
    chosen = {recipe: set(planted.order(recipe)["sample_id"]) for recipe in STRATEGIES}
    for recipe, ids in chosen.items():
        for best, *others in GROUPS:
            assert not ids & set(others), recipe
            assert recipe != "easy" or best in ids  # all that may be chosen
        manifest = planted.manifest(recipe)
        record = {"rows": 3, "groups": 2, "threshold": THRESHOLD, "keep": "best"}
        assert manifest["near_duplicates"].items() >= record.items()
        assert manifest["excluded_reasons"] == {"near-duplicate of a sample that is kept": 3}
        assert manifest["counts"]["pool"] == 33  # a share of the budget is a share of it all
    best, refused, _ = GROUPS[0]
    reason = f"near-duplicate of a sample that is kept ({best[:12]}: cosine 1.000, grade 1 against 0.5)"
    assert f"d3 (d3, 25%): out: cannot be chosen: {reason}" in dselect(planted.folder, "why", refused)
    verdict = few_near_duplicates(planted.workspace)
    assert verdict.passed
    assert verdict.description == "3 of 33 samples (9.1%) are near-duplicates of 2 that are kept"


def test_the_asset_shows_counts_sizes_and_examples_with_their_prompts(graph: Graph) -> None:
    graph.source("b", [*alpaca(WORDS[:8], offset=50), *RIVERS, *HARBOUR])
    graph.settings(near_duplicates={"threshold": THRESHOLD})
    shown = as_planned(graph)["near_duplicates", None]
    assert (shown["dagster/row_count"], shown["groups"]) == (3, 2)
    assert "| 3 | cosine | 1 |" in shown["examples"]
    assert shown["examples"].count("rivers that meet at Passau") == 2


def test_a_new_row_is_scored_alone_and_takes_the_place_of_a_worse_one(planted: Graph) -> None:
    better = answered(HARBOUR[0]["instruction"], "Tall ships rest in Lisbon's old harbour, and gulls cry above them.")
    worse = answered(RIVERS[0]["instruction"], "The rivers that meet are the")
    planted.settings(coresets=STRATEGIES | {"easy": {"strategy": "topk:upd", "budget": 25}})
    rows = [*alpaca(WORDS[:8], offset=50), *RIVERS, HARBOUR[1], *better]
    planted.source("b", rows)
    figures = as_planned(planted)
    assert dropped(planted) == dict.fromkeys(GROUPS[0][1:], GROUPS[0][0]) | {GROUPS[1][1]: id_of(better[0])}
    planted.source("b", [*rows, *worse])
    figures = as_planned(planted)
    assert {figures[asset, "b"]["rows computed"] for asset in SCORES} == {1}
    assert dropped(planted)[id_of(worse[0])] == GROUPS[0][0]
    assert id_of(worse[0]) not in {*planted.order("easy")["sample_id"]}


def test_another_threshold_groups_again_and_computes_no_score(planted: Graph) -> None:
    planted.settings(coresets=STRATEGIES | {"easy": {"strategy": "topk:upd", "budget": 25}})
    as_planned(planted)
    planted.settings(near_duplicates={"threshold": just_below_the_most_alike(planted)})
    figures = as_planned(planted)
    recipes = {(asset, recipe) for asset in ("candidates", "coreset") for recipe in STRATEGIES}
    assert set(figures) == {("near_duplicates", None), *recipes}
    assert len(dropped(planted)) > 3
    changes = pl.read_parquet(str(planted.workspace.coreset("easy") / "changes.parquet"))
    assert set(changes.filter(pl.col("change") == "left")["cause"]) == {"near-duplicate"}

    planted.settings(near_duplicates={"threshold": THRESHOLD, "keep": "first"})
    figures = as_planned(planted)
    assert not SCORES & {asset for asset, _ in figures}
    assert dropped(planted) == {other: min(ids) for ids in GROUPS for other in ids if other != min(ids)}


def test_the_setting_taken_out_gives_the_former_coresets_back_without_a_score(graph: Graph) -> None:
    before = {recipe: graph.order(recipe)["sample_id"].to_list() for recipe in RECIPES}
    versions = {recipe: graph.manifest(recipe)["corpus_version"] for recipe in RECIPES}
    graph.settings(near_duplicates={"threshold": just_below_the_most_alike(graph)})
    figures = as_planned(graph)
    of_recipes = {(asset, recipe) for asset in ("candidates", "coreset") for recipe in RECIPES}
    assert set(figures) == {("near_duplicates", None), *of_recipes}
    assert dropped(graph)
    graph.settings(near_duplicates=None)
    figures = as_planned(graph)
    assert set(figures) == of_recipes
    assert {recipe: graph.order(recipe)["sample_id"].to_list() for recipe in RECIPES} == before
    assert {recipe: graph.manifest(recipe)["corpus_version"] for recipe in RECIPES} == versions
    assert not any("near_duplicates" in graph.manifest(recipe) for recipe in RECIPES)


def test_a_pool_without_any_makes_no_coreset_again(graph: Graph) -> None:
    graph.settings(near_duplicates={"threshold": 1.0})
    assert set(as_planned(graph)) == {("near_duplicates", None), *(("candidates", recipe) for recipe in RECIPES)}


def test_neighbours_are_searched_though_no_recipe_reads_shots(graph: Graph) -> None:
    graph.source("b", [*alpaca(WORDS[:8], offset=50), *RIVERS])
    graph.settings(coresets={"any": {"strategy": "random", "budget": 10}}, near_duplicates={"threshold": THRESHOLD})
    figures = as_planned(graph)
    assert CORPUS_WIDE - {("miwv_values", None)} < set(figures)
    assert len(dropped(graph)) == 2


def test_a_lost_table_is_made_again_and_nothing_else(planted: Graph) -> None:
    before = dropped(planted)
    planted.workspace.near_duplicates.unlink()
    assert [(step.asset, step.why) for step in planted.plan().steps] == [
        ("near_duplicates", "corpus/near_duplicates.parquet is gone from the storage")
    ]
    assert made(planted.refresh()) == {("near_duplicates", None)}
    assert dropped(planted) == before


def test_nearly_the_same_text_is_found_where_the_prompts_are_not_that_alike(graph: Graph) -> None:
    story = " ".join(f"Ship {n} left the harbour of town {n * 7} with {n + 3} barrels of salt." for n in range(4))
    tales = [*answered("Tell me of three ships.", story), *answered("Sing me of three ships.", story)]
    graph.source("b", [*alpaca(WORDS[:8], offset=50), *tales])
    graph.settings(near_duplicates={"threshold": THRESHOLD})
    as_planned(graph)
    assert not dropped(graph)
    graph.settings(near_duplicates={"threshold": THRESHOLD, "text": 0.8})
    figures = as_planned(graph)
    assert not SCORES & {asset for asset, _ in figures}
    assert {frozenset(pair) for pair in dropped(graph).items()} == {frozenset(map(id_of, tales))}
    assert "near-duplicate of a sample that is kept" in dselect(graph.folder, "why", *dropped(graph))
    graph.source("b", [*alpaca(WORDS[:8], offset=50), tales[0]])
    as_planned(graph)
    assert not dropped(graph)
