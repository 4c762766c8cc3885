"""Row formats: from a row as its file holds it to canonical messages.

| format | a row |
| --- | --- |
| messages | a list of {role, content} under `messages`, `conversations` or `conversation` (OpenAI, TRL) |
| sharegpt | a list of {from, value} under the same keys |
| strings | a list of strings under the same keys, user and assistant in turn (LIMA) |
| alpaca | `instruction`, `output`, optional `input` |
| prompt_completion | a key of PROMPTS and one of COMPLETIONS; both text, or both lists of {role, content} (TRL) |

For all: `system` or `system_prompt` is a system prompt. For the last two: `history` is a list of earlier
[prompt, response] pairs; a non-blank `context` (with `instruction` also `input`) follows the prompt after
an empty line, because an answer without the text it is about is another sample.

The layout (format and keys) is that of a file, not of a row: each of its first rows votes for the first layout
in the table that makes it a valid sample. So one column is read in the same way throughout, at the price that
the minority of a file of mixed shapes goes to quarantine. A null is the same as no key (tables have all keys in
all rows). Wrong types are never converted: a completion of 42 is quarantined. What would change a sample if it
were left out (tool definitions and calls, images) makes a bad row; other keys (ids, `name`, `weight`,
reasoning traces) are not read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dselect_core.corpus.sample import BadRow, Message, Turn, canonical, clean, kind

CHATS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
COMPLETIONS = ("completion", "response", "output", "answer", "solution", "target", "targets")
SYSTEMS = ("system", "system_prompt")
NOT_TEXT = ("tools", "functions", "images", "image", "videos", "audios")
CALLS = ("tool_calls", "function_call")

KEYS = frozenset((*CHATS, *PROMPTS, *COMPLETIONS, *SYSTEMS, *NOT_TEXT, "context", "history"))
"""Every key that is ever read: a table's other columns can stay on disk."""

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "claude", "model", "bot", "ai"), "assistant"),
}

KNOWN = (
    "messages ({role, content}), sharegpt (conversations of {from, value}), strings (conversations of text), "
    "alpaca (instruction, output), prompt_completion (prompt/question/query/… with completion/response/answer/…)"
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """A format, and the keys it is read from."""

    format: str
    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.format} ({', '.join(self.keys)})"


LAYOUTS = (
    *(Layout(format, (key,)) for key in CHATS for format in ("messages", "sharegpt", "strings")),
    Layout("alpaca", ("instruction", "output")),
    *(Layout("prompt_completion", (prompt, answer)) for prompt in PROMPTS for answer in COMPLETIONS),
)
"""First choice first."""


def fits(row: Row, layout: Layout) -> bool:
    """Whether the row has the keys and the outer shape of a layout; whether it is valid is for `read` to say."""
    if layout.format in ("alpaca", "prompt_completion"):
        # In Alpaca's shape `input` belongs to the instruction, even in the rows that have lost theirs.
        stray = layout.keys[0] == "input" and "instruction" in row
        return not stray and all(row.get(key) is not None for key in layout.keys)
    value = row.get(layout.keys[0])
    first = value[0] if isinstance(value, list) and value else None
    if layout.format == "strings":
        return isinstance(first, str)
    return isinstance(first, dict) and first.get("role" if layout.format == "messages" else "from") is not None


def choose(rows: Iterable[Any], format: str = "auto") -> Layout | None:
    """The layout of a file from its first rows; of `format` only, if one is named. None: no row fits any.

    Each row votes for the first layout that makes it valid. Where no row is valid, for the first whose keys and
    shape it has, so that the reasons kept for the rows are about the right keys.
    """
    valid: Counter[Layout] = Counter()
    shape: Counter[Layout] = Counter()
    for row in rows:
        candidates = _candidates(tuple(row), format) if isinstance(row, dict) else ()
        fitting = [layout for layout in candidates if fits(row, layout)]
        shape.update(fitting[:1])
        valid.update([layout for layout in fitting if _is_valid(row, layout)][:1])
    votes = valid or shape
    return max(votes, key=lambda layout: (votes[layout], -LAYOUTS.index(layout)), default=None)


