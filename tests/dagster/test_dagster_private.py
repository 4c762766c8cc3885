"""What dselect uses of Dagster beyond its public API is still there, and few files use it.

When an upgrade breaks this test, its message says which name moved and what dselect needs it for. Nothing here imports
that file, so that the message comes also when the file itself cannot be imported.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import dagster as dg
import pytest

ROOT = Path(__file__).parents[2]
PRIVATE = "dselect_dagster/dagster_private.py"
PRIVATE_STALENESS = "dselect_dagster/dagster_private_staleness.py"
PRIVATE_SQLITE = "dselect_dagster/dagster_private_sqlite.py"
TESTS_PRIVATE = "tests/dagster/dagster_private.py"

STALENESS, SQLITE, CONDITIONS, INSTANCE, RUNS, CHECKS = (
    "the staleness of partitions",
    "the local storage of a refresh",
    "the evaluation of automation conditions",
    "opening the instance",
    "running assets in its process",
    "evaluating checks apart from their asset",
)
FILES = {STALENESS: PRIVATE_STALENESS, SQLITE: PRIVATE_SQLITE, "a test": TESTS_PRIVATE}
RESOLVER = "dagster._core.definitions.data_version.CachingStaleStatusResolver"
TICK = "dagster._core.definitions.automation_tick_evaluation_context.AutomationTickEvaluationContext"
DAEMON = "dagster._daemon.asset_daemon.asset_daemon_cursor"
DAGSTER_INSTANCE = "dagster._core.instance.instance.DagsterInstance"
GRAPH = "dagster._core.definitions.assets.graph.base_asset_graph.BaseAssetGraph"
RESULT = "dagster._core.execution.execution_result.ExecutionResult"
EVENT_LOG = "dagster._core.storage.event_log.sqlite.SqliteEventLogStorage"
RUN_STORAGE = "dagster._core.storage.runs.sqlite.SqliteRunStorage"
EVENT = "dagster._core.events.DagsterEvent"

# {name: (what dselect needs it for, parameters that dselect passes)}
NEEDED: dict[str, tuple[str, tuple[str, ...]]] = {
    "dagster._core.definitions.data_version.DataProvenance": (STALENESS, ()),
    "dagster._core.definitions.data_version.extract_data_version_from_entry": (STALENESS, ("entry",)),
    "dagster._core.definitions.data_version.StaleCause": (STALENESS, ("category", "reason", "dependency")),
    "dagster._core.definitions.data_version.StaleCauseCategory.CODE": (STALENESS, ()),
    "dagster._core.definitions.data_version.StaleStatus.FRESH": (STALENESS, ()),
    "dagster._core.definitions.data_version.StaleStatus.MISSING": (STALENESS, ()),
    RESOLVER: (STALENESS, ("instance", "asset_graph", "loading_context", "instance_queryer")),
    f"{RESOLVER}.get_status": (STALENESS, ("key", "partition_key")),
    f"{RESOLVER}.get_stale_causes": (STALENESS, ("key", "partition_key")),
    f"{RESOLVER}._get_latest_data_version_record": (STALENESS, ("key",)),
    f"{RESOLVER}._get_partition_dependencies": (STALENESS, ("key",)),
    f"{RESOLVER}._is_dep_updated": (STALENESS, ("provenance", "dep_key")),
    f"{GRAPH}.get_parent_partition_keys_for_child": (
        STALENESS,
        ("partition_key", "parent_asset_key", "child_asset_key"),
    ),
    "dagster._core.storage.event_log.base.EventLogStorage.get_latest_tags_by_partition": (
        STALENESS,
        ("asset_key", "event_type", "tag_keys", "asset_partitions", "before_cursor"),
    ),
    "dagster._core.definitions.events.AssetKeyPartitionKey": (STALENESS, ("asset_key", "partition_key")),
    "dagster._core.loader.LoadingContext.instance": (STALENESS, ()),
    "dagster._core.loader.LoadingContext.loaders": (STALENESS, ()),
    "dagster._core.storage.event_log.base.AssetRecord.prepare": (STALENESS, ("context", "ids")),
    "dagster._utils.caching_instance_queryer.CachingInstanceQueryer": (
        STALENESS,
        ("instance", "asset_graph", "loading_context"),
    ),
    "dagster._utils.caching_instance_queryer.CachingInstanceQueryer.get_dynamic_partitions": (STALENESS, ()),
    f"{DAGSTER_INSTANCE}.get_latest_storage_id_by_partition": (STALENESS, ("asset_key", "event_type")),
    "dagster._core.instance.ref.InstanceRef.storage_data": (SQLITE, ()),
    "dagster._core.storage.sqlite_storage.DagsterSqliteStorage": (SQLITE, ("base_dir", "inst_data")),
    "dagster._core.storage.sqlite_storage.DagsterSqliteStorage.from_local": (SQLITE, ("base_dir", "inst_data")),
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage.SqliteScheduleStorage.from_local": (
        SQLITE,
        ("base_dir",),
    ),
    "dagster._core.storage.sql.create_engine": (SQLITE, ()),
    "dagster._serdes.ConfigurableClassData": (SQLITE, ()),
    RUN_STORAGE: (SQLITE, ("conn_string", "inst_data")),
    f"{RUN_STORAGE}.from_local": (SQLITE, ("base_dir",)),
    f"{RUN_STORAGE}.connect": (SQLITE, ()),
    f"{RUN_STORAGE}.dispose": (SQLITE, ()),
    EVENT_LOG: (SQLITE, ("base_dir",)),
    f"{EVENT_LOG}._connect": (SQLITE, ("shard",)),
    f"{EVENT_LOG}._initdb": (SQLITE, ("engine",)),
    f"{EVENT_LOG}.conn_string_for_shard": (SQLITE, ("shard_name",)),
    f"{EVENT_LOG}.path_for_shard": (SQLITE, ("run_id",)),
    f"{EVENT_LOG}.dispose": (SQLITE, ()),
    "dagster._core.definitions.asset_daemon_cursor.AssetDaemonCursor.empty": (CONDITIONS, ()),
    TICK: (
        CONDITIONS,
        (
            "evaluation_id",
            "instance",
            "asset_graph",
            "cursor",
            "materialize_run_tags",
            "observe_run_tags",
            "auto_observe_asset_keys",
            "asset_selection",
            "logger",
            "emit_backfills",
        ),
    ),
    f"{TICK}.evaluate": (CONDITIONS, ()),
    "dagster._core.definitions.asset_daemon_cursor.AssetDaemonCursor.previous_condition_cursors": (CONDITIONS, ()),
    f"{DAEMON}_from_instigator_serialized_cursor": (CONDITIONS, ("serialized_cursor", "asset_graph")),
    f"{DAEMON}_to_instigator_serialized_cursor": (CONDITIONS, ("cursor",)),
    f"{DAGSTER_INSTANCE}.schedule_storage": (CONDITIONS, ()),
    f"{DAGSTER_INSTANCE}.update_instigator_state": (CONDITIONS, ("state",)),
    "dagster._core.scheduler.instigation.InstigatorType.SENSOR": (CONDITIONS, ()),
    "dagster._core.scheduler.instigation.InstigatorState.name": (CONDITIONS, ()),
    "dagster._core.scheduler.instigation.InstigatorState.selector_id": (CONDITIONS, ()),
    "dagster._core.scheduler.instigation.InstigatorState.sensor_instigator_data": (CONDITIONS, ()),
    "dagster._core.scheduler.instigation.InstigatorState.with_data": (CONDITIONS, ("instigator_data",)),
    "dagster._core.scheduler.instigation.SensorInstigatorData.cursor": (CONDITIONS, ()),
    "dagster.Definitions.permissive_map_resolved_asset_specs": (CONDITIONS, ("func", "selection")),
    "dagster._core.instance.ref.InstanceRef.from_dir": (INSTANCE, ("base_dir", "overrides")),
    "dagster._core.storage.noop_compute_log_manager.NoOpComputeLogManager": (INSTANCE, ()),
    f"{DAGSTER_INSTANCE}.from_ref": (INSTANCE, ("instance_ref",)),
    f"{DAGSTER_INSTANCE}.all_asset_keys": (INSTANCE, ()),
    f"{DAGSTER_INSTANCE}.all_instigator_state": (INSTANCE, ()),
    f"{DAGSTER_INSTANCE}.run_storage": (INSTANCE, ()),
    "dagster._core.storage.runs.SqlRunStorage.connect": (INSTANCE, ()),
    f"{DAGSTER_INSTANCE}.report_run_failed": (RUNS, ("dagster_run", "message")),
    "dagster.Definitions.resolve_asset_graph": (RUNS, ()),
    "dagster.Definitions.resolve_implicit_global_asset_job_def": (RUNS, ()),
    "dagster.AssetSelection.resolve": (RUNS, ("all_assets",)),
    f"{GRAPH}.get_all_asset_keys": (RUNS, ()),
    f"{GRAPH}.toposorted_asset_keys": (RUNS, ()),
    f"{RESULT}.get_asset_materialization_events": (RUNS, ()),
    f"{RESULT}.get_asset_check_evaluations": (RUNS, ()),
    f"{EVENT}.step_failure_data": (RUNS, ()),
    f"{EVENT}.step_key": (RUNS, ()),
    f"{EVENT}.step_materialization_data": (RUNS, ()),
    # Their constructors are generated when they are first called, and have no signature until then.
    "dagster._core.definitions.asset_checks.asset_check_evaluation.AssetCheckEvaluationTargetMaterializationData": (
        CHECKS,
        (),
    ),
    "dagster._core.event_api.PartitionKeyFilter": (CHECKS, ()),
    f"{DAGSTER_INSTANCE}.event_log_storage": (CHECKS, ()),
    "dagster._core.storage.event_log.base.EventLogStorage.get_latest_asset_check_execution_by_key": (
        CHECKS,
        ("check_keys", "partition_filter"),
    ),
    "dagster._core.storage.asset_check_execution_record.AssetCheckExecutionRecord.evaluation": (CHECKS, ()),
    "dagster.JobDefinition._copy": (RUNS, ("kwargs",)),
    "dagster.JobDefinition.as_ephemeral_job": (RUNS, ("resource_defs", "input_values", "asset_selection")),
    "dagster.JobDefinition.get_subset": (CHECKS, ("asset_selection", "asset_check_selection")),
    "dagster._core.definitions.data_version.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD": ("a test", ()),
    "dagster._core.execution.context.data_version_cache.SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD": (
        "a test",
        (),
    ),
    "dagster._core.events.AssetMaterializationPlannedData": ("a test", ("asset_key", "partition")),
    "dagster._core.loader.LoadingContextForTest": ("a test", ("instance",)),
    "dagster._core.test_utils.create_run_for_test": ("a test", ("instance",)),
    "dagster._core.remote_origin.RegisteredCodeLocationOrigin": ("a test", ()),
    "dagster._core.remote_origin.RemoteInstigatorOrigin": ("a test", ()),
    "dagster._core.remote_origin.RemoteRepositoryOrigin": ("a test", ()),
    "dagster._core.scheduler.instigation.InstigatorStatus.RUNNING": ("a test", ()),
    f"{DAGSTER_INSTANCE}.add_instigator_state": ("a test", ("state",)),
    f"{DAGSTER_INSTANCE}.get_instigator_state": ("a test", ("origin_id", "selector_id")),
}


def what_moved(name: str) -> str | None:
    """A sentence for a name that is gone or has lost a parameter; None where all is as dselect needs it."""
    purpose, parameters = NEEDED[name]
    needed_by = f"{FILES.get(purpose, PRIVATE)} needs it for {purpose}"
    if (thing := find(name)) is None:
        return f"Dagster {dg.__version__} moved {name}: {needed_by}"
    if parameters:
        gone = [parameter for parameter in parameters if parameter not in inspect.signature(thing).parameters]
        if gone:
            return f"Dagster {dg.__version__} took {', '.join(gone)} from the parameters of {name}: {needed_by}"
    return None


def find(name: str) -> object | None:
    """A module, class, method or constant by its full name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part, None) or getattr(thing, "__dataclass_fields__", {}).get(part)
        return thing
    return None


