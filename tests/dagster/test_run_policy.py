"""Pools, retries, jobs and freshness: which asset has which, by the settings, and under the names of a corpus."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dselect_core.errors import DselectError
from dselect_core.settings.settings import Settings, check_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.graph import build_definitions, corpus_definitions
from dselect_dagster.defs.namespace import Namespace

RECIPES = {
    "d3": {"strategy": "d3", "budget": "10%", "rounds": 2},
    "weak": {"strategy": "miwv", "budget": "1%", "trial": True},
    "wide": {"strategy": "mads", "budget": "15%"},
}
MODEL = {"warmup_model", "embeddings", "difficulty_scores", "activations", "miwv_values", "d3_round_1", "d3_round_2"}
ENDPOINT = {"base_url": "http://localhost:9/v1", "model": "judge"}


def settings(**changed: object) -> Settings:
    sources = {"a": {"path": "/a.json"}, "held": {"path": "/h.json", "role": "eval"}}
    return Settings.model_validate({"sources": sources, "coresets": RECIPES, "storage": "/tables"} | changed)


def ops(defs: dg.Definitions) -> dict[str, dg.OpDefinition]:
    """{asset: what makes it}."""
    made = {}
    for assets in defs.assets or []:
        assert isinstance(assets, dg.AssetsDefinition)
        for key in assets.keys:
            made[key.to_user_string()] = assets.op
    return made


def pools(defs: dg.Definitions) -> dict[str, set[str]]:
    """{pool: its assets}."""
    found: dict[str, set[str]] = {}
    for asset, op in ops(defs).items():
        if op.pool is not None:
            found.setdefault(op.pool, set()).add(asset)
    return found


def test_assets_that_open_a_model_or_call_an_endpoint_take_slots_of_a_pool_in_a_deployment() -> None:
    assert pools(build_definitions(settings(), pools=True)) == {"model": {*MODEL, "trial"}}
    with_endpoint = settings(grader=ENDPOINT)
    assert pools(build_definitions(with_endpoint, pools=True)) == {
        "model": {*MODEL, "trial"},
        "grader": {"dependability_grades"},
    }
    only = pools(
        build_definitions(
            settings(grader={**ENDPOINT, "candidates": "only"}, coresets={"d3": RECIPES["d3"] | {"rounds": 1}}),
            pools=True,
        )
    )
    assert "candidate_grades" in only["grader"]
    hr = Corpus(with_endpoint, lambda: Workspace(with_endpoint), Namespace("hr"), pools=True)
    assert pools(corpus_definitions(hr)).keys() == {"hr_model", "hr_grader"}
    probe = {check.op.pool for check in build_definitions(settings(), pools=True).asset_checks or []}
    assert probe == {None, "model"}  # the one that opens the model
    # A command in the foreground has its process to itself.
    assert pools(build_definitions(with_endpoint)) == {}


@pytest.mark.parametrize(
    ("changed", "retried"),
    [
        ({}, set()),
        ({"grader": ENDPOINT}, {"dependability_grades"}),
        (
            {"sources": {"a": {"path": "s3://bucket/a.json"}, "held": {"path": "/h.json", "role": "eval"}}},
            {"raw_dataset"},
        ),
        ({"sources": {"a": {"dataset": "org/rows"}, "held": {"path": "/h.json", "role": "eval"}}}, {"raw_dataset"}),
        ({"storage": "s3://bucket/tables"}, None),
    ],
)
def test_what_reaches_out_is_tried_again_and_nothing_else(changed: dict[str, Any], retried: set[str] | None) -> None:
    made = ops(build_definitions(settings(**changed)))
    assert {asset for asset, op in made.items() if op.retry_policy} == (set(made) if retried is None else retried)


def test_the_jobs_hold_one_set_of_partitions_each_and_bear_the_name_of_the_corpus() -> None:
    def selected(defs: dg.Definitions, prefix: str = "") -> dict[str, set[str]]:
        names = ("refresh", "rescore", "regrade", "select")
        jobs = {name: defs.resolve_job_def(prefix + name) for name in names}
        return {name: {key.path[-1] for key in job.asset_layer.executable_asset_keys} for name, job in jobs.items()}

    scores = {"embeddings", "difficulty_scores", "activations"}
    grades = "dependability_grades"
    held = {"refresh": {"raw_dataset", *scores, grades}, "rescore": scores, "regrade": {grades}}
    held["select"] = {"coreset_spec", "candidates", "coreset"}
    assert selected(build_definitions(settings())) == held
    hr = Corpus(settings(), lambda: Workspace(settings()), Namespace("hr"))
    assert selected(corpus_definitions(hr), "hr_") == held
    # Where no score is read there is none to make.
    random = settings(coresets={"r": {"strategy": "random", "budget": 5}})
    assert selected(build_definitions(random))["refresh"] == {"raw_dataset"}


def test_a_coreset_has_a_freshness_policy_where_the_settings_ask_for_one() -> None:
    def policy(**changed: object) -> Any:
        graph = build_definitions(settings(**changed)).resolve_asset_graph()
        return graph.get(dg.AssetKey("coreset")).freshness_policy

    assert policy() is None
    asked = policy(freshness={"fail_after": "26h", "warn_after": "90m"})
    assert asked == dg.FreshnessPolicy.time_window(timedelta(hours=26), timedelta(minutes=90))
    written = {"sources": {"a": {"path": "a.json"}}, "coresets": {}}
    for bad, said in (
        ({"fail_after": "1h", "warn_after": "2h"}, r"freshness: warn_after \(2h\) has to be shorter"),
        ({"fail_after": "26"}, "freshness.fail_after: "),
    ):
        with pytest.raises(DselectError, match=said):
            check_settings(written | {"freshness": bad}, "dselect.yaml", Path("/"))