@lru_cache(maxsize=1024)  # a file has few sets of keys and many rows
def _candidates(keys: tuple[str, ...], format: str) -> tuple[Layout, ...]:
    return tuple(layout for layout in LAYOUTS if format in ("auto", layout.format) and {*layout.keys} <= {*keys})


def _is_valid(row: Row, layout: Layout) -> bool:
    try:
        return bool(read(row, layout))
    except BadRow:
        return False


def read(row: Any, layout: Layout) -> list[Message]:
    """Canonical messages of one row. Raises BadRow with the reason why it has none."""
    if not isinstance(row, dict):
        raise BadRow(f"not a JSON object but {kind(row)}")
    for key in layout.keys:
        if row.get(key) is None:
            raise BadRow(f"no `{key}`, which {layout} needs; keys found: {', '.join([*row][:12]) or 'none'}")
    for key in NOT_TEXT:
        if row.get(key) and row[key] not in ("[]", "{}", "null"):
            raise BadRow(f"has `{key}`: only plain text samples can be used")
    turns = [*_system(row)]
    if layout.format in ("alpaca", "prompt_completion"):
        turns += _pair(row, *layout.keys)
    else:
        chat = list(_chat(row[layout.keys[0]], layout.keys[0], layout.format))
        # A system prompt often stands both above the conversation and in it.
        if turns and chat and chat[0].role == "system" and chat[0].content == turns[0].content:
            turns = []
        turns += chat
    return canonical(turns)


def _system(row: Row) -> Iterator[Turn]:
    for key in SYSTEMS:
        if row.get(key) is not None:
            yield Turn("system", row[key], f"`{key}`")
            return


def _chat(value: Any, key: str, format: str) -> Iterator[Turn]:
    if not isinstance(value, list):
        raise BadRow(f"`{key}` is {kind(value)}, not a list of turns")
    role_key, content_key = ("from", "value") if format == "sharegpt" else ("role", "content")
    for i, item in enumerate(value):
        where = f"`{key}` turn {i + 1}"
        if format == "strings":
            yield Turn(("user", "assistant")[i % 2], item, where)
            continue
        if not isinstance(item, dict):
            raise BadRow(f"{where} is {kind(item)}, not an object of {{{role_key}, {content_key}}}")
        if any(item.get(call) for call in CALLS):
            raise BadRow(f"{where} calls a tool: only plain text samples can be used")
        yield Turn(_role(item.get(role_key), where), _text(item.get(content_key), where), where)


def _role(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise BadRow(f"{where}: the role is {kind(name)}, not text")
    role = ROLE_NAMES.get(name.strip().lower())
    if role is None:
        raise BadRow(f"{where}: unknown role {name[:40]!r}; known: {', '.join(ROLE_NAMES)}")
    return role


def _text(content: Any, where: str) -> Any:
    """OpenAI's list of text parts as one text, joined as chat templates do, with nothing between."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            found = f"of type {part.get('type')!r}" if isinstance(part, dict) else f"that is {kind(part)}"
            raise BadRow(f"{where} has a part {found}; only {{type: text, text}} can be used")
    return "".join(part["text"] for part in content)


def _pair(row: Row, prompt_key: str, answer_key: str) -> Iterator[Turn]:
    prompt, answer = row[prompt_key], row[answer_key]
    yield from _history(row.get("history"))
    if isinstance(prompt, list) and isinstance(answer, list):
        yield from _chat(prompt, prompt_key, "messages")
        yield from _chat(answer, answer_key, "messages")
        return
    parts = [clean(prompt, f"`{prompt_key}`")]
    for key in ("input", "context") if prompt_key == "instruction" else ("context",):
        if row.get(key) is not None:
            parts.append(clean(row[key], f"`{key}`"))
    yield Turn("user", "\n\n".join(part for part in parts if part), f"`{prompt_key}`")
    yield Turn("assistant", answer, f"`{answer_key}`")


def _history(pairs: Any) -> Iterator[Turn]:
    if pairs is None:
        return
    if not isinstance(pairs, list):
        raise BadRow(f"`history` is {kind(pairs)}, not a list of [prompt, response] pairs")
    for i, pair in enumerate(pairs):
        where = f"`history` pair {i + 1}"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"{where} is not a pair of [prompt, response]")
        yield Turn("user", pair[0], where)
        yield Turn("assistant", pair[1], where)
