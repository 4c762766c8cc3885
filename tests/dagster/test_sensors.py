"""The sensor and the schedule on sources and recipes: what they ask for, once, and what they leave alone."""

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.dagster_private import run_assets, step_errors_of
from dselect_dagster.defs.changed_inputs import LANDED_ASSETS, find_changed_inputs, landing_runs
from dselect_dagster.defs.graph import build_definitions

ROW = {"instruction": "Say a", "input": "", "output": "a"}


class Deployment:
    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "dselect.yaml"
        # On disk, as a schedule asks for: it opens its instance by reference.
        (folder / "home").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(folder / "home"))

    def write(self, rows: list[dict[str, str]], **settings: object) -> None:
        (self.folder / "a.json").write_text(json.dumps(rows))
        held = {"sources": {"a": {"path": "a.json"}}, "coresets": {"r": {"strategy": "random", "budget": 1}}}
        self.config.write_text(yaml.safe_dump(held | settings))

    def tick(self) -> list[tuple[str, str | None]]:
        """One evaluation; what it asks for is run, as the daemon would."""
        defs = build_definitions(load_settings(self.config), str(self.config))
        result = defs.resolve_sensor_def("sources_and_recipes")(dg.build_sensor_context(instance=self.instance))
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or []:
            name = request.partitions_def_name
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(name, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(name, key)
        job = defs.resolve_implicit_global_asset_job_def()
        asked = []
        for run in result.run_requests or []:
            assert run.asset_selection is not None
            selection = [dg.AssetKey(key.path) for key in run.asset_selection]
            job.execute_in_process(instance=self.instance, asset_selection=selection, partition_key=run.partition_key)
            asked += [(key.to_user_string(), run.partition_key) for key in selection]
        return asked


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    made = Deployment(tmp_path)
    made.write([ROW])
    assert made.tick() == [("raw_dataset", "a"), ("coreset_spec", "r")]
    return made


def test_nothing_new_asks_for_nothing(deployment: Deployment) -> None:
    assert deployment.tick() == []


def test_a_changed_file_and_a_changed_budget_are_landed(deployment: Deployment) -> None:
    deployment.write([ROW, ROW | {"output": "b"}])
    assert deployment.tick() == [("raw_dataset", "a")]
    deployment.write([ROW, ROW | {"output": "b"}], coresets={"r": {"strategy": "random", "budget": 2}})
    assert ("coreset_spec", "r") in deployment.tick()


def test_a_source_gone_is_landed_empty_and_a_recipe_gone_loses_its_partition(deployment: Deployment) -> None:
    deployment.write([ROW], sources={"b": {"path": "a.json"}}, coresets={"s": {"strategy": "random", "budget": 1}})
    assert set(deployment.tick()) == {("raw_dataset", "a"), ("raw_dataset", "b"), ("coreset_spec", "s")}
    assert deployment.instance.get_dynamic_partitions("recipe") == ["s"]
    assert deployment.tick() == []


def test_what_is_lost_is_made_again_once_and_what_lands_comes_first(deployment: Deployment) -> None:
    raw = deployment.folder / ".dselect" / "raw" / "a" / "samples.parquet"
    spec = deployment.folder / ".dselect" / "specs" / "r.json"
    job = build_definitions(
        load_settings(deployment.config), str(deployment.config)
    ).resolve_implicit_global_asset_job_def()
    index = [dg.AssetKey("corpus_index")]
    assert job.execute_in_process(instance=deployment.instance, asset_selection=index).success
    lost = [raw, spec, deployment.folder / ".dselect" / "corpus" / "index.parquet"]
    for path in lost:
        path.unlink()
    assert deployment.tick() == [("raw_dataset", "a"), ("coreset_spec", "r")]
    assert deployment.tick() == [("corpus_index", None)]
    assert all(path.exists() for path in lost)
    assert deployment.tick() == []


def test_what_is_lost_where_it_was_published_is_published_again(deployment: Deployment) -> None:
    deployment.write([ROW], publish={"to": "out"})
    deployment.tick()  # its partition comes
    defs = build_definitions(load_settings(deployment.config), str(deployment.config))
    job, instance = defs.resolve_implicit_global_asset_job_def(), deployment.instance
    index = [dg.AssetKey("corpus_index")]
    assert job.execute_in_process(instance=instance, asset_selection=index).success
    for name in ("coreset", "publication"):
        made = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(name)], partition_key="r")
        assert made.success
    assert deployment.tick() == []
    (pointer,) = (deployment.folder / "out").glob("*/latest.json")
    pointer.unlink()
    assert deployment.tick() == [("publication", "r")]
    assert pointer.exists() and deployment.tick() == []


def test_each_loss_and_each_return_of_a_recipe_has_a_run_of_its_own(deployment: Deployment) -> None:
    path = deployment.folder / ".dselect" / "raw" / "a" / "samples.parquet"

    def keys() -> list[str | None]:
        changed_inputs = find_changed_inputs(Workspace(load_settings(deployment.config)), deployment.instance)
        return [run.run_key for run in landing_runs(changed_inputs, LANDED_ASSETS)]

    seen = []
    for _ in range(2):
        path.unlink()
        seen += keys()
        assert seen[-1:] == keys()  # not twice for one loss
        assert deployment.tick() == [("raw_dataset", "a")]
    for _ in range(2):
        deployment.write([ROW], coresets={})
        deployment.tick()
        deployment.write([ROW], coresets={"r": {"strategy": "random", "budget": 1}})
        seen += [key for key in keys() if key is not None and key.startswith("coreset_spec")]
        deployment.tick()
    assert len(seen) == len(set(seen)) == 4


