"""Row formats: from a row as its file holds it to canonical messages.

| format | a row |
| --- | --- |
| messages | a list of {role, content} under `messages`, `conversations` or `conversation` (OpenAI, TRL) |
| sharegpt | a list of {from, value} under the same keys |
| strings | a list of strings under the same keys, user and assistant in turn (LIMA) |
| alpaca | `instruction`, `output`, optional `input` |
| prompt_completion | one of PROMPT_KEYS and one of COMPLETION_KEYS; both text, or both lists of {role, content} (TRL) |

In all formats `system` or `system_prompt` is a system prompt, and `tools` or `functions` are the tools that the
assistant had (tool_calls.py). In the first two a turn may call tools, answer a call, or have its reasoning beside its
text; a dict of lists, as `datasets` stores a list of dicts, and JSON text are read as the list they stand for. In the
last two, `history` is a list of earlier [prompt, response] pairs. The other rules of those two are in pair_row.py:
each key of a prompt that the row has is part of it; where two keys could be the response, no silent choice is made.

A file has one layout (format and keys) for all its rows: each of the first rows votes for the first layout in the table
that makes it a valid sample. So a column means the same in the whole file. The price: in a file of mixed shapes the
minority goes to quarantine. A null, and the NaN that pandas writes for one, counts as a missing key, because tables
have every key in every row. A value of a wrong type is never converted: a completion of 42 goes to quarantine. So does
a row about a picture, film or sound, and one that says that its answer is a bad one (`label: false`). An empty media
column says nothing. Other keys (ids, `name`, `weight`) are not read.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from dselect_core.corpus.pair_row import COMPLETION_KEYS, PROMPT_KEYS, REASONING_KEYS, join_prompt, read_response
from dselect_core.corpus.sample import BadRow, Message, Turn, canonical_messages, is_missing, json_type
from dselect_core.corpus.tool_calls import TOOLS_KEYS, calls_text, is_empty, read_calls, read_tools

CHAT_KEYS = ("messages", "conversations", "conversation")
SYSTEM_KEYS = ("system", "system_prompt")
UNDESIRABLE_KEYS = ("label", "kto_tag", "desirable", "is_desirable", "is_correct")
"""Where a row says `false` of its answer (TRL's unpaired preference)."""

MEDIA_KEYS = frozenset(
    stem + suffix
    for stem, suffix in product(
        ("image", "img", "picture", "photo", "video", "audio"),
        ("", "s", "_path", "_paths", "_url", "_urls", "_file", "_files", "_bytes"),
    )
) | {"pixel_values", "input_audio", "waveform"}

ALL_KEYS = frozenset(CHAT_KEYS).union(
    PROMPT_KEYS, COMPLETION_KEYS, REASONING_KEYS, SYSTEM_KEYS, TOOLS_KEYS, MEDIA_KEYS, UNDESIRABLE_KEYS
) | {"context", "history"}
"""Every key that is read. The other columns of a table need not be loaded."""

CALL_ROLES = ("function_call", "tool_call", "function-call", "tool-call", "tool_calls")
"""Roles of turns whose text is a call (ShareGPT as LLaMA-Factory has it)."""

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "claude", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(CALL_ROLES, "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
    **dict.fromkeys(
        (f"{of}{mark}{what}" for of in ("function", "tool") for mark in "_-" for what in ("response", "result")), "tool"
    ),
}

KNOWN_FORMATS = (
    "messages ({role, content}), sharegpt (conversations of {from, value}), strings (conversations of text), "
    "alpaca (instruction, output), prompt_completion (prompt/question/query/… with completion/response/answer/…)"
)

Row = Mapping[str, Any]

_LONGEST_KEY = 60
_JSON_OBJECTS = re.compile(r"\s*\[\s*\{")


class Conversation(NamedTuple):
    """What a row is read as: canonical messages, and the tool definitions as JSON text, None without any."""

    messages: list[Message]
    tools: str | None


@dataclass(frozen=True)
class Layout:
    """A format, and the keys that its text is read from."""

    format: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.format} ({', '.join(self.keys)})"


LAYOUTS = (
    *(Layout(format, (key,)) for key in CHAT_KEYS for format in ("messages", "sharegpt", "strings")),
    Layout("alpaca", ("instruction", "output")),
    *(Layout("prompt_completion", (prompt, completion)) for prompt in PROMPT_KEYS for completion in COMPLETION_KEYS),
)
"""All layouts, in the order in which a row prefers them."""


