"""What a sample is: canonical messages, the checks they pass, their id, and the schemas of the two tables.

Canonical form [ours]: the roles are system, user, assistant and tool. An optional system prompt comes first; then user
and assistant alternate, from a user to an assistant. An assistant that calls tools may be followed by their answers,
one or more tool turns, and these by an assistant. A call may also stand in the text. An assistant's text and the
call that follows it are one turn. No turn is blank, but a tool's answer may be, and the text of a turn that calls; a
blank system prompt counts as none. Leading blank
lines and all trailing whitespace of a text are dropped. Nothing else is changed: the indentation of the first line
stays, because it is content in code (so " Paris" and "Paris" are two samples); Unicode is not normalised; line ends
stay. A text that a UTF-8 table cannot hold (a lone surrogate), or that no clean source has (NUL), makes a bad row.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from dselect_core.fingerprint import digest

ROLES = ("system", "user", "assistant", "tool")

OPTIONAL_FIELDS = ("reasoning_content", "tool_calls", "tool_call_id", "name")
"""Fields of a message beside role and content, null where a turn has none. `tool_calls` is JSON text: OpenAI's list of
{type: function, function: {name, arguments}}, the arguments as an object."""

MESSAGES = pl.List(pl.Struct(dict.fromkeys(("role", "content", *OPTIONAL_FIELDS), pl.String())))
ORIGINS = pl.List(pl.Struct({"source": pl.String, "file": pl.String, "row": pl.Int64}))

SAMPLES = pl.Schema(
    {"sample_id": pl.String(), "messages": MESSAGES, "tools": pl.String(), "n_rows": pl.UInt32(), "origins": ORIGINS}
)
"""One row per distinct sample, ascending by `sample_id`. `tools` is JSON text: the list of tool definitions that the
conversation was given, null without any. `n_rows` counts the rows with this content. `origins` are
sorted; their `row` counts from 1: the line of a JSONL file, the element of a JSON array, the row of a table."""

QUARANTINE = pl.Schema(
    {"source": pl.String, "file": pl.String, "row": pl.Int64, "reason": pl.String, "excerpt": pl.String}
)
"""One row per bad row, sorted by file and row. `excerpt` holds its first 200 characters, as they were read."""

Message = dict[str, str]


class BadRow(ValueError):
    """A row that cannot be a sample. The message is the reason that quarantine shows."""


class Turn(NamedTuple):
    """A turn as read, not yet checked: `content` and `reasoning` may be any value. `where` names it to the user (a key,
    "turn 3"). tool_calls: JSON text as in OPTIONAL_FIELDS; tool_call_id, name: of a tool's answer.
    """

    role: str
    content: Any
    where: str
    reasoning: Any = None
    tool_calls: str | None = None
    tool_call_id: Any = None
    name: Any = None


def canonical_messages(turns: Iterable[Turn]) -> list[Message]:
    """The canonical messages of a row. Raises BadRow with the first reason why it has none."""
    messages: list[Message] = []
    for turn in turns:
        may_be_blank = turn.role == "tool" or turn.tool_calls is not None
        is_blank = may_be_blank and is_missing(turn.content)
        content = "" if is_blank else canonical_text(turn.content, turn.where)
        if turn.role == "system":
            if messages:
                raise BadRow(f"{turn.where}: a system prompt may only come first, and only once")
            if not content:
                continue
        elif not content and not may_be_blank:
            _check_order(messages, turn)
            raise BadRow(f"{turn.where}: the {'response' if turn.role == 'assistant' else 'prompt'} is blank")
        message = {"role": turn.role, "content": content, **_optional_fields(turn, content)}
        previous = messages[-1] if messages else {}
        if turn.role == previous.get("role") == "assistant" and _continues_with_calls(previous, message):
            messages[-1] = {**previous, **message, "content": previous["content"]}
            continue
        if turn.role != "system":
            _check_order(messages, turn)
        messages.append(message)
    if not messages or messages[-1]["role"] != "assistant":
        last = messages[-1]["role"] if messages[1:] else None
        raise BadRow(f"ends on the {last}: no response" if last else "no response")
    return messages


def _check_order(messages: list[Message], turn: Turn) -> None:
    """Raises BadRow where the turn may not follow the messages before it."""
    previous = messages[-1] if messages else {"role": "system"}
    role = previous["role"]
    if turn.role == "tool":
        if role not in ("assistant", "tool"):
            raise BadRow(f"{turn.where}: a tool's answer must follow the assistant's call, not the {role}")
    elif turn.role == "assistant":
        if role not in ("user", "tool"):
            what = "starts with assistant" if role == "system" else f"assistant after {role}"
            raise BadRow(f"{turn.where}: {what}; user and assistant must alternate, the user first")
    elif role == "tool" or "tool_calls" in previous:
        what = "the tool's answer" if role == "tool" else "a call of a tool"
        raise BadRow(f"{turn.where}: {turn.role} after {what}, which nothing has answered")
    elif role == "user":
        raise BadRow(f"{turn.where}: user after user; user and assistant must alternate, the user first")


def _continues_with_calls(previous: Message, message: Message) -> bool:
    return (
        "tool_calls" not in previous and message.keys() == {"role", "content", "tool_calls"} and not message["content"]
    )


def _optional_fields(turn: Turn, content: str) -> Message:
    """The fields of a message beside role and content. Reasoning that the content also holds is not repeated."""
    fields: Message = {}
    if not is_missing(turn.reasoning):
        reasoning = canonical_text(turn.reasoning, f"{turn.where}: the reasoning")
        if reasoning and turn.role != "assistant":
            raise BadRow(f"{turn.where}: reasoning, but it is a turn of the {turn.role}")
        if reasoning and not ("<think>" in content and reasoning.strip() in content):
            fields["reasoning_content"] = reasoning
    if turn.tool_calls is not None:
        if turn.role != "assistant":
            raise BadRow(f"{turn.where}: calls a tool, but it is a turn of the {turn.role}")
        fields["tool_calls"] = turn.tool_calls
    if turn.role == "tool":
        for name in ("tool_call_id", "name"):
            value = getattr(turn, name)
            if not is_missing(value) and (text := canonical_text(value, f"{turn.where}: `{name}`")):
                fields[name] = text
    return fields


def canonical_text(content: Any, where: str) -> str:
    """The canonical text of one turn; may be empty. Raises BadRow for a value that is not text or cannot be stored."""
    if not isinstance(content, str):
        raise BadRow(f"{where} is {json_type(content)}, not text")
    blank = len(content) - len(content.lstrip())
    text = content[content.rfind("\n", 0, blank) + 1 :].rstrip()
    if "\0" in text:
        raise BadRow(f"{where} holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{where} holds a lone surrogate, which is not valid Unicode") from None
    return text


def is_missing(value: Any) -> bool:
    """Whether a value is null, or NaN, which pandas writes for a missing text."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def json_type(value: Any) -> str:
    """The type of a JSON value in words, for a reason that users read."""
    if is_missing(value):
        return "missing"
    words: dict[type, str] = {bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    words |= dict.fromkeys((int, float), "a number")
    return words.get(type(value), f"a {type(value).__name__}")


def sample_id(messages: Iterable[Mapping[str, str | None]], tools: str | None = None) -> str:
    """128-bit hash of canonical messages and tools, as 32 hex digits: role and content, and the fields that are there.

    Texts hold no NUL, so the name of a field behind one cannot be taken for a content.
    """
    fields: list[str] = []
    for message in messages:
        fields += (message["role"] or "", message["content"] or "")
        if len(message) > 2:
            for name in OPTIONAL_FIELDS:
                value = message.get(name)
                if value is not None:
                    fields += (f"\0{name}", value)
    if tools is not None:
        fields += ("\0tools", tools)
    return digest(fields)


def conform_samples(samples: pl.DataFrame) -> pl.DataFrame:
    """A table of samples with the columns and fields of today: versions 0.1 and 0.2 knew only role and content."""
    if "messages" in samples.columns and samples.schema["messages"] != MESSAGES:
        samples = samples.with_columns(pl.col("messages").cast(MESSAGES))
    if "tools" not in samples.columns:
        samples = samples.with_columns(tools=pl.lit(None, pl.String))
    return samples.select(name for name in SAMPLES if name in samples.columns)


def trim_fields(samples: pl.DataFrame) -> pl.DataFrame:
    """The table without the fields of messages, and without the column `tools`, that are null in every row.

    A corpus of plain text so has messages of {role, content}, as everybody expects them.
    """
    fields = pl.element().struct
    present = samples.select(
        pl.col("messages").list.eval(fields.field(name).is_not_null()).list.any().any().alias(name)
        for name in OPTIONAL_FIELDS
    ).row(0, named=True)
    kept = ["role", "content", *(name for name in OPTIONAL_FIELDS if present[name])]
    struct = pl.struct(fields.field(name) for name in kept)
    samples = samples.with_columns(pl.col("messages").list.eval(struct))
    return samples.drop("tools") if samples["tools"].null_count() == samples.height else samples


def chat_messages(messages: Iterable[Mapping[str, str | None]]) -> list[dict[str, Any]]:
    """The messages as chat templates and trainers take them: without empty fields, calls of tools as objects."""
    chat = []
    for message in messages:
        own: dict[str, Any] = {name: value for name, value in message.items() if value is not None}
        if "tool_calls" in own:
            own["tool_calls"] = json.loads(own["tool_calls"])
        chat.append(own)
    return chat


def message_text(message: Mapping[str, Any], *, reasoning: bool = False) -> str:
    """A message as one text for a reader: its reasoning in think tags if asked for, its content, its calls as JSON."""
    parts = []
    if reasoning and message.get("reasoning_content"):
        parts.append(f"<think>\n{message['reasoning_content']}\n</think>\n")
    if message["content"]:
        parts.append(message["content"])
    if calls := message.get("tool_calls"):
        calls = json.loads(calls) if isinstance(calls, str) else calls
        parts += [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    return "\n".join(parts)


def chat_tools(tools: str | None) -> list[dict[str, Any]] | None:
    """The tool definitions as chat templates take them."""
    if tools is None:
        return None
    definitions: list[dict[str, Any]] = json.loads(tools)
    return definitions