def at_night(deployment: Deployment, schedule: str = "refresh_sources") -> list[dg.RunRequest]:
    repository = build_definitions(load_settings(deployment.config), str(deployment.config)).get_repository_def()
    # Left open, the instance that the context enters would stay Dagster's current one, also once it is gone.
    with dg.build_schedule_context(instance=deployment.instance, repository_def=repository) as context:
        return list(repository.get_schedule_def(schedule).evaluate_tick(context).run_requests or [])


def test_the_schedule_lands_what_changed_and_makes_its_partitions(deployment: Deployment) -> None:
    assert at_night(deployment) == []
    deployment.write([ROW], sources={"a": {"path": "a.json"}, "c": {"path": "a.json"}})
    asked = at_night(deployment)
    assert [(request.partition_key, request.tags["dselect/cause"]) for request in asked] == [
        ("a", "changed"),
        ("c", "new"),
    ]
    assert set(deployment.instance.get_dynamic_partitions("source")) == {"a", "c"}
    deployment.write([ROW], coresets={"r": {"strategy": "random", "budget": 2}})
    asked = at_night(deployment, "refresh_recipes")
    assert [(request.partition_key, request.tags["dselect/cause"]) for request in asked] == [("r", "changed")]


def test_everything_that_starts_work_by_itself_is_off_until_it_is_switched_on(deployment: Deployment) -> None:
    defs = build_definitions(load_settings(deployment.config))
    repository = defs.get_repository_def()
    assert {d.name for d in repository.sensor_defs} == {"sources_and_recipes", "automation", "grading_batches"}
    assert all(d.default_status == dg.DefaultSensorStatus.STOPPED for d in repository.sensor_defs)
    assert {d.name for d in repository.schedule_defs} == {"refresh_sources", "refresh_recipes"}
    for schedule in repository.schedule_defs:
        assert schedule.cron_schedule == "0 3 * * *"
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        assert repository.get_job(schedule.job_name)  # a job that cannot be resolved would take the location down


@pytest.mark.parametrize(
    ("partitions", "asset", "key", "said"),
    [
        ("source", "raw_dataset", "sources", "no source 'typo'"),
        ("recipe", "coreset_spec", "coresets", "no recipe 'typo'"),
        ("recipe", "coreset", "coresets", "no recipe 'typo'"),
    ],
)
def test_a_partition_that_was_only_added_is_refused_with_the_remedy_and_taken_out(
    deployment: Deployment, partitions: str, asset: str, key: str, said: str
) -> None:
    deployment.instance.add_dynamic_partitions(partitions, ["typo"])
    defs = build_definitions(load_settings(deployment.config), str(deployment.config))
    done = run_assets(defs, deployment.instance, [dg.AssetKey(asset)], "typo", raise_on_error=False)
    (message,) = step_errors_of(done).values()
    assert message.startswith(f"{said} in {deployment.config}; there are: ")
    assert f"under `{key}`" in message and "the sensor `sources_and_recipes`" in message
    assert deployment.tick() == []
    assert "typo" not in deployment.instance.get_dynamic_partitions(partitions)


def test_a_recipe_without_a_trial_has_no_partition_of_it(deployment: Deployment) -> None:
    deployment.instance.add_dynamic_partitions("trial", ["r"])
    defs = build_definitions(load_settings(deployment.config), str(deployment.config))
    done = run_assets(defs, deployment.instance, [dg.AssetKey("trial")], "r", raise_on_error=False)
    assert "the recipe 'r' " in str(step_errors_of(done)) and "has no `trial: true`" in str(step_errors_of(done))
    assert deployment.tick() == []
    assert deployment.instance.get_dynamic_partitions("trial") == []


def test_settings_that_make_other_definitions_are_said_to_wait_for_a_reload(deployment: Deployment) -> None:
    loaded = build_definitions(load_settings(deployment.config), str(deployment.config))

    config = yaml.safe_load(deployment.config.read_text())

    def reason(**edit: object) -> str | None:
        deployment.config.write_text(yaml.safe_dump(config | edit))
        with dg.build_sensor_context(instance=deployment.instance) as context:
            result = loaded.resolve_sensor_def("sources_and_recipes")(context)
        assert isinstance(result, dg.SensorResult) and not result.run_requests
        return None if result.skip_reason is None else result.skip_reason.skip_message

    assert reason() is None
    assert reason(model={"batch_tokens": 99}, parts={"rows": 9}) is None  # followed as it is
    said = reason(difficulty={"beta": 2.0})
    assert said is not None and ": difficulty_scores would be made otherwise" in said and "→ Reload" in said
    said = reason(near_duplicates={"threshold": 0.9})
    assert said is not None and "the check few_are_near_duplicates of near_duplicates" in said
    assert reason() is None
