"""The conditions of rounds and of the coreset that reads them: each is made once for a change, after what it reads."""

from pathlib import Path

import dagster as dg
import pytest

from dselect_dagster.dagster_private import evaluate_conditions
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.namespace import PLAIN
from dselect_dagster.refresh.hand_over import AutomationSensor
from tests.dagster.dagster_private import SensorState

ASSETS = ["index", "candidates", "d3_round_1", "d3_round_2", "coreset"]


class Model:
    """index → candidates[recipe] → d3_round_1, d3_round_2 of `rounds` alone → coreset[recipe], as in the graph."""

    def __init__(self, instance: dg.DagsterInstance | None = None) -> None:
        self.instance = instance or dg.DagsterInstance.ephemeral()
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
            automation_condition=condition("candidates"),
        )
        def round_1() -> dg.MaterializeResult:
            return version()

        @dg.asset(
            name=second,
            deps=of_recipe("candidates", first),
            partitions_def=PLAIN.rounds[1],
            code_version=code,
            automation_condition=condition("candidates", first),
        )
        def round_2() -> dg.MaterializeResult:
            return version()

        @dg.asset(
            deps=["candidates", *of_recipe(first, second)],
            partitions_def=PLAIN.recipe,
            automation_condition=condition("candidates", first, second),
        )
        def coreset() -> dg.MaterializeResult:
            return version()

        self.defs = dg.Definitions(assets=[index, candidates, round_1, round_2, coreset])

    def run(self, asset: str, partition: str | None = None) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(asset)], partition_key=partition)

    def ticks(self) -> list[set[tuple[str, str | None]]]:
        """What each tick requests, and runs, until one requests nothing."""
        asked: list[set[tuple[str, str | None]]] = []
        while len(asked) < 10:
            requested, self.cursor = evaluate_conditions(self.defs, self.instance, self.cursor)
            keys = {(asset.to_user_string(), partition) for asset, partition in requested}
            if not keys:
                return asked
            assert not {("candidates", recipe) for asset, recipe in keys if asset == "coreset"} & keys
            for asset, partition in sorted(keys, key=lambda key: ASSETS.index(key[0])):
                self.run(asset, partition)
            asked.append(keys)
        raise AssertionError(f"never quiet: {asked}")


IN_ORDER = [
    {("candidates", "plain"), ("candidates", "rounds")},
    {("coreset", "plain"), ("d3_round_1", "rounds")},
    {("d3_round_2", "rounds")},
    {("coreset", "rounds")},
]


def made(model: Model) -> Model:
    assert model.ticks() == []
    model.run("index")
    assert model.ticks() == IN_ORDER
    return model


@pytest.fixture
def graph() -> Model:
    return made(Model())


def test_a_change_makes_each_round_once_then_the_coreset_and_a_plain_coreset_does_not_wait(graph: Model) -> None:
    graph.content = "2"
    graph.run("index")
    assert graph.ticks() == IN_ORDER


def test_a_round_that_comes_out_otherwise_moves_what_follows(graph: Model) -> None:
    graph.content = "2"
    graph.run("d3_round_1", "rounds")
    assert graph.ticks() == IN_ORDER[2:]


def test_a_round_that_comes_out_the_same_moves_nothing(graph: Model) -> None:
    graph.run("d3_round_1", "rounds")
    assert graph.ticks() == []


def test_other_code_makes_the_rounds_one_after_the_other(graph: Model) -> None:
    graph.define("2")
    graph.content = "2"
    assert graph.ticks() == [{("d3_round_1", "rounds")}, *IN_ORDER[2:]]


def test_what_a_refresh_made_the_daemon_does_not_ask_for_and_the_other_way_round(tmp_path: Path) -> None:
    graph, daemon = made(Model(dg.DagsterInstance.local_temp(str(tmp_path)))), SensorState()

    def daemon_has_come_here() -> None:
        assert graph.cursor is not None
        daemon.write(graph.instance, graph.cursor)

    daemon_has_come_here()
    graph.content = "2"
    graph.define("2")  # the code of the rounds, too
    graph.run("index")
    for asset in ASSETS[1:]:
        graph.run(asset, "rounds")
        if asset in ("candidates", "coreset"):
            graph.run(asset, "plain")
    asked, _ = evaluate_conditions(graph.defs, graph.instance, graph.cursor)
    assert {asset.to_user_string() for asset, _ in asked} >= {"candidates", "d3_round_1"}
    AutomationSensor(graph.instance, PLAIN).hand_over(graph.defs)
    graph.cursor = daemon.read(graph.instance)
    assert graph.ticks() == []
    # What follows is asked for as ever.
    graph.content = "3"
    graph.run("index")
    assert graph.ticks() == IN_ORDER
    daemon_has_come_here()
    of_refresh = AutomationSensor(graph.instance, PLAIN)
    # A daemon that moves on beside a refresh keeps its own cursor.
    graph.run("index")
    assert graph.ticks() == []
    daemon_has_come_here()
    of_refresh.hand_over(graph.defs)
    assert daemon.read(graph.instance) == graph.cursor