def has_shape(row: Row, layout: Layout) -> bool:
    """Whether the row has the keys and the outer shape of a layout. It may still be a bad row."""
    if layout.format in ("alpaca", "prompt_completion"):
        # Alpaca's `input` belongs to an instruction, so it is no prompt, even in rows whose instruction is null.
        is_alpaca_input = layout.keys[0] == "input" and "instruction" in row
        return not is_alpaca_input and not any(is_missing(row.get(key)) for key in layout.keys)
    try:
        value = _turn_list(row.get(layout.keys[0]))
    except RecursionError:
        return False
    first = value[0] if isinstance(value, list) and value else None
    if layout.format == "strings":
        return isinstance(first, str)
    return isinstance(first, dict) and first.get("role" if layout.format == "messages" else "from") is not None


def choose_layout(rows: Iterable[Any], format: str = "auto") -> Layout | None:
    """The layout of a file, by a vote of its first rows; None when no row has the shape of any layout.

    format: only layouts of this format are candidates; "auto": all are. Each row votes for the first layout that makes
    it valid. Where no row is valid, each votes for the first layout whose shape it has, so that the reasons in
    quarantine are about the right keys.
    """
    votes_by_valid: Counter[Layout] = Counter()
    votes_by_shape: Counter[Layout] = Counter()
    for row in rows:
        keys = tuple(key for key in row if key in ALL_KEYS) if isinstance(row, dict) else ()
        candidates = _candidates(keys, format)
        shaped = [layout for layout in candidates if has_shape(row, layout)]
        votes_by_shape.update(shaped[:1])
        votes_by_valid.update([layout for layout in shaped if _is_valid(row, layout)][:1])
    votes = votes_by_valid or votes_by_shape
    return max(votes, key=lambda layout: (votes[layout], -LAYOUTS.index(layout)), default=None)


@lru_cache(maxsize=1024)  # a file has many rows and few sets of keys
def _candidates(keys: tuple[str, ...], format: str) -> tuple[Layout, ...]:
    return tuple(layout for layout in LAYOUTS if format in ("auto", layout.format) and {*layout.keys} <= {*keys})


def describe_misfit(row: Any) -> str | None:
    """Why a row of no layout has none though it has the key of a conversation; None where it has no such key."""
    for key in CHAT_KEYS:
        value = row.get(key) if isinstance(row, dict) else None
        if not is_missing(value) and not isinstance(value, list):
            return f"`{key}` is {json_type(value)}, not a list of turns"
    return None


def _is_valid(row: Row, layout: Layout) -> bool:
    try:
        return bool(read_row(row, layout))
    except BadRow:
        return False


def read_row(row: Any, layout: Layout) -> Conversation:
    """The conversation of one row. Raises BadRow with the reason why it has none, and nothing else."""
    try:
        return _read_row(row, layout)
    except RecursionError:
        raise BadRow("nested too deeply") from None


def _read_row(row: Any, layout: Layout) -> Conversation:
    if not isinstance(row, dict):
        raise BadRow(f"not a JSON object but {json_type(row)}")
    for key in layout.keys:
        if is_missing(row.get(key)):
            keys = ", ".join(str(key)[:_LONGEST_KEY] for key in [*row][:12]) or "none"
            raise BadRow(f"no `{key}`, which {layout} needs; keys found: {keys}")
    _refuse_media(row, "")
    for key in UNDESIRABLE_KEYS:
        if row.get(key) is False:
            raise BadRow(f"marked undesirable: `{key}` is false")
    turns = [*_system_turns(row)]
    tools = read_tools(row)
    if layout.format in ("alpaca", "prompt_completion"):
        turns += _pair_turns(row, *layout.keys)
    else:
        value = _turn_list(row[layout.keys[0]])
        tools = tools or _tools_of_first_turn(value, f"`{layout.keys[0]}` turn 1: ")
        chat = list(_chat_turns(value, layout.keys[0], layout.format))
        # Many files repeat the system prompt: beside the conversation, and as its first turn.
        if turns and chat and chat[0].role == "system" and chat[0].content == turns[0].content:
            turns = []
        turns += chat
    return Conversation(canonical_messages(turns), tools)


def _refuse_media(holder: Row, where: str) -> None:
    for key in holder:
        if key in MEDIA_KEYS and not is_empty(holder[key]):
            raise BadRow(f"{where}has `{key}`: only text can be used")


def _system_turns(row: Row) -> Iterator[Turn]:
    for key in SYSTEM_KEYS:
        if not is_missing(row.get(key)):
            yield Turn("system", row[key], f"`{key}`")
            return


