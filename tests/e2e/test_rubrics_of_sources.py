"""A rubric of one source in the graph: an edit of it buys its rows, and `plan`, `why` and the manifest tell it."""

from pathlib import Path

import polars as pl
import pytest

from dselect_core.lineage.explain import story
from dselect_core.pool.corpus_index import read_index
from dselect_dagster.cli.render import print_story
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned
from tests.openai_server import OpenAIServer, Reply, Request, rating
from tests.tiny import save_llama


def judge(request: Request) -> Reply:
    return rating(2 if "Grade tales." in request.text else 4)


def test_an_edit_of_a_rubric_buys_the_rows_of_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(tmp_path)
    (tmp_path / "tales.md").write_text("Grade tales.")
    graph.source("a", alpaca(WORDS[:6]))
    graph.source("b", [*alpaca(WORDS[:4], offset=50), alpaca(WORDS)[0]])  # its last row stands in `a` too
    graph.sources("ab")
    with OpenAIServer(judge) as server:
        graph.settings(
            model={"path": str(save_llama(tmp_path / "model"))},
            coresets={"best": {"strategy": "topk:grade", "budget": 4}},
            grader={"base_url": server.base_url, "model": "judge-1", "rubrics": {"b": "tales.md"}},
        )
        assert graph.refresh().is_whole
        assert len(server.requests) == 6 + 5
        shared = read_index(graph.workspace).frame.filter(pl.col("sources").list.len() == 2)["sample_id"][0]
        print_story(story(graph.workspace, shared, ["a", "b"]))
        told = " ".join(capsys.readouterr().out.split())
        assert ", as source a asks grade 0.75" in told and ", as source b asks (not used now) grade 0.25" in told
        provenance = graph.manifest("best")["scores"]["grades"]["provenance"]
        assert provenance["by source"]["b"]["rubric"].startswith("Grade tales.")
        (tmp_path / "tales.md").write_text("Grade others.")
        planned = graph.plan()
        reasons = {step.partition: step.why for step in planned.steps if step.asset == "dependability_grades"}
        assert reasons["b"].endswith("; graded by rubric tales.md")
        assert reasons["a"].endswith("; graded by the shipped rubric")
        done = graph.refresh()
        assert done.is_whole
        assert_as_planned(planned, done)
        assert len(server.requests) == 11 + 5
        assert set(graph.scores("grades")["rating"]) == {4.0}
