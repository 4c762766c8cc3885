"""Grading through a real server of the OpenAI API: `transformers serve`, with models that are made here.

One answers every question with a whole rating, one is random: what it says is no grade, and none is made of it. What
the server counted is what the ledger says. DSELECT_JUDGE_MODEL names real weights (a folder) that are asked too.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from transformers.utils.import_utils import is_serve_available

from dselect_core.errors import DselectError
from dselect_core.graders.spend import Ledger
from tests.graded import Graded
from tests.openai_server import OpenAIServer, Reply, Request
from tests.tiny import save_llama, tokenizer

pytestmark = pytest.mark.skipif(
    not is_serve_available(), reason="`transformers serve` needs fastapi and uvicorn: pip install transformers[serving]"
)

ANSWER = '{"rating": 4, "reason": "It is right."}'
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def save_judge(folder: Path) -> Path:
    """A Llama whose next token hangs on the last one alone: after the prompt of an answer, ANSWER, then the end."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer().save_pretrained(folder)
    own = AutoTokenizer.from_pretrained(folder)
    own.add_tokens([ANSWER])  # one token, so that two transitions are all there is
    own.save_pretrained(folder)
    prompt = own.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True)["input_ids"]
    (answer,) = own.encode(ANSWER, add_special_tokens=False)
    size = 8 * (len(own) // 8 + 1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(own), hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=4096, eos_token_id=own.eos_token_id, tie_word_embeddings=False,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" not in name:
                weights.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(own), size))
        model.lm_head.weight[answer, prompt[-1]] = 1.0
        model.lm_head.weight[own.eos_token_id, answer] = 1.0
    model.save_pretrained(folder)
    return folder


class Served:
    """The server, and before it one that forwards all to it and keeps what it replied."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.usage: list[dict[str, int]] = []
        self.statuses: list[int] = []

    def __call__(self, request: Request) -> Reply:
        call = urllib.request.Request(
            f"{self.address}/v1/chat/completions",
            json.dumps(request.body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(call, timeout=120) as reply:
                body, status = reply.read(), reply.status
        except urllib.error.HTTPError as error:
            body, status = error.read(), error.code
        self.statuses.append(status)
        if status == 200:
            self.usage.append(json.loads(body)["usage"])
        return Reply(body, status)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as file:
        server = subprocess.Popen([*command, *options], stdout=file, stderr=file)
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def served(address: str) -> Served:
    return Served(address)


@pytest.fixture
def graded(tmp_path: Path, served: Served) -> Iterator[Graded]:
    with OpenAIServer(served) as front:
        yield Graded(tmp_path, front, {"a": WORDS})


def test_grades_are_what_the_judge_said_and_cost_what_the_server_counted(
    graded: Graded, served: Served, judge: Path
) -> None:
    graded.settings(model=str(judge), tokenizer=str(judge), max_tokens=16)
    graded.land()
    estimate, _ = graded.estimated("a")
    asked = graded.bought()
    grades = graded.grades()
    assert set(grades.select("rating", "grade", "rationale", "error").rows()) == {(4.0, 0.75, "It is right.", None)}
    assert len(asked) == len(WORDS) and set(served.statuses) == {200}
    assert_counted(graded, served)
    assert estimate == sum(usage["prompt_tokens"] for usage in served.usage)  # before anything was asked


def assert_counted(graded: Graded, served: Served) -> None:
    """The ledger and the grades say to the token what the server did."""
    calls, grades = Ledger.of(graded.workspace).calls(), graded.grades()
    for name in ("prompt_tokens", "completion_tokens"):
        by_server = [usage[name] for usage in served.usage]
        assert sorted(calls[name].drop_nulls()) == sorted(by_server)
        assert grades[name].sum() == sum(by_server)


def test_of_what_a_random_model_says_no_grade_is_made(graded: Graded, served: Served, tmp_path: Path) -> None:
    graded.settings(model=str(save_llama(tmp_path / "judge")), max_tokens=12, give_up_after=1)
    graded.update()
    grades = graded.grades()
    assert grades["grade"].null_count() == len(WORDS)
    known = ("cut at 12 tokens", "no rating in the reply", "no answer in the reply")
    assert all(error.startswith(known) for error in grades["error"])
    assert_counted(graded, served)


def test_an_endpoint_without_log_probabilities_is_told_so(graded: Graded, served: Served, judge: Path) -> None:
    graded.settings(model=str(judge), scale="probability", max_tokens=1, concurrency=1)
    with pytest.raises(DselectError, match="log-probabilities"):
        graded.bought()
    assert len(served.statuses) < 4


@pytest.mark.skipif("DSELECT_JUDGE_MODEL" not in os.environ, reason="DSELECT_JUDGE_MODEL names no folder of weights")
def test_real_weights(graded: Graded, served: Served, record_property: Any) -> None:
    graded.settings(model=os.environ["DSELECT_JUDGE_MODEL"], max_tokens=64, concurrency=1, timeout_seconds=600)
    graded.update()
    grades = graded.grades()
    assert grades.select((pl.col("grade").is_null() == pl.col("error").is_not_null()).all()).item()
    assert_counted(graded, served)
    record_property("grades by real weights", f"{grades['grade'].count()} of {len(WORDS)}")
