"""A refresh that is killed while it grades buys again at most what was under way, by the server's own count."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.graph import Graph, assert_as_planned
from tests.e2e.killed_refresh import environment
from tests.openai_server import OpenAIServer, Reply, Request, rating
from tests.tiny import save_llama

ROOT = Path(__file__).parents[2]
KILLS = max(1, int(os.environ.get("DSELECT_KILLS", "5")) // 5)


class Judge:
    """Counts how often each row was asked for, and lets a test wait for a moment."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        row = next(word for word in request.text.split() if word.startswith("row-"))
        with self._lock:
            self.asked[row] += 1
        return rating(3 + len(row) % 3, delay=self.delay)  # a judge of one mind is taken for a broken one


@pytest.mark.parametrize("concurrency,rows,kills", [(8, 80, 2 * KILLS), (64, 300, KILLS), (256, 700, KILLS)])
def test_what_was_answered_is_bought_once_however_often_the_refresh_is_killed(
    tmp_path: Path, concurrency: int, rows: int, kills: int
) -> None:
    graph = Graph(tmp_path)
    graph.source("a", [{"instruction": f"Say row-{i} .", "output": f"I say {i}."} for i in range(rows)])
    judge = Judge(delay=0.05)
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    print(f"seed {seed}")
    with OpenAIServer(judge) as server:
        graph.settings(
            sources={"a": {"path": "data/a.json"}},
            model={"path": str(save_llama(tmp_path / "model"))},
            coresets={"best": {"strategy": "topk:grade", "budget": 4}},
            grader={"base_url": server.base_url, "model": "judge-1", "concurrency": concurrency},
        )
        for kill in range(kills):
            asked_before = judge.asked.total()
            # Of the rows that are left, some are asked for before the kill, and some are not.
            moment = asked_before + chance.randrange(1, max(2, (rows - asked_before) // (kills - kill)))
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.killed_refresh", str(graph.folder), str(tmp_path / "log")],
                cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while process.poll() is None and judge.asked.total() < moment:
                time.sleep(0.002)
            process.kill()
            assert process.wait() == -9
            time.sleep(2 * judge.delay)  # what was under way is counted by now
        plan = graph.plan()
        before_last = judge.asked.total()
        done = graph.refresh()
    assert done.is_whole
    assert_as_planned(plan, done)
    (step,) = [step for step in plan.steps if step.asset == "dependability_grades"]
    assert step.computed == judge.asked.total() - before_last
    assert set(judge.asked) == {f"row-{i}" for i in range(rows)}
    bought_again = judge.asked.total() - rows
    assert bought_again <= kills * concurrency, f"{bought_again} of {rows}, {kills} kills at {concurrency}"
    grades = graph.scores("grades")
    assert grades.height == rows and grades["grade"].null_count() == 0
    assert grades["prompt_tokens"].sum() == 100 * rows
    assert grades.select(pl.col("sample_id").n_unique()).item() == rows
