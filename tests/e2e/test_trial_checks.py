"""The checks of a coreset that its trial decides: on the real graph, with an asset of a team's downstream.

What a trial says is put in its place by hand: a random choice neither wins nor loses for sure.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from dselect_core.trials.report import AgainstRandom, Word, read_report, write_report
from dselect_dagster.dagster_private import evaluate_conditions, last_evaluation, run_assets, run_checks
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.defs.namespace import PLAIN
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, settings_of
from tests.e2e.test_cli import dselect
from tests.e2e.test_trials import TRIALS, TRIED

pytestmark = pytest.mark.some(3)

REQUIRED = TRIED | {"require": ["beats_random"]}
RECIPES = {"tried": TRIED, "required": REQUIRED | {"seed": 2}, "plain": {"strategy": "random", "budget": 5, "seed": 1}}
CORESET = dg.AssetKey("coreset")


@dg.asset(
    partitions_def=PLAIN.recipe,
    deps=["coreset"],
    automation_condition=dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed(),
)
def publish() -> None: ...


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("checks"))
    graph.source("a", alpaca(WORDS))
    graph.source("held", alpaca(WORDS[:5], offset=90))
    sources = {"a": {"path": "data/a.json"}, "held": {"path": "data/held.json", "role": "eval"}}
    graph.settings(sources=sources, coresets=RECIPES, trials=TRIALS)
    assert Team(graph).published() == set()
    done = graph.refresh()
    assert not done.failed, [run.errors for run in done.failed]
    return graph


@pytest.fixture(scope="module")
def _snapshot(first: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(first.folder, tmp_path_factory.mktemp("snapshot") / "project"))


def say(graph: Graph, recipe: str, word: Word) -> None:
    """The recipe's trial says this of its coreset as it is."""
    report = read_report(graph.workspace, recipe)
    assert report is not None
    verdict = AgainstRandom(word, {"better": 0.5, "worse": -0.5, "no difference": 0.0}[word], 0.1, f"{word}, by hand")
    write_report(replace(report, against_random=verdict), graph.workspace)


def evaluation(graph: Graph, check: str, recipe: str) -> dg.AssetCheckEvaluation | None:
    """What Dagster has on record for the recipe's coreset as it was made last."""
    with graph.instance() as instance:
        of_recipe = dg.AssetRecordsFilter(asset_key=CORESET, asset_partitions=[recipe])
        made = instance.fetch_materializations(of_recipe, limit=1).records[0]
        return last_evaluation(instance, made, dg.AssetCheckKey(CORESET, check), recipe).result


class Team:
    """A code location that holds dselect's graph and an asset of the team's, and its daemon, on from the start."""

    def __init__(self, graph: Graph):
        self._graph = graph
        saved = graph.folder / "cursor"
        self._cursor = saved.read_text() if saved.exists() else None
        self._defs = dg.Definitions.merge(
            build_definitions(settings_of(graph), str(graph.config)), dg.Definitions(assets=[publish])
        )

    def published(self) -> set[str | None]:
        """The recipes that are published now. requested: all that the conditions asked for meanwhile."""
        done: set[str | None] = set()
        self.requested: set[tuple[str, str | None]] = set()
        with self._graph.instance() as instance:
            for _ in range(3):
                requested, self._cursor = evaluate_conditions(self._defs, instance, self._cursor)
                self.requested |= {(asset.to_user_string(), partition) for asset, partition in requested}
                due = {partition for asset, partition in requested if asset == publish.key}
                for partition in due:
                    assert run_assets(self._defs, instance, [publish.key], partition).success
                done |= due
        (self._graph.folder / "cursor").write_text(self._cursor or "")
        return done


def test_a_check_says_what_the_trial_says_and_nothing_where_there_is_none(graph: Graph) -> None:
    for word, passed in (("better", True), ("worse", False), ("no difference", False)):
        say(graph, "tried", word)
        graph.refresh()
        found = evaluation(graph, "beats_random", "tried")
        assert found is not None
        assert (found.passed, found.severity) == (passed, dg.AssetCheckSeverity.WARN)
        assert found.description == f"{word}, by hand"
    assert evaluation(graph, "beats_random", "plain") is None
    met = evaluation(graph, "requirements_met", "plain")
    assert met is not None
    assert met.passed


def test_a_coreset_that_has_to_beat_random_is_held_back_until_it_does(graph: Graph) -> None:
    say(graph, "tried", "worse")
    say(graph, "required", "worse")
    told = dselect(graph.folder, "refresh", code=1)
    assert "coreset required is held back: it requires beats_random: worse, by hand" in told
    assert "coreset tried is held back" not in told
    team = Team(graph)
    assert team.published() == {"tried", "plain"}
    say(graph, "required", "better")
    assert "held back" not in dselect(graph.folder, "refresh")
    assert team.published() == {"required"}