@pytest.mark.parametrize("name", NEEDED)
def test_what_dselect_uses_of_dagsters_private_parts_is_still_there(name: str) -> None:
    moved = what_moved(name)
    assert moved is None, moved


def test_the_message_says_what_moved_and_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.definitions import data_version

    def get_status(self: object, asset: dg.AssetKey) -> None: ...

    monkeypatch.setattr(data_version.CachingStaleStatusResolver, "get_status", get_status)
    assert what_moved(f"{RESOLVER}.get_status") == (
        f"Dagster {dg.__version__} took key, partition_key from the parameters of {RESOLVER}.get_status: "
        f"{PRIVATE_STALENESS} needs it for the staleness of partitions"
    )
    monkeypatch.delattr(data_version, "CachingStaleStatusResolver")
    assert what_moved(RESOLVER) == (
        f"Dagster {dg.__version__} moved {RESOLVER}: {PRIVATE_STALENESS} needs it for the staleness of partitions"
    )


@pytest.mark.parametrize("file", [PRIVATE, PRIVATE_STALENESS, PRIVATE_SQLITE, TESTS_PRIVATE])
def test_every_private_import_is_in_the_list(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dagster.")
        for alias in node.names
    }
    assert imported
    assert {name for name in imported if not any(listed.startswith(name) for listed in NEEDED)} == set()


def test_no_other_file_uses_dagsters_private_parts() -> None:
    allowed = {PRIVATE, PRIVATE_STALENESS, PRIVATE_SQLITE, TESTS_PRIVATE, "tests/dagster/test_dagster_private.py"}
    rooms = ("dselect_core", "dselect_dagster", "tests", "benchmarks", "demo")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    offenders = {
        file.relative_to(ROOT).as_posix() for file in files if re.search(r"\b(dagster|dg)\._", file.read_text("utf-8"))
    }
    assert offenders <= allowed
    # Dagster's own objects are used as they are: nothing is put in the place of a method.
    assert not [
        file for file in files if "tests" not in file.parts and re.search(r"\b(instance|dg)\.\w+ = ", file.read_text())
    ]