def _turn_list(value: Any) -> Any:
    """A list of turns that is stored as JSON text, or as a dict of lists, as the list; other values as they are."""
    if isinstance(value, str) and _JSON_OBJECTS.match(value):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return _transposed(value)


def _transposed(value: Any) -> Any:
    """A dict of equally long lists, roles among them, as a list of dicts; other values as they are."""
    if not isinstance(value, dict) or not {"role", "from"} & value.keys():
        return value
    columns = {key: column for key, column in value.items() if not is_missing(column)}
    if not all(isinstance(column, list) for column in columns.values()) or len(set(map(len, columns.values()))) != 1:
        return value
    return [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]


def _tools_of_first_turn(value: Any, where: str) -> str | None:
    first = value[0] if isinstance(value, list) and value else None
    return read_tools(first, where) if isinstance(first, dict) else None


def _chat_turns(value: Any, key: str, format: str) -> Iterator[Turn]:
    if not isinstance(value, list):
        raise BadRow(f"`{key}` is {json_type(value)}, not a list of turns")
    role_key, content_key = ("from", "value") if format == "sharegpt" else ("role", "content")
    for i, item in enumerate(value):
        where = f"`{key}` turn {i + 1}"
        if format == "strings":
            yield Turn(("user", "assistant")[i % 2], item, where)
            continue
        if not isinstance(item, dict):
            raise BadRow(f"{where} is {json_type(item)}, not an object of {{{role_key}, {content_key}}}")
        _refuse_media(item, f"{where} ")
        if i and any(not is_empty(item.get(tools)) for tools in TOOLS_KEYS):
            raise BadRow(f"{where} defines tools, which only a row or its first turn can")
        role, is_call = _role(item.get(role_key), where)
        content, calls = _join_text_parts(item.get(content_key), where), read_calls(item, where)
        if is_call and calls is None:
            content, calls = None, calls_text(content, where)
        yield Turn(role, content, where, _reasoning(item, where), calls, item.get("tool_call_id"), item.get("name"))


def _role(name: Any, where: str) -> tuple[str, bool]:
    """The role of a turn, and whether its text is a call."""
    if not isinstance(name, str):
        raise BadRow(f"{where}: the role is {json_type(name)}, not text")
    name = name.strip().lower()
    if name not in ROLE_NAMES:
        raise BadRow(f"{where}: unknown role {name[:40]!r}; known: {', '.join(ROLE_NAMES)}")
    return ROLE_NAMES[name], name in CALL_ROLES


def _reasoning(holder: Row, where: str) -> Any:
    """What stands beside the text of a turn as its reasoning. Raises BadRow where two keys differ."""
    found = {key: holder[key] for key in REASONING_KEYS if not is_empty(holder.get(key))}
    values = list(found.values())
    if any(value != values[0] for value in values):
        raise BadRow(f"{where}: {' and '.join(f'`{key}`' for key in found)} differ")
    return values[0] if values else None


def _join_text_parts(content: Any, where: str) -> Any:
    """OpenAI's list of text parts as one text, with nothing between them, as chat templates do; other values as is."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            of = part.get("type") if isinstance(part, dict) else None
            what = f"of type {of[:40]!r}" if isinstance(of, str) else f"that is {json_type(part)}"
            raise BadRow(f"{where} has a part {what}; only {{type: text, text}} can be used")
    return "".join(part["text"] for part in content)


def _pair_turns(row: Row, prompt_key: str, completion_key: str) -> Iterator[Turn]:
    prompt, completion = _transposed(row[prompt_key]), _transposed(row[completion_key])
    yield from _history_turns(row.get("history"))
    if isinstance(prompt, list) and isinstance(completion, list):
        yield from _chat_turns(prompt, prompt_key, "messages")
        yield from _chat_turns(completion, completion_key, "messages")
        return
    response = read_response(row, completion_key)
    yield Turn("user", join_prompt(row, prompt_key, response), f"`{prompt_key}`")
    yield Turn("assistant", response, f"`{completion_key}`", _reasoning(row, f"`{completion_key}`"))


def _history_turns(pairs: Any) -> Iterator[Turn]:
    if is_missing(pairs):
        return
    if not isinstance(pairs, list):
        raise BadRow(f"`history` is {json_type(pairs)}, not a list of [prompt, response] pairs")
    for i, pair in enumerate(pairs):
        where = f"`history` pair {i + 1}"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"{where} is not a pair of [prompt, response]")
        yield Turn("user", pair[0], where)
        yield Turn("assistant", pair[1], where)
