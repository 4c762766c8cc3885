"""The condition, on a graph of three: who is requested, when, and what is not lost."""

import dagster as dg
import pytest

from dselect_dagster.dagster_private import evaluate_conditions
from dselect_dagster.defs.automation_condition import on_input_change, once_there_is_data
from dselect_dagster.defs.namespace import PLAIN
from tests.dagster.dagster_private import end_run, start_run

PARTS = dg.DynamicPartitionsDefinition(name="part")


class Model:
    """raw[part] → score[part] → index (of any), and a model made once from raw."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.content: dict[str, str] = {}
        self.blocked: set[str] = set()
        self.cursor: str | None = None

        @dg.asset(partitions_def=PARTS)
        def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content[context.partition_key]))

        @dg.asset(partitions_def=PARTS, deps=[raw], automation_condition=on_input_change(PLAIN))
        def score(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion("s" + self.content[context.partition_key]))

        @dg.asset(deps=[score], automation_condition=on_input_change(PLAIN, allow_missing_deps=True))
        def index() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(str(sorted(self.content.items()))))

        @dg.asset(deps=[raw], automation_condition=once_there_is_data(PLAIN))
        def model() -> None: ...

        @dg.asset_check(asset=raw, blocking=True, partitions_def=PARTS)
        def sound(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=context.partition_key not in self.blocked)

        self.defs = dg.Definitions(assets=[raw, score, index, model], asset_checks=[sound])

    def land(self, part: str, content: str) -> None:
        self.content[part] = content
        self.instance.add_dynamic_partitions("part", [part])
        self.run([("raw", part)])

    def run(self, keys: list[tuple[str, str | None]]) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        for asset, part in keys:
            job.execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(asset)],
                partition_key=part,
                raise_on_error=False,
            )

    def tick(self) -> list[tuple[str, str | None]]:
        requested, self.cursor = evaluate_conditions(self.defs, self.instance, self.cursor)
        return sorted((asset.to_user_string(), partition) for asset, partition in requested)

    def run_until_quiet(self) -> list[tuple[str, str | None]]:
        """Tick and run to quiet; everything that was run, in order."""
        ran: list[tuple[str, str | None]] = []
        for _ in range(8):
            requested = self.tick()
            if not requested:
                return ran
            # upstream first, as runs of one tick are
            requested.sort(key=lambda key: ["model", "score", "index"].index(key[0]))
            self.run(requested)
            ran += requested
        raise AssertionError(f"never quiet: {ran}")


@pytest.fixture
def graph() -> Model:
    model = Model()
    assert model.run_until_quiet() == []
    model.land("a", "1")
    model.land("b", "1")
    assert set(model.run_until_quiet()) == {("score", "a"), ("score", "b"), ("index", None), ("model", None)}
    return model


def test_a_change_moves_its_partition_and_the_index_and_not_the_model(graph: Model) -> None:
    graph.land("a", "2")
    assert set(graph.run_until_quiet()) == {("score", "a"), ("index", None)}


def test_landing_the_same_again_moves_nothing(graph: Model) -> None:
    graph.land("a", "1")
    assert graph.run_until_quiet() == []


def test_a_new_partition_is_made_when_it_has_landed_and_not_before(graph: Model) -> None:
    graph.instance.add_dynamic_partitions("part", ["c"])
    assert graph.run_until_quiet() == []
    graph.land("c", "1")
    assert set(graph.run_until_quiet()) == {("score", "c"), ("index", None)}


def test_a_blocked_partition_waits_and_holds_up_no_other(graph: Model) -> None:
    graph.blocked = {"a"}
    graph.land("a", "2")
    graph.land("b", "2")
    ran = graph.run_until_quiet()
    assert ("score", "b") in ran
    assert ("score", "a") not in ran
    graph.blocked = set()
    graph.land("a", "3")
    assert ("score", "a") in graph.run_until_quiet()


def test_the_index_is_made_after_the_scores_that_the_same_change_asks_for(graph: Model) -> None:
    graph.land("a", "2")
    assert graph.tick() == [("score", "a")]
    graph.run([("score", "a")])
    assert graph.tick() == [("index", None)]


def test_an_update_between_a_request_and_the_next_tick_is_not_lost(graph: Model) -> None:
    graph.content["a"] = "2"
    graph.run([("score", "a")])
    assert graph.tick() == [("index", None)]
    graph.run([("index", None)])
    graph.content["b"] = "2"
    graph.run([("score", "b")])
    assert graph.tick() == [("index", None)]
    graph.run([("index", None)])
    assert graph.tick() == []


def test_an_update_that_lands_while_the_target_runs_is_not_lost(graph: Model) -> None:
    run_id = start_run(graph.instance, "score", "a")
    graph.land("a", "2")
    assert ("score", "a") not in graph.tick()
    end_run(graph.instance, run_id)
    assert ("score", "a") in graph.run_until_quiet()


def test_the_conditions_request_what_the_public_evaluation_requests(graph: Model) -> None:
    graph.land("a", "2")
    graph.instance.add_dynamic_partitions("part", ["c"])
    cursor = None
    public_cursor = None
    for _ in range(3):
        public = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=public_cursor)
        requested, cursor = evaluate_conditions(graph.defs, graph.instance, cursor)
        public_cursor = public.cursor
        assert requested == {
            (asset, partition)
            for asset in graph.defs.resolve_all_asset_keys()
            for partition in public.get_requested_partitions(asset)
        }
        graph.run([(asset.to_user_string(), partition) for asset, partition in requested])
        graph.land("b", str(len(requested)))
    assert requested
