"""Reward models and local judges in the real graph: only the rows that lack a grade run, and nothing is made twice."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.e2e.conftest import WORDS
from tests.e2e.graph import Graph, alpaca, assert_as_planned, made, materialised
from tests.local_graders import save_judge, save_reward_model
from tests.tiny import save_llama

ROWS = 24
GRADES = ("dependability_grades", "a")


@pytest.fixture
def graders(tmp_path: Path) -> dict[str, dict[str, Any]]:
    (tmp_path / "rubric.md").write_text("Is it right?")
    return {
        "reward": {"reward_model": str(save_reward_model(tmp_path / "reward"))},
        "judge": {"judge": str(save_judge(tmp_path / "judge", louder=20.0, window=8192)), "rubric": "rubric.md"},
    }


def rows(n: int) -> list[dict[str, str]]:
    return alpaca([*WORDS, *(f"{word}est" for word in WORDS)][:n])


def test_only_rows_without_a_grade_run_and_going_back_to_a_grader_runs_none(
    tmp_path: Path, graders: dict[str, dict[str, Any]]
) -> None:
    graph = Graph(tmp_path)
    graph.source("a", [*rows(ROWS), {"instruction": "Go on", "input": "", "output": "and on " * 400}])
    graph.sources("a")
    graph.settings(
        model={"path": str(save_llama(tmp_path / "target"))},
        coresets={"best": {"strategy": "topk:grade", "budget": 4}, "d3": {"strategy": "d3", "budget": "25%"}},
        grader=graders["reward"],
    )
    plan = graph.plan()
    assert plan.grader_tokens > ROWS
    assert plan.judge_tokens == (0, 0)
    done = graph.refresh()
    assert done.is_whole
    assert materialised(done)[GRADES]["rows computed"] == ROWS + 1
    assert_as_planned(plan, done)
    grades = graph.scores("grades")
    assert grades["reward"].null_count() == grades["grade"].null_count() == 1
    (reason,) = grades.filter(pl.col("grade").is_null())["error"]
    assert "longer than the grader's window of 256 tokens" in reason
    best = grades.top_k(4, by="grade")["sample_id"]
    assert set(graph.order("best")["sample_id"]) == set(best)
    # What has no grade would have none again: it is not tried again, and nothing is left to do.
    assert graph.plan().steps == []
    assert graph.refresh().runs == []

    graph.source("a", [*rows(ROWS + 1), {"instruction": "Go on", "input": "", "output": "and on " * 400}])
    plan, done = graph.plan(), graph.refresh()
    assert assert_as_planned(plan, done)
    figures = materialised(done)[GRADES]
    assert (figures["rows computed"], figures["rows reused"]) == (1, ROWS + 1)
    of_reward = graph.scores("grades")
    # Estimated from what the others took.
    (tokens,) = of_reward.join(grades, on="sample_id", how="anti")["prompt_tokens"]
    assert tokens / 2 < plan.grader_tokens < tokens * 2

    graph.settings(grader=graders["judge"])
    done = graph.refresh()
    assert done.is_whole
    assert materialised(done)[GRADES]["rows computed"] == ROWS + 2
    judged = graph.scores("grades")
    assert set(judged["scale"]) == {"probability"}
    assert judged["grade"].null_count() == judged["logprob_yes"].null_count() == 0
    assert judged["grade"].is_between(0, 1).all() and judged["grade"].n_unique() > ROWS / 2

    graph.settings(grader=graders["reward"])
    done = graph.refresh()
    assert materialised(done)[GRADES]["rows computed"] == 0
    assert graph.scores("grades").equals(of_reward)
    # Another place or batch size is the same grader; other weights are another.
    graph.settings(grader=graders["reward"] | {"batch_tokens": 50, "device": "cpu"})
    assert graph.refresh().runs == []
    save_reward_model(tmp_path / "reward", seed=1)
    assert materialised(graph.refresh())[GRADES]["rows computed"] == ROWS + 2


def test_a_grader_that_cannot_grade_is_one_error_and_stops_nobody_else(tmp_path: Path) -> None:
    graph = Graph(tmp_path)
    graph.source("a", rows(ROWS))
    graph.sources("a")
    graph.settings(
        model={"path": str(save_llama(tmp_path / "target"))},
        coresets={"best": {"strategy": "topk:reward", "budget": 4}, "hard": {"strategy": "topk:upd", "budget": 4}},
        grader={"reward_model": str(save_reward_model(tmp_path / "reward", labels=3))},
    )
    done = graph.refresh()
    assert done.failed
    said = "\n".join(message for run in done.failed for message in run.errors.values())
    assert "it has 3 labels" in said
    save_reward_model(tmp_path / "reward")
    assert GRADES in made(graph.refresh())
    best = graph.scores("grades").top_k(4, by="reward")["sample_id"].to_list()
    assert graph.order("best")["sample_id"].to_list() == best
