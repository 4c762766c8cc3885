"""Forms that a conversation takes on its way into a chat template.

Messages are dicts as Hugging Face chat templates take them: role, content, and where there are any reasoning_content,
tool_calls (arguments as an object), tool_call_id, name. Some templates take them in another form; which one a template
takes is found by trying (chat_template.py), in the order of FORMS.
"""

import json
from dataclasses import dataclass
from typing import Any

from dselect_core.fingerprint import digest

Message = dict[str, Any]
Tools = list[dict[str, Any]] | None


@dataclass(frozen=True)
class MessageForm:
    """How messages are handed to a template.

    parts: texts as lists of {type: text, text} (Idefics, LLaVA); arguments_as_text: a call's arguments as JSON text
    (DeepSeek V3); short_ids: ids of calls as nine letters and digits (Mistral).
    """

    parts: bool = False
    arguments_as_text: bool = False
    short_ids: bool = False

    def __call__(self, messages: list[Message]) -> list[Message]:
        """The messages in this form."""
        if self == MessageForm():
            return messages
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> Message:
        own = dict(message)
        if self.parts:
            own["content"] = [{"type": "text", "text": own["content"]}]
        if own.get("tool_calls"):
            own["tool_calls"] = [self._call(call) for call in own["tool_calls"]]
        if self.short_ids and own["role"] == "tool":
            own["tool_call_id"] = _short_id(own.get("tool_call_id"))
        return own

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        own, function = dict(call), dict(call.get("function") or {})
        if self.arguments_as_text and not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments"), ensure_ascii=False)
        if self.short_ids:
            own["id"] = _short_id(call.get("id"))
        return {**own, "function": function}


FORMS = [
    MessageForm(parts, arguments_as_text, short_ids)
    for parts in (False, True)
    for arguments_as_text in (False, True)
    for short_ids in (False, True)
]
"""In the order in which they are tried: the plain one first."""

PROBE_TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "callprobe", "description": "d", "parameters": {"type": "object"}}}
]
PROBE: list[Message] = [
    {"role": "user", "content": "userprobe"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "callprobe", "arguments": {"a": "b"}}}],
    },
    {"role": "tool", "content": "result", "name": "callprobe"},
    {"role": "assistant", "content": "answer"},
]


def _short_id(id: str | None) -> str:
    return digest([id or ""])[:9]


def without_system(messages: list[Message]) -> list[Message]:
    """The messages with the system prompt, if any, in front of the first user turn's text."""
    if messages[0]["role"] != "system":
        return messages
    (system, user), later = messages[:2], messages[2:]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *later]


def turn(role: str, content: str) -> Message:
    """A message that is text alone."""
    return {"role": role, "content": content}


def as_texts(messages: list[Message], tools: Tools) -> list[Message]:
    """The same conversation in roles and texts alone, in the tags that Qwen and Hermes models use [ours]."""
    texts = []
    if tools:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        block = f"<tools>\n{lines}\n</tools>"
        if messages[0]["role"] == "system":
            first, messages = messages[0], messages[1:]
            block = f"{first['content']}\n\n{block}"
        texts.append(turn("system", block))
    for message in messages:
        parts = []
        if message.get("reasoning_content"):
            parts.append(f"<think>\n{message['reasoning_content']}\n</think>\n")
        if message["content"]:
            parts.append(message["content"])
        for call in message.get("tool_calls") or ():
            call = json.dumps(call.get("function", call), ensure_ascii=False)
            parts.append(f"<tool_call>\n{call}\n</tool_call>")
        role = message["role"]
        if role == "tool":
            role, parts = "user", [f"<tool_response>\n{message['content']}\n</tool_response>"]
        texts.append(turn(role, "\n".join(parts)))
    return texts
