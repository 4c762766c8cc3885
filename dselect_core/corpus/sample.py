"""What a sample is: canonical messages, the checks they pass, their id, and the schemas of the two tables.

Canonical form [ours]: the roles are system, user and assistant. An optional system prompt comes first; then user and
assistant alternate, from a user to an assistant. No turn is blank; a blank system prompt counts as none. Leading blank
lines and all trailing whitespace of a text are dropped. Nothing else is changed: the indentation of the first line
stays, because it is content in code (so " Paris" and "Paris" are two samples); Unicode is not normalised; line ends
stay. A text that a UTF-8 table cannot hold (a lone surrogate), or that no clean source has (NUL), makes a bad row.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from dselect_core.fingerprint import digest

ROLES = ("system", "user", "assistant")

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
ORIGINS = pl.List(pl.Struct({"source": pl.String, "file": pl.String, "row": pl.Int64}))

SAMPLES = pl.Schema({"sample_id": pl.String(), "messages": MESSAGES, "n_rows": pl.UInt32(), "origins": ORIGINS})
"""One row per distinct sample, ascending by `sample_id`. `n_rows` counts the rows with this content. `origins` are
sorted; their `row` counts from 1: the line of a JSONL file, the element of a JSON array, the row of a table."""

QUARANTINE = pl.Schema(
    {"source": pl.String, "file": pl.String, "row": pl.Int64, "reason": pl.String, "excerpt": pl.String}
)
"""One row per bad row, sorted by file and row. `excerpt` holds its first 200 characters, as they were read."""

Message = dict[str, str]


class BadRow(ValueError):
    """A row that cannot be a sample. The message is the reason that quarantine shows."""


class Turn(NamedTuple):
    """A turn as read, not yet checked: `content` may be any value. `where` names it to the user (a key, "turn 3")."""

    role: str
    content: Any
    where: str


def canonical_messages(turns: Iterable[Turn]) -> list[Message]:
    """The canonical messages of a row. Raises BadRow with the first reason why it has none."""
    messages: list[Message] = []
    for turn in turns:
        content = canonical_text(turn.content, turn.where)
        if turn.role == "system":
            if messages:
                raise BadRow(f"{turn.where}: a system prompt may only come first, and only once")
            if not content:
                continue
        else:
            previous_role = messages[-1]["role"] if messages else "system"
            expected_role = "assistant" if previous_role == "user" else "user"
            if turn.role != expected_role:
                starts = previous_role == "system"
                what = f"starts with {turn.role}" if starts else f"{turn.role} after {previous_role}"
                raise BadRow(f"{turn.where}: {what}; user and assistant must alternate, the user first")
            if not content:
                raise BadRow(f"{turn.where}: the {'response' if turn.role == 'assistant' else 'prompt'} is blank")
        messages.append({"role": turn.role, "content": content})
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("ends on the user: no response" if messages[1:] else "no response")
    return messages


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


def json_type(value: Any) -> str:
    """The type of a JSON value in words, for a reason that users read."""
    if value is None:
        return "missing"
    words: dict[type, str] = {bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    words |= dict.fromkeys((int, float), "a number")
    return words.get(type(value), f"a {type(value).__name__}")


def sample_id(messages: Iterable[Mapping[str, str]]) -> str:
    """128-bit hash of canonical messages, as 32 hex digits: role and content of each, nothing else."""
    return digest(field for message in messages for field in (message["role"], message["content"]))
