"""Prompt tokens by the judge's own tokenizer: counted as the server would, and what a plan says of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.graders import prompt_tokens as counting
from dselect_core.graders.grades import grader_provenance
from dselect_core.graders.judge_form import JudgeForm
from dselect_core.graders.prompt_tokens import counter_of, prompt_tokens
from dselect_core.settings.grader_spec import GraderSpec
from tests.graded import Graded
from tests.openai_server import OpenAIServer, Reply, Request, rating
from tests.tiny import TEXTS, conversation, samples_frame, save_llama, tokenizer

SAMPLES = samples_frame([conversation(f"{text} {i}", text[: 7 * i]) for i in range(1, 8) for text in TEXTS])


def spec(**options: object) -> GraderSpec:
    return GraderSpec.model_validate({"base_url": "http://127.0.0.1:1/v1", "model": "m", **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("judge"))


def by_server(spec: GraderSpec) -> list[int]:
    form = JudgeForm.of(spec)
    chats = (form.prompt.chat(*row, form.prompt.rubric(spec)) for row in SAMPLES["sample_id", "messages"].iter_rows())
    return [len(tokenizer().apply_chat_template(chat, add_generation_prompt=True)["input_ids"]) for chat in chats]


@pytest.mark.parametrize("form", [{}, {"scale": "probability"}, {"criteria": {"tone": "It is friendly."}}])
def test_every_form_is_counted_as_the_chat_template_renders_it(folder: Path, form: dict[str, object]) -> None:
    asked = spec(tokenizer=str(folder), **form)
    count = counter_of(asked)
    assert count is not None
    assert prompt_tokens(SAMPLES, asked, count) == sum(by_server(asked))
    assert prompt_tokens(SAMPLES.clear(), asked, count) == 0


def test_of_many_rows_a_part_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_ROWS", 8)
    asked, called = spec(tokenizer=str(folder)), []
    count = counter_of(asked)
    assert count is not None

    def counted(chat: list[dict[str, str]]) -> int:
        called.append(chat)
        return count(chat)

    estimate, actual = prompt_tokens(SAMPLES, asked, counted), sum(by_server(asked))
    assert len(called) == 8
    assert estimate == pytest.approx(actual, rel=0.05) and estimate != actual


def test_without_a_template_the_texts_are_counted(tmp_path: Path) -> None:
    asked = spec(tokenizer=str(save_llama(tmp_path, template=None)))
    count = counter_of(asked)
    assert count is not None
    texts = len(tokenizer().encode("hello there", add_special_tokens=False))
    assert count([{"role": "system", "content": "hello there"}, {"role": "user", "content": ""}]) == 3 + 2 * 4 + texts


def test_what_is_named_must_be_a_tokenizer_and_moves_no_grade(tmp_path: Path) -> None:
    with pytest.raises(DselectError, match=r"grader\.tokenizer: .* cannot be opened"):
        counter_of(spec(tokenizer=str(tmp_path)))
    assert counter_of(spec()) is None
    assert grader_provenance(spec(tokenizer=str(tmp_path))) == grader_provenance(spec())


def test_openais_models_are_counted_by_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    from tiktoken import model, registry

    ranks = {bytes([i]): i for i in range(256)}
    bytewise = tiktoken.Encoding("bytewise", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, "bytewise", bytewise)
    monkeypatch.setitem(model.MODEL_TO_ENCODING, "judge-of-bytes", "bytewise")
    count = counter_of(spec(model="judge-of-bytes"))
    assert count is not None
    assert count([{"role": "user", "content": "abc de"}]) == 3 + 4 + 6
    assert counter_of(spec(model="nobody's")) is None


def judge(request: Request) -> Reply:
    """Counts as a server would whose model has the tokenizer above."""
    tokens = len(tokenizer().apply_chat_template(request.body["messages"], add_generation_prompt=True)["input_ids"])
    return rating(4, usage=(tokens, 10))


@pytest.fixture
def graded(tmp_path: Path) -> Iterator[Graded]:
    texts = [f"{text} {'again ' * (i % 9)}{i}" for i in range(10) for text in TEXTS]
    with OpenAIServer(judge) as server:
        yield Graded(tmp_path, server, {"a": texts[:20], "b": texts[20:]})


def test_the_estimate_of_a_plan_against_what_was_counted(graded: Graded, folder: Path, record_property: Any) -> None:
    graded.settings()
    graded.land()
    estimates = {"nothing known": graded.estimated("b")}
    graded.settings(tokenizer=str(folder))
    estimates["by the tokenizer"] = graded.estimated("b")
    graded.settings()
    graded.update("a")
    estimates["as the grades of source a took"] = graded.estimated("b")
    graded.update("b")
    counted = graded.grades().filter(pl.col("sources") == ["b"])["prompt_tokens"].sum()
    errors = {name: prompt / counted - 1 for name, (prompt, _) in estimates.items()}
    for name, error in errors.items():
        record_property(f"prompt tokens, {name}: error of the estimate", f"{error:+.1%}")
    assert errors["by the tokenizer"] == 0
    assert abs(errors["as the grades of source a took"]) < 0.05
    assert abs(errors["nothing known"]) > 0.05
    assert estimates["as the grades of source a took"][1] == 10 * 20
