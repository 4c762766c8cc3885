"""The component in a project made by `create-dagster`: two corpora side by side, and a team's own assets beside them.

What a daemon does is done in this process: each sensor is evaluated, and what it asks for is run.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from create_dagster.cli import cli as create_dagster
from dagster_dg_cli.cli import cli as dg_cli

from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster import Curation
from dselect_dagster.dagster_private import evaluate_conditions, run_assets, step_errors_of
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.graph import corpus_definitions
from dselect_dagster.defs.namespace import Namespace
from dselect_dagster.refresh.plan_refresh import plan_refresh
from tests.e2e.conftest import WORDS
from tests.e2e.graph import alpaca

HR = """\
type: dselect_dagster.Curation
attributes: {name: hr, config: dselect.yaml}
template_vars_module: .template_vars
post_processing:
  assets:
    - target: "key:hr/coreset"
      attributes: {tags: {team: people}, freshness_policy: "{{ daily }}"}
"""
TEMPLATE_VARS = """\
from datetime import timedelta

import dagster as dg


@dg.template_var
def daily() -> dg.FreshnessPolicy:
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24))
"""
LEGAL = """\
type: dselect_dagster.Curation
attributes:
  name: legal
  automation: running
  settings:
    storage: "{{ context.project_root }}/.dselect/legal"
    sources:
      a: {path: "{{ context.project_root }}/data/legal/a.json"}
    coresets:
      random: {strategy: random, budget: "{{ env.BUDGET | int }}"}
requirements: {env: [BUDGET]}
"""
# The names of the first two are ours without a prefix.
TEAM = """\
import dagster as dg


@dg.asset
def coreset() -> None: ...


@dg.asset(required_resource_keys={"workspace"})
def reads_our_resource() -> None: ...


@dg.asset(
    deps=[dg.AssetKey(["hr", "coreset"])],
    partitions_def=dg.DynamicPartitionsDefinition(name="hr/recipe"),
    automation_condition=dg.AutomationCondition.eager(),
)
def tuned_model() -> None: ...


