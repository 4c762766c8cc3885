"""The condition, on a graph of three: who is requested, when, and what is not lost."""

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from dselect_dagster.defs.automation_condition import on_input_change, once_there_is_data

PARTS = dg.DynamicPartitionsDefinition(name="part")


class Model:
    """raw[part] → score[part] → index (of any), and a model made once from raw."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.content: dict[str, str] = {}
        self.blocked: set[str] = set()
        self.cursor: AssetDaemonCursor | None = None

        @dg.asset(partitions_def=PARTS)
        def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content[context.partition_key]))

        @dg.asset(partitions_def=PARTS, deps=[raw], automation_condition=on_input_change())
        def score(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion("s" + self.content[context.partition_key]))

        @dg.asset(deps=[score], automation_condition=on_input_change(allow_missing_deps=True))
        def index() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(str(sorted(self.content.items()))))

        @dg.asset(deps=[raw], automation_condition=once_there_is_data())
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
        result = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return sorted(
            (asset, part)
            for asset in ("score", "index", "model")
            for part in result.get_requested_partitions(dg.AssetKey(asset))
        )

    def drain(self) -> list[tuple[str, str | None]]:
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
    assert model.drain() == []
    model.land("a", "1")
    model.land("b", "1")
    assert set(model.drain()) == {("score", "a"), ("score", "b"), ("index", None), ("model", None)}
    return model


def test_a_change_moves_its_partition_and_the_index_and_not_the_model(graph: Model) -> None:
    graph.land("a", "2")
    assert set(graph.drain()) == {("score", "a"), ("index", None)}


def test_landing_the_same_again_moves_nothing(graph: Model) -> None:
    graph.land("a", "1")
    assert graph.drain() == []


def test_a_new_partition_is_made_when_it_has_landed_and_not_before(graph: Model) -> None:
    graph.instance.add_dynamic_partitions("part", ["c"])
    assert graph.drain() == []
    graph.land("c", "1")
    assert set(graph.drain()) == {("score", "c"), ("index", None)}


def test_a_blocked_partition_waits_and_holds_up_no_other(graph: Model) -> None:
    graph.blocked = {"a"}
    graph.land("a", "2")
    graph.land("b", "2")
    ran = graph.drain()
    assert ("score", "b") in ran
    assert ("score", "a") not in ran
    graph.blocked = set()
    graph.land("a", "3")
    assert ("score", "a") in graph.drain()


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
    run = create_run_for_test(
        graph.instance,
        job_name="__ASSET_JOB",
        status=DagsterRunStatus.STARTED,
        asset_selection=frozenset({dg.AssetKey("score")}),
        tags={"dagster/partition": "a"},
    )
    graph.instance.report_dagster_event(
        DagsterEvent.build_asset_materialization_planned_event(
            "__ASSET_JOB",
            "score",
            dg._core.events.AssetMaterializationPlannedData(dg.AssetKey("score"), partition="a"),  # type: ignore[attr-defined]
        ),
        run.run_id,
    )
    graph.land("a", "2")
    assert ("score", "a") not in graph.tick()
    graph.instance.report_dagster_event(
        DagsterEvent(DagsterEventType.RUN_SUCCESS.value, job_name="__ASSET_JOB"), run.run_id
    )
    assert ("score", "a") in graph.drain()
