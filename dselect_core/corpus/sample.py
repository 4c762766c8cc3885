"""What a sample is: canonical messages, the checks they pass, their id, and the two table schemas.

Canonical form [ours]: roles are system, user, assistant; an optional system prompt first, then user and
assistant in turn, from a user to an assistant; no blank turn (a blank system prompt is no system prompt).
Of each text, leading blank lines and all trailing whitespace are dropped. Nothing else is changed: the
indentation of the first line stays (it is content in code, at the price that " Paris" and "Paris" are two
samples), Unicode is not normalised, and line ends are kept. Text that a UTF-8 table cannot hold (a lone
surrogate) or that no clean source holds (NUL) makes a bad row.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from dselect_core.fingerprint import digest

ROLES = ("system", "user", "assistant")

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
ORIGINS = pl.List(pl.Struct({"source": pl.String, "file": pl.String, "row": pl.Int64}))

SAMPLES = pl.Schema({"sample_id": pl.String(), "messages": MESSAGES, "n_rows": pl.UInt32(), "origins": ORIGINS})
"""One row per distinct sample, sorted by `sample_id`; `n_rows` counts the rows that held it; origins are sorted
and their `row` is 1-based: the line of a JSONL file, the element of a JSON array, the row of a table."""

QUARANTINE = pl.Schema(
    {"source": pl.String, "file": pl.String, "row": pl.Int64, "reason": pl.String, "excerpt": pl.String}
)
"""One row per bad row, sorted by file and row; `excerpt` is the first 200 characters of it as it was read."""

Message = dict[str, str]


class BadRow(ValueError):
    """One row cannot be a sample; the message is the reason that goes to quarantine."""


class Turn(NamedTuple):
    """A turn as read: `content` may be anything yet; `where` names it to the user (a key, or "turn 3")."""

    role: str
    content: Any
    where: str


def canonical(turns: Iterable[Turn]) -> list[Message]:
    """The canonical messages of a row. Raises BadRow with the first reason why there are none."""
    messages: list[Message] = []
    for turn in turns:
        content = clean(turn.content, turn.where)
        if turn.role == "system":
            if messages:
                raise BadRow(f"{turn.where}: a system prompt may only come first, and only once")
            if not content:
                continue
        else:
            before = messages[-1]["role"] if messages else "system"
            expected = "assistant" if before == "user" else "user"
            if turn.role != expected:
                found = f"{turn.role} after {before}" if before != "system" else f"starts with {turn.role}"
                raise BadRow(f"{turn.where}: {found}; user and assistant must alternate, the user first")
            if not content:
                raise BadRow(f"{turn.where}: the {'response' if turn.role == 'assistant' else 'prompt'} is blank")
        messages.append({"role": turn.role, "content": content})
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("ends on the user: no response" if messages[1:] else "no response")
    return messages


def clean(content: Any, where: str) -> str:
    """Canonical text of one turn. Raises BadRow for what is not text or cannot be kept as text."""
    if not isinstance(content, str):
        raise BadRow(f"{where} is {kind(content)}, not text")
    blank = len(content) - len(content.lstrip())
    text = content[content.rfind("\n", 0, blank) + 1 :].rstrip()
    if "\0" in text:
        raise BadRow(f"{where} holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"{where} holds a lone surrogate, which is not valid Unicode") from None
    return text


def kind(value: Any) -> str:
    """A JSON value's type in words, for reasons a user reads."""
    if value is None:
        return "missing"
    words: dict[type, str] = {bool: "a boolean", str: "text", list: "a list", dict: "an object"}
    words |= dict.fromkeys((int, float), "a number")
    return words.get(type(value), f"a {type(value).__name__}")


def sample_id(messages: Iterable[Mapping[str, str]]) -> str:
    """128-bit hex hash of canonical messages: role and content of each, nothing else."""
    return digest(field for message in messages for field in (message["role"], message["content"]))
