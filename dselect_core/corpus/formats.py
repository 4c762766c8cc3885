"""Row formats: from a row as its file holds it to canonical messages.

| format | a row |
| --- | --- |
| messages | a list of {role, content} under `messages`, `conversations` or `conversation` (OpenAI, TRL) |
| sharegpt | a list of {from, value} under the same keys |
| strings | a list of strings under the same keys, user and assistant in turn (LIMA) |
| alpaca | `instruction`, `output`, optional `input` |
| prompt_completion | one of PROMPT_KEYS and one of COMPLETION_KEYS; both text, or both lists of {role, content} (TRL) |

In all formats `system` or `system_prompt` is a system prompt. In the last two, `history` is a list of earlier
[prompt, response] pairs, and a `context` that is not blank (with `instruction` also `input`) is added to the prompt
after an empty line, because an answer without the text it is about is another sample.

A file has one layout (format and keys) for all its rows: each of the first rows votes for the first layout in the table
that makes it a valid sample. So a column means the same in the whole file. The price: in a file of mixed shapes the
minority goes to quarantine. A null counts as a missing key, because tables have every key in every row. A value of a
wrong type is never converted: a completion of 42 goes to quarantine. A key that changes the meaning of a sample (tool
definitions and calls, images) makes a bad row. Other keys (ids, `name`, `weight`, reasoning traces) are not read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dselect_core.corpus.sample import BadRow, Message, Turn, canonical_messages, canonical_text, json_type

CHAT_KEYS = ("messages", "conversations", "conversation")
PROMPT_KEYS = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
COMPLETION_KEYS = ("completion", "response", "output", "answer", "solution", "target", "targets")
SYSTEM_KEYS = ("system", "system_prompt")
UNSUPPORTED_KEYS = ("tools", "functions", "images", "image", "videos", "audios")
TOOL_CALL_KEYS = ("tool_calls", "function_call")

ALL_KEYS = frozenset(
    (*CHAT_KEYS, *PROMPT_KEYS, *COMPLETION_KEYS, *SYSTEM_KEYS, *UNSUPPORTED_KEYS, "context", "history")
)
"""Every key that is read. The other columns of a table need not be loaded."""

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "claude", "model", "bot", "ai"), "assistant"),
}

KNOWN_FORMATS = (
    "messages ({role, content}), sharegpt (conversations of {from, value}), strings (conversations of text), "
    "alpaca (instruction, output), prompt_completion (prompt/question/query/… with completion/response/answer/…)"
)

Row = Mapping[str, Any]


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
        return not is_alpaca_input and all(row.get(key) is not None for key in layout.keys)
    value = row.get(layout.keys[0])
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
        candidates = _candidates(tuple(row), format) if isinstance(row, dict) else ()
        shaped = [layout for layout in candidates if has_shape(row, layout)]
        votes_by_shape.update(shaped[:1])
        votes_by_valid.update([layout for layout in shaped if _is_valid(row, layout)][:1])
    votes = votes_by_valid or votes_by_shape
    return max(votes, key=lambda layout: (votes[layout], -LAYOUTS.index(layout)), default=None)


@lru_cache(maxsize=1024)  # a file has many rows and few sets of keys
def _candidates(keys: tuple[str, ...], format: str) -> tuple[Layout, ...]:
    return tuple(layout for layout in LAYOUTS if format in ("auto", layout.format) and {*layout.keys} <= {*keys})


def _is_valid(row: Row, layout: Layout) -> bool:
    try:
        return bool(read_messages(row, layout))
    except BadRow:
        return False


def read_messages(row: Any, layout: Layout) -> list[Message]:
    """The canonical messages of one row. Raises BadRow with the reason why it has none."""
    if not isinstance(row, dict):
        raise BadRow(f"not a JSON object but {json_type(row)}")
    for key in layout.keys:
        if row.get(key) is None:
            raise BadRow(f"no `{key}`, which {layout} needs; keys found: {', '.join([*row][:12]) or 'none'}")
    for key in UNSUPPORTED_KEYS:
        if row.get(key) and row[key] not in ("[]", "{}", "null"):
            raise BadRow(f"has `{key}`: only plain text samples can be used")
    turns = [*_system_turns(row)]
    if layout.format in ("alpaca", "prompt_completion"):
        turns += _pair_turns(row, *layout.keys)
    else:
        chat = list(_chat_turns(row[layout.keys[0]], layout.keys[0], layout.format))
        # Many files repeat the system prompt: beside the conversation, and as its first turn.
        if turns and chat and chat[0].role == "system" and chat[0].content == turns[0].content:
            turns = []
        turns += chat
    return canonical_messages(turns)


def _system_turns(row: Row) -> Iterator[Turn]:
    for key in SYSTEM_KEYS:
        if row.get(key) is not None:
            yield Turn("system", row[key], f"`{key}`")
            return


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
        if any(item.get(call) for call in TOOL_CALL_KEYS):
            raise BadRow(f"{where} calls a tool: only plain text samples can be used")
        yield Turn(_role(item.get(role_key), where), _join_text_parts(item.get(content_key), where), where)


def _role(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise BadRow(f"{where}: the role is {json_type(name)}, not text")
    role = ROLE_NAMES.get(name.strip().lower())
    if role is None:
        raise BadRow(f"{where}: unknown role {name[:40]!r}; known: {', '.join(ROLE_NAMES)}")
    return role


def _join_text_parts(content: Any, where: str) -> Any:
    """OpenAI's list of text parts as one text, with nothing between them, as chat templates do; other values as is."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = f"of type {part.get('type')!r}" if isinstance(part, dict) else f"that is {json_type(part)}"
            raise BadRow(f"{where} has a part {what}; only {{type: text, text}} can be used")
    return "".join(part["text"] for part in content)


def _pair_turns(row: Row, prompt_key: str, completion_key: str) -> Iterator[Turn]:
    prompt, completion = row[prompt_key], row[completion_key]
    yield from _history_turns(row.get("history"))
    if isinstance(prompt, list) and isinstance(completion, list):
        yield from _chat_turns(prompt, prompt_key, "messages")
        yield from _chat_turns(completion, completion_key, "messages")
        return
    texts = [canonical_text(prompt, f"`{prompt_key}`")]
    for key in ("input", "context") if prompt_key == "instruction" else ("context",):
        if row.get(key) is not None:
            texts.append(canonical_text(row[key], f"`{key}`"))
    yield Turn("user", "\n\n".join(text for text in texts if text), f"`{prompt_key}`")
    yield Turn("assistant", completion, f"`{completion_key}`")


def _history_turns(pairs: Any) -> Iterator[Turn]:
    if pairs is None:
        return
    if not isinstance(pairs, list):
        raise BadRow(f"`history` is {json_type(pairs)}, not a list of [prompt, response] pairs")
    for i, pair in enumerate(pairs):
        where = f"`history` pair {i + 1}"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"{where} is not a pair of [prompt, response]")
        yield Turn("user", pair[0], where)
        yield Turn("assistant", pair[1], where)
