"""Rendering held to what it promises, over the chat templates of many model families and any conversation."""

import copy
import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.render import Rendered, Renderer
from tests.chat_templates import DATED, FAMILIES, NOT_SHARING, STRIPPING, WITH_TOOLS
from tests.tiny import conversation, sentencepiece_tokenizer, tokenizer

WINDOW = 100_000
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "", "parameters": {"type": "object"}}}]
THOUGHT = "<think>\nAn arachnid: eight, surely.\n</think>\n\nEight."

# Canonical texts: no blank lines in front, nothing blank at the end; spaces in front are content.
TEXTS = (
    st.one_of(
        st.sampled_from(
            ["hi", "in", "a", "t", ".", "<p>Hi &amp; bye</p>", "  x = 1\n  y = 2", "assistant", "<|im", "[INST]"]
        ),
        st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12),
    )
    .map(str.rstrip)
    .filter(lambda text: text.strip() and "think" not in text)
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    turns = draw(st.lists(TEXTS, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0))
    return conversation(*turns, system=draw(st.none() | TEXTS))


def renderer(family: str, own: Any = None, window: int = WINDOW) -> Renderer:
    own = copy.deepcopy(own or tokenizer())
    own.chat_template = FAMILIES[family]
    return Renderer(own, window)


def scored_texts(of: Renderer, rendered: Rendered) -> list[str]:
    """The text of each run of scored tokens."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], rendered.response.astype(int), [0]])))
    return [of.tokenizer.decode(rendered.ids[a:b]) for a, b in borders.reshape(-1, 2)]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(messages=conversations(), shot=conversations())
def test_scored_tokens_are_the_responses_in_every_pass(
    family: str, messages: list[dict[str, str]], shot: list[dict[str, str]]
) -> None:
    of = renderer(family)
    rendered = of.render(messages)
    strip = str.strip if family in STRIPPING else str
    answers = [strip(m["content"]) for m in messages if m["role"] == "assistant"]
    assert scored_texts(of, rendered) == answers
    # Every word of the prompts is there, and all ids are the template's text up to the end of the last answer.
    assert of.tokenizer.decode(rendered.ids) == rendered.text
    assert all(strip(m["content"]) in rendered.text for m in messages)
    of_shot = of.render(shot)
    behind = of.one_shot(rendered, of_shot)
    assert behind is not None
    assert behind.ids[behind.scored].tolist() == rendered.ids[rendered.response].tolist()
    if family in NOT_SHARING:
        assert behind.shared == 0
    else:
        assert behind.ids[: behind.shared].tolist() == of_shot.ids.tolist()
    together = of.template.text(of.template.accepted(shot)[0] + without_system(of, messages))
    assert together.startswith(of.tokenizer.decode(behind.ids))


def without_system(of: Renderer, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    if messages[0]["role"] != "system":
        return messages
    return [{"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}, *messages[2:]]


@pytest.mark.parametrize("family", FAMILIES)
def test_whether_shots_are_shared_is_known_of_the_template(family: str) -> None:
    assert renderer(family).shares_prefixes == (family not in NOT_SHARING)


@pytest.mark.parametrize("family", FAMILIES)
def test_thinking_of_earlier_turns_is_scored_as_printed_and_that_of_the_last_never_lost(family: str) -> None:
    of = renderer(family)
    messages = conversation("How many legs?", THOUGHT, "And a beetle, an insect?", "<think>\nInsect.\n</think>\n\nSix.")
    try:
        rendered = of.render(messages)
    except UnrenderableError as error:
        assert family == "deepseek r1", error
        assert "leaves out its thinking" in str(error)
        return
    first, last = scored_texts(of, rendered)
    assert first in (THOUGHT, "Eight.")
    assert last.endswith("Insect.\n</think>\n\nSix.")
    assert "And a beetle, an insect?" in rendered.text


@pytest.mark.parametrize("family", FAMILIES)
def test_sentencepiece_ids_are_those_of_the_whole_text(family: str) -> None:
    of = renderer(family, sentencepiece_tokenizer())
    assert of.pieces.adds_prefix
    rendered = of.render(conversation("Name a metal.", "Iron."))
    whole = of.tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
    if rendered.text[rendered.tail_start - 1] != " ":  # else a token lies across the border
        assert rendered.ids.tolist() == whole
    assert of.tokenizer.decode(rendered.ids) == of.tokenizer.decode(whole)
    behind = of.one_shot(rendered, of.render(conversation("Who?", "Me.")))
    assert behind is not None
    assert behind.ids[behind.scored].tolist() == rendered.ids[rendered.response].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_date_is_fixed_and_part_of_the_provenance_where_it_is_printed(family: str) -> None:
    of = renderer(family)
    assert ("date" in of.provenance) == (family in DATED)
    other = Renderer(of.tokenizer, WINDOW, date=datetime.date(2024, 7, 26))
    messages = conversation("Name a metal.", "Iron.")
    assert (other.render(messages).text != of.render(messages).text) == (family in DATED)
    assert (other.provenance != of.provenance) == (family in DATED)


def test_a_date_is_printed_in_the_form_that_is_asked_for() -> None:
    own = copy.deepcopy(tokenizer())
    own.chat_template = "{{ strftime_now('%-d %B %Y, %H:%M (%a)') }}\n" + FAMILIES["chatml"]
    rendered = Renderer(own, WINDOW, date=datetime.date(2024, 7, 6)).render(conversation("Hi", "Hello"))
    assert rendered.text.startswith("6 July 2024, 00:00 (Sat)\n<|im_start|>user")


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_of_tools_are_responses_where_the_template_prints_them_and_else_a_reason(family: str) -> None:
    of = renderer(family)
    called = [
        *conversation("Weather?", ""),
        {"role": "tool", "name": "get_weather", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    called[1]["tool_calls"] = [CALL]  # type: ignore[assignment]
    try:
        call, answer = scored_texts(of, of.render(called, TOOLS))
    except UnrenderableError as error:
        assert family not in WITH_TOOLS, error
        return
    assert family in WITH_TOOLS
    assert "get_weather" in call
    assert "Paris" in call
    assert "sunny" not in call
    assert answer == "It is sunny."


def test_named_templates_print_reasoning_and_calls_as_text() -> None:
    of = Renderer(tokenizer(), WINDOW, "alpaca")
    called: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "Look it up.", "tool_calls": [CALL]},
    ]
    rendered = of.render(called, TOOLS)
    (response,) = scored_texts(of, rendered)
    assert response.startswith("<think>\nLook it up.\n</think>")
    assert '"Paris"' in response
    assert "<tools>" in rendered.text


@pytest.mark.parametrize(
    ("family", "stands"),
    [(family, family not in {*NOT_SHARING, *DATED, "deepseek r1", "without system"}) for family in FAMILIES],
)
def test_only_templates_that_were_rendered_wrongly_have_another_provenance(family: str, stands: bool) -> None:
    assert ("rendering" not in renderer(family).provenance) == stands
    assert "rendering" in renderer(family, sentencepiece_tokenizer()).provenance


def test_memory_does_not_follow_one_row() -> None:
    of = renderer("chatml", window=64)
    long = of.render(conversation("word " * 400_000, "answer " * 400_000))
    assert (long.cut_prompt, long.cut_response, long.truncated) == (None, None, True)
    short = renderer("chatml", window=64).render(conversation("word " * 300, "answer " * 300))
    assert long.ids.tolist() == short.ids.tolist()
    assert short.cut_prompt is not None
