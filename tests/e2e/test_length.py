"""`length_corrected` and `per: token` on the real graph: planned, recorded, and equal to a fresh run."""

from pathlib import Path

import pytest
import yaml

from tests.e2e.graph import Graph, assert_as_planned, materialised
from tests.e2e.test_row_by_row import rows
from tests.tiny import save_llama

RECIPES = {
    "plain": {"strategy": "topk:loss", "budget": 6},
    "corrected": {"strategy": "d3", "budget": "20%", "length_corrected": True},
    "cheap": {"strategy": "facility-location", "budget": "60 tokens", "per": "token"},
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("length"))
    graph.source("a", rows(0, 40))
    graph.source("b", rows(200, 20))
    graph.sources("ab")
    graph.settings(model={"path": str(save_llama(tmp_path_factory.mktemp("model")))}, coresets=RECIPES)
    assert not graph.refresh().failed
    return graph


def test_the_record_has_the_options_that_were_given(graph: Graph) -> None:
    assert graph.manifest("corrected")["options"] == {"length_corrected": True}
    assert graph.manifest("cheap")["options"] == {"neighbors": None, "per": "token"}
    assert graph.manifest("plain")["options"] == {}
    assert graph.manifest("cheap")["counts"]["response_tokens"] <= 60
    assert "difficulty" in graph.manifest("cheap")["scores"]


@pytest.mark.walk(1)
@pytest.mark.parametrize("change", ["a row moves to another source", "a new row"])
def test_what_moves_is_planned_and_equals_a_fresh_run(graph: Graph, tmp_path: Path, change: str) -> None:
    before = graph.manifest("corrected")["order"]
    if change == "a new row":
        graph.source("a", [*rows(0, 40), rows(701, 1)[0]])
        graph.source("b", rows(200, 20))
    else:
        graph.source("a", rows(1, 39))
        graph.source("b", [*rows(200, 20), rows(0, 1)[0]])
    planned = graph.plan()
    done = graph.refresh()
    assert not done.failed
    assert_as_planned(planned, done)
    assert ("coreset", "corrected") in materialised(done)
    assert graph.manifest("corrected")["order"] != before  # the line of its source is another one
    assert graph.refresh().runs == []

    fresh = Graph(tmp_path)
    fresh.settings(**yaml.safe_load(graph.config.read_text()))
    for source in "ab":
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{source}.json").write_bytes((graph.folder / "data" / f"{source}.json").read_bytes())
    assert not fresh.refresh().failed
    for recipe in RECIPES:
        assert fresh.order(recipe)["sample_id"].equals(graph.order(recipe)["sample_id"]), recipe


def test_an_option_that_is_taken_out_moves_its_coreset_alone(graph: Graph) -> None:
    graph.settings(coresets=RECIPES | {"corrected": {"strategy": "d3", "budget": "20%"}})
    planned = graph.plan()
    done = graph.refresh()
    assert_as_planned(planned, done)
    assert {key for key in materialised(done) if key[0] == "coreset"} == {("coreset", "corrected")}
    assert graph.manifest("corrected")["options"] == {}
