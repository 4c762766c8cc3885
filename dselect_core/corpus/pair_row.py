"""Rows of a prompt and a response in columns: which columns are the prompt, and which is the response.

Every column of a prompt's name that the row has is part of the prompt, after the chosen one and an empty line, because
an answer without the text it is about is another sample. Left out is what says nothing more: a blank, the same text
again, a question that the chosen text quotes, and the row rendered by a template. [ours]

Where several columns could be the response, the one that holds another is it (a worked solution holds the bare answer).
`answer`, `target` and `targets` are bare values beside a longer column. Two long texts of which neither holds the other
make a bad row that names them, because any choice would be a guess. [ours]
"""

import re
from collections.abc import Mapping
from typing import Any

from dselect_core.corpus.sample import BadRow, canonical_text, is_missing
from dselect_core.corpus.tool_calls import is_empty

PROMPT_KEYS = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
COMPLETION_KEYS = ("completion", "response", "output", "solution", "answer", "target", "targets")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

_BARE_KEYS = ("answer", "target", "targets")
_QUOTE_WORDS = 4
"""From so many words on, a question that stands in the chosen prompt is a quote of it and no coincidence."""

_TEMPLATE_MARKS = re.compile(r"###? ?(?:instruction|input|response|human|user|assistant)|\[/?INST\]|<\|", re.IGNORECASE)


def join_prompt(row: Mapping[str, Any], prompt_key: str, response: str) -> str:
    """The whole prompt of a row; may be blank. Raises BadRow for a part that is not text."""
    chosen = canonical_text(row[prompt_key], f"`{prompt_key}`")
    texts = [chosen]
    for key in (*(key for key in PROMPT_KEYS if key != prompt_key), "context"):
        if is_missing(row.get(key)):
            continue
        belongs = key == "context" or (key == "input" and prompt_key == "instruction")
        if not isinstance(row[key], str) and (is_empty(row[key]) if key in ("input", "context") else True):
            continue  # the number of a question, or nothing
        text = canonical_text(row[key], f"`{key}`")
        if belongs or not _says_nothing_more(text, texts, response):
            texts.append(text)
    return "\n\n".join(text for text in texts if text)


def _says_nothing_more(text: str, texts: list[str], response: str) -> bool:
    chosen = texts[0]
    if not text or text in texts:
        return True
    if text in chosen and len(text.split()) >= _QUOTE_WORDS:
        return True
    return bool(chosen) and chosen in text and (response in text or _TEMPLATE_MARKS.search(text) is not None)


def read_response(row: Mapping[str, Any], completion_key: str) -> str:
    """The response of a row. Raises BadRow where another column could be it as well."""
    response = canonical_text(row[completion_key], f"`{completion_key}`")
    for key in COMPLETION_KEYS:
        other = row.get(key)
        if key == completion_key or not isinstance(other, str) or not response or not other.strip():
            continue
        other = other.strip()
        if other in response:
            continue
        if response in other or (key not in _BARE_KEYS and completion_key not in _BARE_KEYS):
            raise BadRow(f"`{completion_key}` and `{key}` could both be the response: rename or remove one of them")
    return response
