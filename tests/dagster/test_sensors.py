"""The sensor on sources and recipes: what it asks for, once, and what it leaves alone."""

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dselect_core.config import load_settings
from dselect_dagster.build import build_definitions
from dselect_dagster.resources import WorkspaceResource
from dselect_dagster.sensors import sources_and_recipes

ROW = {"instruction": "Say a", "input": "", "output": "a"}


class Deployment:
    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "dselect.yaml"
        self.instance = dg.DagsterInstance.ephemeral()

    def write(self, rows: list[dict[str, str]], **settings: object) -> None:
        (self.folder / "a.json").write_text(json.dumps(rows))
        held = {"sources": {"a": {"path": "a.json"}}, "coresets": {"r": {"strategy": "random", "budget": 1}}}
        self.config.write_text(yaml.safe_dump(held | settings))

    def tick(self) -> list[tuple[str, str | None]]:
        """One evaluation; what it asks for is run, as the daemon would."""
        resource = WorkspaceResource(config=str(self.config))
        context = dg.build_sensor_context(instance=self.instance, resources={"workspace": resource})
        result = sources_and_recipes(context)
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or []:
            name = request.partitions_def_name
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(name, list(request.partition_keys))
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(name, key)
        job = build_definitions(load_settings(self.config), str(self.config)).resolve_implicit_global_asset_job_def()
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
