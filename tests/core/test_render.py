"""Rendering: ids and masks at every border, in any template, inside any window."""

import copy
from typing import Any

import numpy as np
import pytest

from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.render import Renderer
from tests.tiny import conversation, tokenizer

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
DEFAULT_SYSTEM = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MULTI = conversation("Hi", "Hello", "Again: Hello?", "Hello", system="Be kind")


def with_template(template: str | None) -> Any:
    own = copy.deepcopy(tokenizer())
    own.chat_template = template
    return own


def texts(renderer: Renderer, ids: np.ndarray, mask: np.ndarray) -> list[str]:
    """The text of each run of response tokens."""
    borders = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [renderer.tokenizer.decode(ids[a:b]) for a, b in borders.reshape(-1, 2)]


@pytest.mark.parametrize("template", [tokenizer().chat_template, THINKING, NO_SYSTEM, DEFAULT_SYSTEM, None])
def test_exactly_the_assistant_turns_are_scored(template: str | None) -> None:
    renderer = Renderer(with_template(template), 512)
    rendered = renderer.render(MULTI)
    assert texts(renderer, rendered.ids, rendered.response) == ["Hello", "Hello"]
    assert "Be kind" in renderer.tokenizer.decode(rendered.ids[: rendered.first_response])
    assert not rendered.truncated
    assert rendered.prompt_tokens + rendered.response_tokens == len(rendered.ids)


def test_an_answer_that_stands_in_the_prompt_too_is_found_where_it_is_answered() -> None:
    renderer = Renderer(with_template(THINKING), 512)
    rendered = renderer.render(conversation("Say yes. yes", "yes"))
    assert texts(renderer, rendered.ids, rendered.response) == ["yes"]
    assert int(np.flatnonzero(rendered.response)[0]) == len(rendered.ids) - rendered.response_tokens


def test_response_ids_do_not_depend_on_what_stands_before_them() -> None:
    renderer = Renderer(tokenizer(), 512)
    answers = {
        tuple(r.ids[r.response]) for p in ("a", "b ", "c\n") if (r := renderer.render(conversation(p, "the answer")))
    }
    assert len(answers) == 1


def test_without_a_chat_template_the_named_one_is_used_and_said() -> None:
    renderer = Renderer(with_template(None), 512)
    assert (renderer.template.name, renderer.template.uses_fallback) == ("alpaca", True)
    assert not Renderer(tokenizer(), 512).template.uses_fallback
    text = renderer.tokenizer.decode(renderer.render(conversation("Add 1 and 1", "2")).ids)
    assert "### Instruction:\nAdd 1 and 1\n\n### Response:\n2" in text


def test_the_prompt_is_cut_from_the_left_and_the_response_only_when_it_must_be() -> None:
    whole = Renderer(tokenizer(), 10_000).render(conversation("question " * 50, "answer " * 10))
    renderer = Renderer(tokenizer(), whole.response_tokens + 8)
    cut = renderer.render(conversation("question " * 50, "answer " * 10))
    assert len(cut.ids) == renderer.window
    assert cut.ids.tolist() == whole.ids[-renderer.window :].tolist()
    assert (cut.cut_response, cut.response_tokens) == (0, whole.response_tokens)
    assert cut.cut_prompt == whole.prompt_tokens - 8
    stump = Renderer(tokenizer(), 12).render(conversation("question " * 50, "answer " * 10))
    assert (len(stump.ids), stump.response_tokens) == (12, 11)
    assert stump.cut_response == whole.response_tokens - 11
    assert stump.ids[stump.response].tolist() == whole.ids[whole.response][:11].tolist()


def test_a_shot_is_trimmed_from_the_left_and_left_out_when_there_is_no_room() -> None:
    renderer = Renderer(tokenizer(), 10_000)
    target, shot = (
        renderer.render(conversation("What?", "That.")),
        renderer.render(conversation("Who? " * 9, "Me. " * 9)),
    )
    whole = renderer.one_shot(target, shot)
    assert whole is not None
    assert (whole.cut_shot, whole.shared) == (0, len(shot.ids))
    trimmed = Renderer(tokenizer(), len(whole.ids) - 5).one_shot(target, shot)
    assert trimmed is not None
    assert (len(trimmed.ids), trimmed.cut_shot, trimmed.shared) == (len(whole.ids) - 5, 5, 0)
    assert trimmed.ids.tolist() == whole.ids[5:].tolist()
    assert Renderer(tokenizer(), len(whole.ids) - len(shot.ids)).one_shot(target, shot) is None


@pytest.mark.parametrize("template", [tokenizer().chat_template, NO_SYSTEM, DEFAULT_SYSTEM, None])
def test_one_shot_ids_are_what_the_template_renders_for_both_turns(template: str | None) -> None:
    renderer = Renderer(with_template(template), 512)
    shot, target = conversation("Who?", "Me."), conversation("What?", "That.")
    built = renderer.one_shot(renderer.render(target), renderer.render(shot))
    assert built is not None
    # up to the end of the last answer: what closes it is never part of a sequence
    together = renderer.template.text(shot + target)
    assert together.startswith(renderer.tokenizer.decode(built.ids))
    assert renderer.tokenizer.decode(built.ids).endswith("That.")


def test_a_template_that_rewrites_answers_is_a_reason_for_a_null() -> None:
    renderer = Renderer(with_template("{% for m in messages %}{{ m.content | upper }}\n{% endfor %}"), 512)
    with pytest.raises(UnrenderableError, match="does not print the response as it is"):
        renderer.render(conversation("Hi", "answer"))
