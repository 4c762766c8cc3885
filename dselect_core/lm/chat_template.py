"""Conversation → text, by the model's own chat template or a named one.

A template may print today's date (`strftime_now`): scores of two days would then differ. So the date is fixed here, by
a macro in front of the template, and is part of the provenance of templates that print it.

The named templates, and that of the builtin model, know only roles and texts. For them reasoning, tool calls and tool
definitions are written into the texts, in the tags that Qwen and Hermes models use [ours]. A model's own template gets
them as they are.
"""

import datetime
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from dselect_core.errors import DselectError, first_line
from dselect_core.lm.message_form import (
    FORMS,
    PROBE,
    PROBE_TOOLS,
    Message,
    MessageForm,
    Tools,
    as_texts,
    turn,
    without_system,
)

BUILTIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of the builtin model (ChatML)."""

# Named prompt templates, for tokenizers without a chat template. `alpaca` is the Stanford Alpaca
# layout without its preamble; `plain` puts turns under their role names.
TEMPLATES = {
    "alpaca": (
        "{{ bos_token or '' }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
        "{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "plain": (
        "{{ bos_token or '' }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    ),
}

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# What strftime knows, in the forms that templates use; `%-d` before `%d`.
_DIRECTIVES = [f"%{flag}{letter}" for flag in ("-", "") for letter in "aAbBdHIjmMpSUuwWyYeFTDcxXZz"]


class UnrenderableError(ValueError):
    """A conversation that the template cannot render as it is. The message is the reason of the row's null."""


class ChatTemplate:
    """One tokenizer's chat template.

    name: `auto` (the tokenizer's own, else alpaca) or a name in TEMPLATES. date: what a template that asks for today's
    date gets. Raises DselectError when the tokenizer has several chat templates.
    """

    def __init__(self, tokenizer: Any, name: str, date: datetime.date):
        own = getattr(tokenizer, "chat_template", None)
        if name == "auto" and not own:
            name = "alpaca"
        self.tokenizer = tokenizer
        self.name = "chat" if name == "auto" else name
        source = own if name == "auto" else TEMPLATES[name]
        if not isinstance(source, str):
            raise DselectError(
                "the tokenizer carries several named chat templates; choose `template: alpaca` or `plain` "
                "under `model` in dselect.yaml, or save the tokenizer with one"
            )
        self.source = source
        self.date = date
        self._takes_text_only = self.source in (*TEMPLATES.values(), BUILTIN_TEMPLATE)
        self._dated_source = _fix_date(self.source, date) if self.reads_date else self.source

    @property
    def uses_fallback(self) -> bool:
        """Whether a named template replaces the tokenizer's own."""
        return self.name != "chat"

    @property
    def reads_date(self) -> bool:
        """Whether the template asks for today's date."""
        return "strftime_now" in self.source

    @property
    def has_marks(self) -> bool:
        """Whether the template marks what the model generates (`{% generation %}`)."""
        return _MARKS.search(self.source) is not None

    @cached_property
    def _form(self) -> MessageForm:
        """The first form of messages in which the template prints what it is given."""
        for probe in (PROBE, PROBE[:1]):
            for form in FORMS:
                try:
                    text = self._render(probe, PROBE_TOOLS, generation_prompt=False, form=form)
                except Exception:  # jinja raises what the template's author chose
                    continue
                if all(word in text for word in ("userprobe", "callprobe")[: len(probe)]):
                    return form
        return FORMS[0]

    @property
    def keeps_system(self) -> bool:
        """Whether a system prompt is printed."""
        return "systemprobe" in (self._system_probe or "")

    @property
    def refuses_system(self) -> bool:
        """Whether a system prompt is an error (Gemma 2), instead of left out."""
        return self._system_probe is None

    @cached_property
    def _system_probe(self) -> str | None:
        probe = [turn("system", "systemprobe"), turn("user", "userprobe")]
        try:
            return self.text(probe, generation_prompt=True)
        except UnrenderableError:
            return None

    def accepted(self, messages: list[Message], tools: Tools = None) -> tuple[list[Message], Tools]:
        """The conversation as this template takes it.

        Where it takes no system prompt, that text opens the first user turn [ours].
        """
        if self._takes_text_only:
            messages, tools = as_texts(messages, tools), None
        return (messages if self.keeps_system else without_system(messages)), tools

    def text(
        self, messages: list[Message], tools: Tools = None, *, generation_prompt: bool = False, **options: Any
    ) -> str:
        """The rendered text of accepted messages; generation_prompt: with the mark that opens the next answer.

        options: what a template may ask for besides (`enable_thinking` of Qwen3). Raises UnrenderableError with the
        template's own words when it refuses the conversation.
        """
        try:
            return self._render(messages, tools, generation_prompt=generation_prompt, options=options)
        except Exception as error:  # jinja raises what the template's author chose
            raise UnrenderableError(f"the chat template refuses this conversation ({first_line(error)})") from error

    def marked(self, messages: list[Message], tools: Tools = None) -> list[tuple[int, int]]:
        """[start, end) of what the template marks as generated, in characters of `text(messages, tools)`.

        Raises UnrenderableError as `text` does.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered: Any = render_jinja_template(
                [self._form(messages)],
                tools=None if tools is None else [*tools],
                chat_template=self._dated_source,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            )
        except Exception as error:  # as in `text`
            raise UnrenderableError(f"the chat template refuses this conversation ({first_line(error)})") from error
        return [(int(start), int(end)) for start, end in rendered[1][0]]

    def _render(
        self,
        messages: list[Message],
        tools: Tools,
        *,
        generation_prompt: bool,
        form: MessageForm | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                (form or self._form)(messages),
                tools=tools,
                chat_template=self._dated_source,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **(options or {}),
            )
        )


def _fix_date(source: str, date: datetime.date) -> str:
    """The template behind a macro that answers `strftime_now` with one date, at midnight."""
    moment = datetime.datetime.combine(date, datetime.time())
    replaced = "format"
    for directive in _DIRECTIVES:
        value = moment.strftime(directive)
        replaced += f"|replace({json.dumps(directive)}, {json.dumps(value)})"
    return f"{{%- macro strftime_now(format) -%}}{{{{ {replaced} }}}}{{%- endmacro +%}}{source}"
