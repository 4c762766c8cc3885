"""The resolver that reads all partitions at once gives the answers of Dagster's, which reads each."""

import dagster as dg
import pytest

from dselect_dagster import dagster_private_staleness
from dselect_dagster.dagster_private_staleness import StalenessResolver, StaleStatus
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.refresh.instance import open_instance
from dselect_dagster.refresh.refresh import refresh
from dselect_dagster.refresh.staleness import Staleness
from tests.dagster.dagster_private import blind_from, dagster_resolver
from tests.e2e.conftest import WORDS
from tests.e2e.graph import SCORES, Graph, alpaca, settings_of

LANDING = dg.AssetSelection.assets("raw_dataset", "coreset_spec")


@pytest.mark.walk(3)
@pytest.mark.parametrize(
    "change", ["nothing", "rows again", "rows", "a source more", "a source gone", "beta", "a budget"]
)
def test_status_and_causes_are_dagsters(graph: Graph, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_private_staleness, "RECORDS_PER_QUERY", 1)  # so that two partitions are two queries
    if change == "rows again":  # other bytes, the same rows: another landing of the same version
        landed = graph.folder / "data" / "a.json"
        landed.write_text(landed.read_text() + " ")
    elif change == "rows":
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
    assert ({status for status, _ in answers} == {StaleStatus.FRESH}) == (change in ("nothing", "rows again"))


def test_what_dagster_does_not_compare_is_compared_by_its_rule(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.source("a", alpaca(WORDS[:-1]))
    defs = build_definitions(settings_of(graph), str(graph.config))
    with open_instance(graph.config) as instance:
        refresh(defs, instance, graph.workspace, select=dg.AssetSelection.assets("raw_dataset", *SCORES))
        index = dg.AssetKey("corpus_index")
        seen = StalenessResolver(defs, instance).get_stale_causes(index)
        assert [str(cause.dependency) for cause in seen] == [
            str(cause.dependency) for cause in dagster_resolver(defs, instance).get_stale_causes(index)
        ]
        blind_from(1, monkeypatch)
        assert dagster_resolver(defs, instance).get_status(index) == StaleStatus.FRESH
        assert StalenessResolver(defs, instance).get_stale_causes(index) == seen
