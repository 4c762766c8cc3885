"""The conditions of rounds and of the coreset that reads them: each is made once for a change, after what it reads."""

import dagster as dg
import pytest

from dselect_dagster.dagster_private import evaluate_conditions
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.namespace import PLAIN

ASSETS = ["index", "candidates", "d3_round_1", "d3_round_2", "coreset"]


class Model:
    """index → candidates[recipe] → d3_round_1, d3_round_2 of `rounds` alone → coreset[recipe], as in the graph."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.content = "1"
        self.define("1")
        self.instance.add_dynamic_partitions(str(PLAIN.recipe.name), ["plain", "rounds"])
        for number in (0, 1):
            self.instance.add_dynamic_partitions(str(PLAIN.rounds[number].name), ["rounds"])

    def define(self, code: str) -> None:
        """The definitions, with this code of the rounds."""

        def version() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content))

        def of_recipe(*names: str) -> list[dg.AssetDep]:
            return [dg.AssetDep(name, partition_mapping=dg.IdentityPartitionMapping()) for name in names]

        def condition(*waits_for: str) -> dg.AutomationCondition:
            return on_input_change(PLAIN, waits_for=waits_for)

        first, second = ASSETS[2:4]

        @dg.asset
        def index() -> dg.MaterializeResult:
            return version()

        @dg.asset(deps=[index], partitions_def=PLAIN.recipe, automation_condition=condition())
        def candidates() -> dg.MaterializeResult:
            return version()

        @dg.asset(
            name=first,
            deps=of_recipe("candidates"),
            partitions_def=PLAIN.rounds[0],
            code_version=code,
            automation_condition=condition(),
        )
        def round_1() -> dg.MaterializeResult:
            return version()

        @dg.asset(
            name=second,
            deps=of_recipe("candidates", first),
            partitions_def=PLAIN.rounds[1],
            code_version=code,
            automation_condition=condition(first),
        )
        def round_2() -> dg.MaterializeResult:
            return version()

        @dg.asset(
            deps=["candidates", *of_recipe(first, second)],
            partitions_def=PLAIN.recipe,
            automation_condition=condition(first, second),
        )
        def coreset() -> dg.MaterializeResult:
            return version()

        self.defs = dg.Definitions(assets=[index, candidates, round_1, round_2, coreset])

    def run(self, *assets: str, partition: str | None = None) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(asset) for asset in assets]
        job.execute_in_process(instance=self.instance, asset_selection=keys, partition_key=partition)

    def ticks(self) -> list[set[tuple[str, str | None]]]:
        """What each tick requests, and runs, until one requests nothing.

        The plain coreset counts in the first alone: where several recipes are made at once, Dagster asks for some of
        them a second time (`executed_with_root_target` sees the partition that was made last).
        """
        asked: list[set[tuple[str, str | None]]] = []
        while len(asked) < 10:
            requested, self.cursor = evaluate_conditions(self.defs, self.instance, self.cursor)
            keys = {(asset.to_user_string(), partition) for asset, partition in requested}
            if not keys:
                return asked
            for partition in ("plain", "rounds"):
                # As the daemon does: what has partitions of one set is one run.
                together = [asset for asset in ("candidates", "coreset") if (asset, partition) in keys]
                alone = [asset for asset in ASSETS[2:4] if (asset, partition) in keys]
                for assets in (together, *([asset] for asset in alone)):
                    if assets:
                        self.run(*assets, partition=partition)
            asked.append(keys - {("coreset", "plain")} if asked else keys)
        raise AssertionError(f"never quiet: {asked}")


IN_ORDER = [
    {("candidates", "plain"), ("candidates", "rounds"), ("coreset", "plain")},
    {("d3_round_1", "rounds")},
    {("d3_round_2", "rounds")},
    {("coreset", "rounds")},
]


@pytest.fixture
def graph() -> Model:
    model = Model()
    assert model.ticks() == []
    model.run("index")
    assert model.ticks() == IN_ORDER
    return model


def test_a_change_makes_each_round_once_then_the_coreset_and_a_plain_coreset_does_not_wait(graph: Model) -> None:
    graph.content = "2"
    graph.run("index")
    assert graph.ticks() == IN_ORDER


def test_a_round_that_comes_out_otherwise_moves_what_follows(graph: Model) -> None:
    graph.content = "2"
    graph.run("d3_round_1", partition="rounds")
    assert graph.ticks() == IN_ORDER[2:]


def test_a_round_that_comes_out_the_same_moves_nothing(graph: Model) -> None:
    graph.run("d3_round_1", partition="rounds")
    assert graph.ticks() == []


def test_other_code_makes_the_rounds_one_after_the_other(graph: Model) -> None:
    graph.define("2")
    graph.content = "2"
    assert graph.ticks() == IN_ORDER[1:]
