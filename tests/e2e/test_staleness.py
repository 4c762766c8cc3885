"""The resolver that reads all partitions at once gives the answers of Dagster's, which reads each."""

import dagster as dg
import pytest

from dselect_dagster import dagster_private
from dselect_dagster.dagster_private import StalenessResolver, StaleStatus
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.refresh.instance import open_instance
from dselect_dagster.refresh.refresh import refresh
from dselect_dagster.refresh.staleness import Staleness
from tests.dagster.dagster_private import dagster_resolver
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, settings_of

LANDING = dg.AssetSelection.assets("raw_dataset", "coreset_spec")


@pytest.mark.walk(3)
@pytest.mark.parametrize("change", ["nothing", "rows", "a source more", "a source gone", "beta", "a budget"])
def test_status_and_causes_are_dagsters(graph: Graph, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_private, "RECORDS_PER_QUERY", 1)  # so that two partitions are two queries
    if change == "rows":
        graph.source("a", alpaca(WORDS[:-1]))
    elif change == "a source more":
        graph.source("c", alpaca(WORDS[:3], offset=90))
        graph.sources("abc")
    elif change == "a source gone":
        graph.sources("a")
    elif change == "beta":
        graph.settings(difficulty={"beta": 3.0})
    elif change == "a budget":
        graph.settings(coresets={"d3": {"strategy": "d3", "budget": "50%"}})
    defs = build_definitions(settings_of(graph), str(graph.config))
    with open_instance(graph.config) as instance:
        refresh(defs, instance, graph.workspace, select=LANDING)
        ours, theirs = StalenessResolver(defs, instance), dagster_resolver(defs, instance)
        keys = list(Staleness(defs, instance).automated_partitions())
        answers = [(ours.get_status(*key), ours.get_stale_causes(*key)) for key in keys]
        assert answers == [(theirs.get_status(*key), theirs.get_stale_causes(*key)) for key in keys]
    assert ({status for status, _ in answers} == {StaleStatus.FRESH}) == (change == "nothing")
