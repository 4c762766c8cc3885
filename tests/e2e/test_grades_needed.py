"""`dselect grades needed`: what can still be chosen is counted before anything is bought, and nobody is asked."""

from pathlib import Path

import dagster as dg
import pytest

from dselect_core.errors import DselectError
from dselect_core.lineage.grades_needed import grades_needed
from dselect_dagster.cli.grades_needed import print_grades_needed
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca
from tests.openai_server import OpenAIServer, rating
from tests.tiny import save_llama

ROWS, BUDGET = 24, 4
RECIPES = {"d3": {"strategy": "d3", "budget": BUDGET}, "kcenter": {"strategy": "kcenter", "budget": 3}}


def test_rows_that_can_still_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = Graph(tmp_path)
    graph.source("a", alpaca((WORDS * 2)[:ROWS]))
    with OpenAIServer(lambda request: rating(4)) as server:
        graph.settings(
            sources={"a": {"path": "data/a.json"}},
            model={"path": str(save_llama(tmp_path / "model"))},
            coresets=RECIPES,
            grader={"base_url": server.base_url, "model": "judge-1"},
        )
        with pytest.raises(DselectError, match="nothing is known of the grades needed: no source is complete; a: not"):
            grades_needed(graph.workspace)
        assets = ["raw_dataset", "coreset_spec", "warmup_model", "difficulty_scores", "embeddings"]
        graph.refresh(select=dg.AssetSelection.assets(*assets))
        before = grades_needed(graph.workspace)
        assert (before.rows, before.graded, before.failed, before.ungraded) == (ROWS, 0, 0, ROWS)
        assert set(before.recipes) == {"d3"} and before.recipes["d3"].certain == 0
        assert len(before.next_ids) == BUDGET and before.expected is None
        print_grades_needed(before, tmp_path / "ids.txt")
        assert (tmp_path / "ids.txt").read_text().splitlines() == before.next_ids.to_list()
        assert server.requests == []

        graph.refresh()
        asked = len(server.requests)
        after = grades_needed(graph.workspace)
        assert (after.graded, after.next_ids.to_list(), after.expected) == (ROWS, [], 0)
        # One more source: guessed from the grades that are known, between what is needed now and all of it.
        graph.source("b", alpaca((WORDS * 2)[:ROWS], offset=100))
        graph.settings(sources={name: {"path": f"data/{name}.json"} for name in "ab"})
        graph.refresh(select=dg.AssetSelection.assets(*assets))
        more = grades_needed(graph.workspace)
        assert (more.rows, more.graded, more.ungraded) == (2 * ROWS, ROWS, ROWS)
        assert more.expected is not None and len(more.next_ids) <= more.expected <= ROWS
        assert len(server.requests) == asked
    capsys.readouterr()
    print_grades_needed(before, None)
    told = " ".join(capsys.readouterr().out.split())
    assert "0 of 24 rows were graded." in told and "Needed: 4 now and 24 at most." in told
    print_grades_needed(after, None)
    told = " ".join(capsys.readouterr().out.split())
    assert "No more are needed: the 0 others cannot be chosen" in told
    print_grades_needed(more, None)
    assert f"about {more.expected} if they come as those known" in " ".join(capsys.readouterr().out.split())

    graph.settings(coresets={"short": {"strategy": "topk:grade", "budget": 1, "length_corrected": True}})
    every = grades_needed(graph.workspace)
    assert every.every_row == {"short": "topk:grade as it is asked for reads all grades"} and every.expected is None
    print_grades_needed(every, None)
    assert "So all 24 others are needed." in capsys.readouterr().out
    graph.settings(coresets={"kcenter": RECIPES["kcenter"]})
    with pytest.raises(DselectError, match="no recipe reads grades"):
        grades_needed(graph.workspace)
