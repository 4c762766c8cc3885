"""The storage that keeps connections writes what Dagster's own reads, and the other way round, also of an old home."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from dselect_dagster.dagster_private import open_instance_without_compute_logs

PARTITIONS = dg.DynamicPartitionsDefinition(name="sources")


@dg.asset(partitions_def=PARTITIONS)
def raw() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


DEFS = dg.Definitions([raw])


@contextmanager
def ours(home: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance_without_compute_logs(home) as instance:
        yield instance


@contextmanager
def dagsters(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run(instance: dg.DagsterInstance, partition: str) -> str:
    instance.add_dynamic_partitions("sources", [partition])
    job = DEFS.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, partition_key=partition).run_id


def events_of(instance: dg.DagsterInstance, run_id: str) -> list[str | None]:
    return [entry.dagster_event_type and entry.dagster_event_type.value for entry in instance.all_logs(run_id)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return tmp_path


def test_each_reads_what_the_other_wrote_before_and_meanwhile(home: Path) -> None:
    with dagsters(home) as instance:
        before = run(instance, "before")
    with ours(home) as mine, dagsters(home) as theirs:
        runs = [before, run(mine, "a"), run(theirs, "b"), run(mine, "c"), run(mine, "d")]
        for instance in (mine, theirs):
            assert {each.run_id for each in instance.get_runs()} == set(runs)
            assert instance.get_materialized_partitions(dg.AssetKey("raw")) == {"before", "a", "b", "c", "d"}
            assert {tuple(events_of(instance, run_id)) for run_id in runs} == {tuple(events_of(theirs, before))}


def test_a_copied_database_of_a_run_is_as_dagster_makes_it(home: Path) -> None:
    with ours(home) as instance:
        run_ids = [run(instance, name) for name in "abc"]
    with dagsters(home) as instance:
        run_ids.append(run(instance, "d"))
    shapes = []
    for run_id in run_ids:
        with sqlite3.connect(home / "history" / "runs" / f"{run_id}.db") as connection:
            tables = sorted(connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall())
            versions = connection.execute("SELECT * FROM alembic_version").fetchall()
            shapes.append((tables, versions, connection.execute("PRAGMA journal_mode").fetchone()))
    assert shapes == [shapes[0]] * 4
    assert not list(home.rglob("*.new"))


def test_a_run_is_seen_to_speak_while_it_lasts(home: Path) -> None:
    """The UI looks at the run's own file, which must change with each event (`SqliteEventLogStorage.watch`)."""
    sizes = []

    @dg.asset
    def slow(context: dg.AssetExecutionContext) -> None:
        file = home / "history" / "runs" / f"{context.run_id}.db"
        for _ in range(3):
            sizes.append(file.stat().st_mtime_ns)
            context.log.info("word " * 2000)

    with ours(home) as instance:
        dg.materialize([slow], instance=instance)
    assert len(set(sizes)) == 3


def test_a_storage_that_the_settings_name_is_left_alone(home: Path) -> None:
    elsewhere = home / "elsewhere"
    (home / "dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: {elsewhere}}}}}\n")
    with ours(home) as instance:
        run(instance, "a")
    assert (elsewhere / "history" / "runs" / "index.db").exists()
    assert not (home / "history").exists()
