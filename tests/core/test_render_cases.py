"""Renderings that were wrong once, one by one; test_render_families.py holds the kinds."""

import copy

from dselect_core.lm.render import Renderer
from tests.core.test_render_families import scored_texts
from tests.tiny import conversation, sentencepiece_tokenizer, tokenizer

OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
DECORATES_LAST = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role=='assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
)
DROPS_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role=='assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
)
ONE = conversation("Name a metal.", "Iron.")
TWO = conversation("Name a metal.", "Iron.", "And a gas?", "Argon.")


def renderer(template: str) -> Renderer:
    own = copy.deepcopy(tokenizer())
    own.chat_template = template
    return Renderer(own, 4096)


def test_nothing_of_a_header_is_missing_between_turns_and_behind_a_shot() -> None:
    of = renderer(DECORATES_LAST + OPEN)
    rendered = of.render(TWO)
    assert scored_texts(of, rendered) == ["Iron.", "Argon."]
    assert "Iron.<|im_end|>\n<|im_start|>user\nAnd a gas?<|im_end|>\n" in of.tokenizer.decode(rendered.ids)
    for messages in (ONE, TWO):
        behind = of.one_shot(of.render(messages), of.render(conversation("Who?", "Me.")))
        assert behind is not None
        assert "Me.<|im_end|>\n<|im_start|>user\nName a metal.<|im_end|>\n" in of.tokenizer.decode(behind.ids)


def test_history_that_loses_its_thinking_is_scored_as_printed_and_prompts_are_whole() -> None:
    of = renderer(DROPS_THINKING + OPEN)
    rendered = of.render(
        conversation(
            "How many legs has a spider?",
            "<think>\nAn arachnid: eight, surely.\n</think>\n\nEight.",
            "And a beetle, which is an insect rather than an arachnid?",
            "<think>\nInsect.\n</think>\n\nSix.",
        )
    )
    assert scored_texts(of, rendered) == ["Eight.", "<think>\nInsect.\n</think>\n\nSix."]
    assert "user\nAnd a beetle, which is an insect rather than an arachnid?<" in rendered.text


def test_a_short_answer_is_not_found_in_what_the_template_prints() -> None:
    of = renderer(DECORATES_LAST + OPEN)
    for answer in ("hi", "in", "t", "k>"):
        rendered = of.render(conversation("Say it", answer))
        assert scored_texts(of, rendered) == [answer]
        assert rendered.text.endswith(f"</think>\n\n{answer}")


def test_a_sentencepiece_tokenizer_gives_the_ids_of_the_whole_text() -> None:
    own = copy.deepcopy(sentencepiece_tokenizer())
    own.chat_template = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    rendered = Renderer(own, 4096).render(ONE)
    whole = own("<|user|>\nName a metal.</s>\n<|assistant|>\nIron.", add_special_tokens=False)["input_ids"]
    assert rendered.ids.tolist() == whole
    assert own.convert_ids_to_tokens(rendered.ids[rendered.response].tolist()) == ["I", "ron", "."]


def test_what_a_system_prompt_says_is_not_lost_where_the_template_leaves_it_out() -> None:
    of = renderer("{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    assert "Be kind\n\nName a metal." in of.render(conversation("Name a metal.", "Iron.", system="Be kind")).text
