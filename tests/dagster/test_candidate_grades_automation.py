"""The conditions around `candidate_grades`: made once for a change, before the recipes; a new one holds nothing up."""

import dagster as dg
import pytest

from dselect_core.settings.settings import Settings
from dselect_dagster.dagster_private import evaluate_conditions
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.defs.namespace import PLAIN

Keys = set[tuple[str, str | None]]


class Model:
    """index, coreset_spec[recipe] → candidate_grades → candidates[recipe], as in the graph."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.content = {"index": "1", "coreset_spec": "1", "candidate_grades": "1", "candidates": "1"}

        def version(asset: str) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content[asset]))

        @dg.asset
        def index() -> dg.MaterializeResult:
            return version("index")

        @dg.asset(partitions_def=PLAIN.recipe)
        def coreset_spec() -> dg.MaterializeResult:
            return version("coreset_spec")

        @dg.asset(
            deps=[index, coreset_spec],
            automation_condition=on_input_change(PLAIN, allow_missing_recipes=True),
        )
        def candidate_grades() -> dg.MaterializeResult:
            return version("candidate_grades")

        @dg.asset(
            deps=[index, coreset_spec, candidate_grades],
            partitions_def=PLAIN.recipe,
            automation_condition=on_input_change(PLAIN, waits_for=["candidate_grades"]),
        )
        def candidates() -> dg.MaterializeResult:
            return version("candidates")

        self.defs = dg.Definitions(assets=[index, coreset_spec, candidate_grades, candidates])
        self.instance.add_dynamic_partitions(str(PLAIN.recipe.name), ["a", "b"])

    def run(self, asset: str, partition: str | None = None) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(asset)], partition_key=partition)

    def ticks(self) -> list[Keys]:
        """What each tick requests, and runs, until one requests nothing."""
        asked: list[Keys] = []
        while len(asked) < 8:
            requested, self.cursor = evaluate_conditions(self.defs, self.instance, self.cursor)
            keys = {(asset.to_user_string(), partition) for asset, partition in requested}
            if not keys:
                return asked
            for asset, partition in sorted(keys, key=str):
                self.run(asset, partition)
            asked.append(keys)
        raise AssertionError(f"never quiet: {asked}")


GRADES: Keys = {("candidate_grades", None)}
BOTH: Keys = {("candidates", "a"), ("candidates", "b")}


@pytest.fixture
def graph() -> Model:
    model = Model()
    assert model.ticks() == []
    for recipe in ("a", "b"):
        model.run("coreset_spec", recipe)
    model.run("index")
    assert model.ticks()[:2] == [GRADES, BOTH]
    assert model.ticks() == []
    return model


def test_recipes_wait_for_the_grades_of_a_change(graph: Model) -> None:
    graph.content |= {"index": "2", "candidate_grades": "2"}
    graph.run("index")
    assert graph.ticks()[:2] == [GRADES, BOTH]
    assert graph.ticks() == []


def test_another_budget_asks_for_grades_first(graph: Model) -> None:
    graph.content["coreset_spec"] = "2"
    graph.run("coreset_spec", "a")
    assert graph.ticks()[:2] == [GRADES, {("candidates", "a")}]
    assert graph.ticks() == []


def test_a_recipe_that_is_not_recorded_yet_holds_up_no_other() -> None:
    model = Model()
    assert model.ticks() == []
    model.run("coreset_spec", "a")
    model.run("index")
    assert model.ticks()[:2] == [GRADES, {("candidates", "a")}]


@pytest.mark.parametrize("candidates", ["all", "only"])
def test_the_asset_is_there_with_the_setting_alone(candidates: str) -> None:
    settings = Settings.model_validate(
        {
            "sources": {"a": {"path": "a.json"}},
            "coresets": {"d3": {"strategy": "d3", "budget": "10%"}},
            "grader": {"candidates": candidates},
        }
    )
    graph = build_definitions(settings).resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    is_there = candidates == "only"
    assert ("candidate_grades" in names) == is_there
    assert "dependability_grades" in names
    of_source = graph.get(dg.AssetKey("dependability_grades"))
    assert (of_source.automation_condition is None) == is_there
    parents = {key.to_user_string() for key in graph.get(dg.AssetKey("candidates")).parent_keys}
    assert ("candidate_grades" in parents) == is_there