defs = dg.Definitions(
    assets=[coreset, reads_our_resource, tuned_model],
    resources={"workspace": dg.ResourceDefinition.hardcoded_resource("ours")},
    executor=dg.in_process_executor,
)
"""
COMMANDS = CliRunner()
Runs = list[tuple[list[dg.AssetKey], str | None]]


def run(command: Any, *arguments: str) -> str:
    done = COMMANDS.invoke(command, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


class Project:
    def __init__(self, folder: Path):
        self.folder, self.defs_folder = folder, folder / "src" / "team" / "defs"
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.write("hr", "a", alpaca(WORDS[:8]))
        self.write("hr", "b", alpaca(WORDS[:4], offset=50))
        self.write("legal", "a", alpaca(WORDS[8:12], offset=20))

    def write(self, corpus: str, source: str, rows: list[dict[str, Any]]) -> None:
        path = self.folder / "data" / corpus / f"{source}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text(json.dumps(rows))
        os.utime(path, ns=(before + 10**9, max(before + 10**9, path.stat().st_mtime_ns)))

    @property
    def config(self) -> Path:
        return self.defs_folder / "hr" / "dselect.yaml"

    def load(self) -> dg.Definitions:
        loaded = dg.ComponentTree.for_project(self.folder).build_defs()
        assert isinstance(loaded, dg.Definitions)
        return loaded

    def ticks(self, defs: dg.Definitions) -> dict[tuple[str, str | None], dict[str, Any]]:
        """All sensors, until none asks for anything: {(asset, partition): its figures} of what was made."""
        made: dict[tuple[str, str | None], dict[str, Any]] = {}
        for _ in range(10):
            landed = self._run(defs, self._landing(defs), made)
            if not self._run(defs, self._requested(defs), made) and not landed:
                return made
        raise AssertionError(f"never quiet: {made.keys()}")

    def _run(self, defs: dg.Definitions, asked: Runs, made: dict[tuple[str, str | None], dict[str, Any]]) -> Runs:
        for assets, partition in asked:
            done = run_assets(defs, self.instance, assets, partition, raise_on_error=False)
            assert done.success, step_errors_of(done)
            for event in done.get_asset_materialization_events():
                m = event.step_materialization_data.materialization
                figures = {name: value.value for name, value in m.metadata.items()}
                made[m.asset_key.to_user_string(), m.partition] = figures
        return asked

    def _landing(self, defs: dg.Definitions) -> Runs:
        runs: Runs = []
        for name in ("hr", "legal"):
            result = defs.resolve_sensor_def(f"{name}_sources_and_recipes")(
                dg.build_sensor_context(instance=self.instance)
            )
            assert isinstance(result, dg.SensorResult)
            for request in result.dynamic_partitions_requests or []:
                if isinstance(request, dg.AddDynamicPartitionsRequest):
                    self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
                else:
                    for key in request.partition_keys:
                        self.instance.delete_dynamic_partition(request.partitions_def_name, key)
            runs += [(list(run.asset_selection or []), run.partition_key) for run in result.run_requests or []]
        return runs

    def _requested(self, defs: dg.Definitions) -> Runs:
        """What the conditions request: those of all automation sensors at once, whose targets another test looks at."""
        requested, self.cursor = evaluate_conditions(defs, self.instance, self.cursor)
        runs: dict[tuple[Any, str | None], list[dg.AssetKey]] = {}
        for key in defs.resolve_asset_graph().toposorted_asset_keys:
            for partition in sorted((p for asset, p in requested if asset == key), key=str):
                # No score that is read here is a model's: to import torch would take longer than all the rest.
                if key.path[-1] != "warmup_model":
                    runs.setdefault((tuple(key.path[:-1]), partition), []).append(key)
        return [(keys, partition) for (_, partition), keys in runs.items()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """As a team would: `create-dagster project`, `dg scaffold defs`, and the files that they write by hand."""
    folder = tmp_path_factory.mktemp("project") / "team"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUDGET", "3")
        patch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
        run(create_dagster, "project", str(folder), "--no-uv-sync")
        patch.chdir(folder)
        patch.syspath_prepend(str(folder / "src"))
        made = Project(folder)
        run(dg_cli, "scaffold", "defs", "dselect_dagster.Curation", "hr", "--data", "data/hr")
        yield made
        for name in [name for name in sys.modules if name == "team" or name.startswith("team.")]:
            del sys.modules[name]


def test_scaffold_writes_what_loads_with_paths_inside_the_project(project: Project) -> None:
    assert yaml.safe_load((project.defs_folder / "hr" / "defs.yaml").read_text()) == {
        "type": "dselect_dagster.Curation",
        "attributes": {"name": "hr", "config": "dselect.yaml"},
    }
    assert str(project.folder) not in project.config.read_text()
    settings = load_settings(project.config)
    sources = {name: Path(spec.paths[0]).resolve() for name, spec in settings.sources.items()}
    assert sources == {name: project.folder / "data" / "hr" / f"{name}.json" for name in "ab"}
    assert Path(settings.storage).resolve() == project.folder / ".dselect" / "hr"
    again = COMMANDS.invoke(dg_cli, ["scaffold", "defs", "dselect_dagster.Curation", "hr", "--data", "data/hr"])
    assert again.exit_code != 0


@pytest.fixture(scope="module")
def defs(project: Project) -> dg.Definitions:
    """The project with two corpora and a team's assets, as it is loaded. It is checked by `dg` first."""
    held = yaml.safe_load(project.config.read_text())
    recipes = {"good": {"strategy": "topk:grade", "budget": 2}}
    project.config.write_text(yaml.safe_dump(held | {"coresets": recipes}))
    (project.defs_folder / "hr" / "defs.yaml").write_text(HR)
    (project.defs_folder / "hr" / "template_vars.py").write_text(TEMPLATE_VARS)
    (project.defs_folder / "legal").mkdir()
    (project.defs_folder / "legal" / "defs.yaml").write_text(LEGAL)
    (project.defs_folder / "team.py").write_text(TEAM)
    return project.load()


def test_dg_knows_the_component_and_names_a_wrong_attribute(project: Project, defs: dg.Definitions) -> None:
    assert "validated successfully" in run(dg_cli, "check", "yaml")
    assert "dselect_dagster.Curation" in run(dg_cli, "list", "components")
    listed = json.loads(run(dg_cli, "list", "defs", "--json"))
    names = {entry["name"] for kind in ("sensors", "schedules") for entry in listed[kind]}
    assert {"hr_automation", "legal_sources_and_recipes", "hr_refresh_recipes"} <= names
    path = project.defs_folder / "legal" / "defs.yaml"
    try:
        path.write_text(LEGAL.replace("automation: running", "automatoin: running"))
        wrong = COMMANDS.invoke(dg_cli, ["check", "yaml"])
        assert wrong.exit_code != 0
        assert "automatoin" in wrong.output
    finally:
        path.write_text(LEGAL)


