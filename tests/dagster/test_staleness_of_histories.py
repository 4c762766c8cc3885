"""Staleness read in a few queries against Dagster's own, after each step of random histories."""

import random
from typing import Any

import dagster as dg
import pytest

from dselect_dagster.dagster_private_staleness import StalenessResolver, StaleStatus
from tests.dagster.dagster_private import blind_from, dagster_resolver

SOURCES = dg.DynamicPartitionsDefinition(name="sources")
NAMES = ["a", "b", "c"]


class History:
    """raw[source] → score[source] → index, which reads raw[all] too; each says which data version it makes."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.instance.add_dynamic_partitions("sources", NAMES)
        self.version = "1"

        def made() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.version))

        @dg.asset(partitions_def=SOURCES)
        def raw() -> dg.MaterializeResult:
            return made()

        @dg.asset(deps=[raw], partitions_def=SOURCES)
        def score() -> dg.MaterializeResult:
            return made()

        @dg.asset(deps=[raw, score])
        def index() -> dg.MaterializeResult:
            return made()

        self.defs = dg.Definitions([raw, score, index])
        self.keys = [*((key, name) for key in ("raw", "score") for name in NAMES), ("index", None)]

    def run(self, asset: str, partition: str | None, version: str = "1") -> None:
        self.version = version
        job = self.defs.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(asset)], partition_key=partition)

    def answers(self, resolver: Any) -> list[object]:
        keys = [(dg.AssetKey(asset), partition) for asset, partition in self.keys]
        return [(resolver.get_status(*key), resolver.get_stale_causes(*key)) for key in keys]


@pytest.mark.walk(1)
@pytest.mark.parametrize("seed", range(20))
def test_the_answers_are_dagsters_after_each_step(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    history, draw = History(), random.Random(seed)
    history.run("raw", "a")
    history.run("score", "a")
    seen = set()
    for _ in range(14):
        history.run(*draw.choice([*history.keys, ("index", None)]), version=draw.choice("12"))
        ours = history.answers(StalenessResolver(history.defs, history.instance))
        assert ours == history.answers(dagster_resolver(history.defs, history.instance))
        with monkeypatch.context() as blind:
            blind_from(1, blind)
            assert history.answers(StalenessResolver(history.defs, history.instance)) == ours
        seen |= {str(status) for status, _ in ours}
    assert {"StaleStatus.MISSING", "StaleStatus.STALE"} & seen


def test_what_had_no_partition_when_it_was_read_is_updated_once_it_has() -> None:
    history, index = History(), dg.AssetKey("index")
    history.run("raw", "a")
    history.run("index", None)
    assert StalenessResolver(history.defs, history.instance).get_status(index) == StaleStatus.FRESH
    history.run("score", "a")
    assert dagster_resolver(history.defs, history.instance).get_status(index) == StaleStatus.FRESH
    assert StalenessResolver(history.defs, history.instance).get_status(index) == StaleStatus.STALE
    history.run("index", None)
    assert StalenessResolver(history.defs, history.instance).get_status(index) == StaleStatus.FRESH