def test_an_old_verdict_does_not_count_for_a_coreset_that_changed(graph: Graph) -> None:
    say(graph, "required", "better")
    assert graph.refresh().is_whole
    team = Team(graph)
    assert "required" in team.published()
    graph.settings(coresets=RECIPES | {"required": REQUIRED | {"seed": 3}})
    done = graph.refresh(select=dg.AssetSelection.assets("trial").upstream() - dg.AssetSelection.assets("trial"))
    assert not done.failed
    assert "its coreset changed since it was tried" in done.held_back["required"]
    assert not done.is_whole
    assert evaluation(graph, "beats_random", "required") is None
    met = evaluation(graph, "requirements_met", "required")
    assert met is not None
    assert not met.passed
    assert team.published() == set()
    # Its trial is not held back, and says something again.
    assert ("trial", "required") in team.requested
    done = graph.refresh()
    assert not done.failed
    assert evaluation(graph, "beats_random", "required") is not None


def test_a_coreset_that_is_made_again_as_it_was_keeps_its_verdict(graph: Graph) -> None:
    say(graph, "required", "better")
    graph.refresh()
    shutil.rmtree(graph.folder / ".dselect" / "coresets" / "required")
    done = graph.refresh()
    assert done.is_whole
    assert {run.partition for run in done.runs} == {"required"}
    assert not any(asset == dg.AssetKey("trial") for run in done.runs for asset in run.assets)
    found = evaluation(graph, "requirements_met", "required")
    assert found is not None
    assert found.passed


def test_what_is_required_later_holds_for_the_coreset_of_now(graph: Graph) -> None:
    say(graph, "tried", "worse")
    graph.refresh()
    assert "tried" in Team(graph).published()
    graph.settings(coresets=RECIPES | {"tried": REQUIRED})
    done = graph.refresh()
    assert done.runs == []
    assert "tried" in done.held_back
    found = evaluation(graph, "requirements_met", "tried")
    assert found is not None
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_the_landing_sensor_asks_once_for_a_check_that_the_settings_decide_anew(graph: Graph) -> None:
    def asked() -> list[dg.RunRequest]:
        with graph.instance() as instance:
            defs = build_definitions(settings_of(graph), str(graph.config))
            repository = defs.get_repository_def()
            context = dg.build_sensor_context(instance=instance, repository_def=repository)
            requests = list(repository.get_sensor_def("sources_and_recipes").evaluate_tick(context).run_requests or [])
            for request in requests:
                assert request.asset_selection == []  # nothing is made
                run_checks(defs, instance, request.asset_check_keys or [], str(request.partition_key))
        return requests

    say(graph, "tried", "worse")
    graph.refresh()
    assert asked() == []
    graph.settings(coresets=RECIPES | {"tried": REQUIRED})
    requests = asked()
    assert {(key.name, run.partition_key) for run in requests for key in run.asset_check_keys or []} == {
        ("beats_random", "tried"),  # an error from now on
        ("requirements_met", "tried"),
    }
    assert all(run.tags["dagster/partition"] == "tried" for run in requests)
    assert asked() == []
    graph.settings(coresets=RECIPES)
    assert not {run.run_key for run in asked()} & {run.run_key for run in requests}


def test_in_one_run_by_hand_nothing_follows_a_coreset_that_was_not_tried(graph: Graph) -> None:
    graph.settings(coresets=RECIPES | {"required": REQUIRED | {"seed": 4}})
    graph.refresh(select=dg.AssetSelection.assets("coreset_spec"))
    team = dg.Definitions.merge(
        build_definitions(settings_of(graph), str(graph.config)), dg.Definitions(assets=[publish])
    )
    with graph.instance() as instance:
        assets = [dg.AssetKey("candidates"), CORESET, publish.key]
        done = run_assets(team, instance, assets, "required", raise_on_error=False)
        assert not done.success
        assert instance.get_materialized_partitions(publish.key) == set()
        assert run_assets(team, instance, assets, "plain", raise_on_error=False).success


def test_what_has_to_beat_random_is_published_when_it_does_and_waits_for_its_trial(graph: Graph) -> None:
    pointer = graph.folder / "out" / "tried" / "latest.json"
    graph.settings(publish={"to": "out", "recipes": ["tried"], "require": ["beats_random"]})
    say(graph, "tried", "worse")
    told = dselect(graph.folder, "refresh", code=1)
    assert "coreset tried is not published: the check beats_random failed: worse, by hand" in told
    assert "publication[tried] is refused: the check beats_random failed" in dselect(graph.folder, "status")
    assert not pointer.exists()
    say(graph, "tried", "better")
    assert {run.assets for run in graph.refresh().runs} == {(dg.AssetKey("publication"),)}
    assert pointer.exists()
    # Another coreset is tried first, and published, or refused, by its own trial.
    graph.settings(coresets=RECIPES | {"tried": TRIED | {"budget": 7}})
    ran = [asset.to_user_string() for run in graph.refresh().runs for asset in run.assets]
    assert ran.index("coreset") < ran.index("trial") < ran.index("publication") and ran.count("publication") == 1