def test_nothing_of_ours_is_under_a_name_that_is_not_ours(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    mine = {key for key in graph.get_all_asset_keys() if len(key.path) == 1}
    assert {key.to_user_string() for key in mine} == {"coreset", "reads_our_resource", "tuned_model"}
    assert {key.path[0] for key in graph.get_all_asset_keys() - mine} == {"hr", "legal"}
    groups = {graph.get(key).group_name for key in graph.get_all_asset_keys() - mine}
    assert all(str(group).startswith(("hr_", "legal_")) for group in groups)
    repository = defs.get_repository_def()
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert {name for name, sensor in sensors.items() if sensor.default_status == dg.DefaultSensorStatus.RUNNING} == {
        "legal_automation",
        "legal_grading_batches",
        "legal_sources_and_recipes",
    }
    targets = {name: sensors[name].asset_selection.resolve(graph) for name in sensors}  # type: ignore[union-attr]
    assert targets["default_automation_condition_sensor"] == mine  # Dagster's own
    assert {key.path[0] for key in targets["hr_automation"]} == {"hr"}
    coreset = graph.get(dg.AssetKey(["hr", "coreset"]))
    assert coreset.tags["team"] == "people"
    assert coreset.freshness_policy is not None
    assert graph.get(dg.AssetKey(["legal", "coreset"])).freshness_policy is None


def test_side_by_side_each_follows_its_own_files(project: Project, defs: dg.Definitions) -> None:
    first = project.ticks(defs)
    assert {(asset, key) for asset, key in first if asset.endswith("coreset") or asset == "tuned_model"} == {
        ("hr/coreset", "good"),
        ("legal/coreset", "random"),
        ("tuned_model", "good"),
    }
    assert first["legal/coreset", "random"]["dagster/partition_row_count"] == 3
    assert project.instance.get_dynamic_partitions("hr/source") == ["a", "b"]
    assert project.instance.get_dynamic_partitions("legal/source") == ["a"]
    assert project.instance.get_dynamic_partitions("source") == []

    rows = alpaca(WORDS[:8])
    rows[2]["output"] = "It is something else now, said in a whole sentence."
    project.write("hr", "a", rows)
    after_edit = project.ticks(defs)
    assert all(asset.startswith("hr/") or asset == "tuned_model" for asset, _ in after_edit)
    grades = after_edit["hr/dependability_grades", "a"]
    assert (grades["rows computed"], grades["rows reused"]) == (1, 7)
    assert ("hr/raw_dataset", "b") not in after_edit

    # A source that only hr loses, of a name that legal has too.
    held = yaml.safe_load(project.config.read_text())
    del held["sources"]["a"]
    project.config.write_text(yaml.safe_dump(held))
    gone = project.ticks(project.load())
    assert gone["hr/raw_dataset", "a"]["samples"] == 0
    assert not [asset for asset, _ in gone if asset.startswith("legal/")]

    # What a refresh would do under this name: the daemon left nothing.
    settings, namespace = load_settings(project.config), Namespace("hr")
    own = corpus_definitions(Corpus.of_file(settings, str(project.config), "hr"))
    found, plan = plan_refresh(own, project.instance, Workspace(settings), namespace=namespace)
    assert (found.changed_inputs.changes, found.changed_inputs.gone_recipes) == ([], [])
    assert {step.asset for step in plan.steps} <= {"warmup_model"}


def test_a_recipe_that_was_only_added_in_the_ui_is_refused(project: Project, defs: dg.Definitions) -> None:
    project.instance.add_dynamic_partitions("legal/recipe", ["typo"])
    done = run_assets(defs, project.instance, [dg.AssetKey(["legal", "coreset"])], "typo", raise_on_error=False)
    (message,) = step_errors_of(done).values()
    assert message.startswith("no recipe 'typo' in `settings` in ")
    assert "`legal_sources_and_recipes`" in message


def test_settings_in_two_places_or_with_a_wrong_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either `config`"):
        Curation(config="dselect.yaml", settings={})
    with pytest.raises(ValueError, match="pattern"):
        Curation(name="h/r")
