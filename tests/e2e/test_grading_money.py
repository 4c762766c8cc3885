"""Money on the command line: a cap that stops a refresh, what was spent, and a few grades before all are bought."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from dselect_core.graders.spend import Ledger
from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, materialised
from tests.e2e.test_cli import dselect
from tests.openai_server import OpenAIServer, Reply, Request, rating
from tests.tiny import save_llama

pytestmark = pytest.mark.some(3)

PRICE = {"prompt": 1000.0, "completion": 10_000.0}
USD_A_GRADE = 0.2  # of 100 tokens and 10
ROWS = 20


def judge(request: Request) -> Reply:
    return rating(2 + len(request.text) % 3, usage=(100, 10))


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(judge) as server:
        yield server


@pytest.fixture
def graph(tmp_path: Path, server: OpenAIServer) -> Graph:
    graph = Graph(tmp_path)
    graph.source("a", alpaca(WORDS[:ROWS]))
    graph.source("b", alpaca(WORDS[:ROWS], offset=1000))
    graph.sources("ab")
    graph.settings(
        model={"path": str(save_llama(tmp_path / "model"))},
        coresets={"best": {"strategy": "topk:grade", "budget": 4}},
    )
    return graph


def grader(server: OpenAIServer, **options: object) -> dict[str, object]:
    held = {"base_url": server.base_url, "model": "judge-1", "max_retries": 0, "max_tokens": 10}
    return held | {"usd_per_million_tokens": PRICE} | options


def test_a_refresh_stops_before_the_cap_says_so_and_the_next_goes_on(graph: Graph, server: OpenAIServer) -> None:
    graph.settings(grader=grader(server, max_usd=40 * USD_A_GRADE))
    assert "a refresh stops at grader.max_usd $8" in dselect(graph.folder, "plan")
    told = dselect(graph.folder, "refresh", code=1)
    first = len(server.requests)
    assert ROWS < first < 2 * ROWS  # over both sources together
    assert f"{first} calls to judge-1" in told and "of grader.max_usd $8" in told
    assert "the cap is reached: grader.max_usd of $8 a refresh" in told
    assert graph.refresh().is_whole
    assert len(server.requests) == 2 * ROWS  # none was bought twice, and no row was charged with an attempt
    assert graph.scores("grades")["grade"].null_count() == 0
    assert graph.refresh().runs == []


def test_spend_is_told_by_month_source_and_refresh(graph: Graph, server: OpenAIServer) -> None:
    assert "No call to a paid grader" in dselect(graph.folder, "grades", "cost")
    graph.settings(grader=grader(server, max_usd_per_month=100.0))
    figures = materialised(graph.refresh())
    for source in "ab":
        shown = figures["dependability_grades", source]
        assert shown["judge calls"] == ROWS
        assert shown["spent (USD)"] == pytest.approx(ROWS * USD_A_GRADE)
    assert figures["dependability_grades", "b"]["spent this month, all sources (USD)"] == pytest.approx(8.0)
    told = dselect(graph.folder, "grades", "cost")
    assert told.count("$8.00") == 3  # the month, the refresh, and of the month's cap
    assert told.count("$4.00") == 2  # the sources
    assert "$8.00 of grader.max_usd_per_month $100" in told
    assert Ledger.of(graph.workspace).calls()["prompt_tokens"].sum() == 100 * len(server.requests)


def test_a_few_grades_are_shown_priced_and_kept(graph: Graph, server: OpenAIServer) -> None:
    graph.settings(grader=grader(server))
    told = dselect(graph.folder, "grades", "try", "8")
    assert len(server.requests) == 8
    assert "8 rows: 800 + 80 tokens, $1.60. They are kept." in told
    assert f"would buy {2 * ROWS - 8} more" in told
    assert f"+ {10 * (2 * ROWS - 8)} tokens, about $" in told  # completions as long as those of the eight
    plan = graph.plan()
    assert sum(step.computed or 0 for step in plan.steps if step.bought) == 2 * ROWS - 8
    assert graph.refresh().is_whole
    assert len(server.requests) == 2 * ROWS
    assert "there is nothing to try" in dselect(graph.folder, "grades", "try")


def test_a_plan_counts_completions_from_what_the_same_judge_took_under_another_rubric(
    graph: Graph, server: OpenAIServer, tmp_path: Path
) -> None:
    graph.settings(grader=grader(server, max_tokens=256))
    graph.refresh()
    (tmp_path / "rubric.md").write_text("Is it right?")
    graph.settings(grader=grader(server, max_tokens=256, rubric="rubric.md"))
    assert graph.plan().judge_tokens[1] == 2 * ROWS * 10
    graph.settings(grader=grader(server, max_tokens=256, rubric="rubric.md", model="judge-2"))
    assert graph.plan().judge_tokens[1] == 2 * ROWS * 256  # another judge may write more


def test_a_store_of_before_needs_no_ledger(graph: Graph, server: OpenAIServer) -> None:
    """Grades that were bought by an earlier version are not bought again, and have no ledger."""
    graph.settings(grader=grader(server))
    graph.refresh()
    for path in sorted(Path(str(graph.workspace.spend)).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert graph.refresh().runs == []
    assert "No call" in dselect(graph.folder, "grades", "cost")
    assert graph.scores("grades").select(pl.col("prompt_tokens").sum()).item() == 100 * 2 * ROWS
