"""What every check looks at (one answer and what it answers) and what it may find.

Text is normalised once here and cached per turn, because all checks read it and most of them look
at nothing but its first or last characters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

# Corpora often carry a tokenizer's special tokens as literal text; they say nothing about the answer.
_MARK = (
    r"(?:<[|｜][a-z_▁0-9]{1,40}[|｜]>|</?s>|<(?:pad|eos|bos|unk|sep|cls|mask|end_of_turn|start_of_turn|end_of_text)>|"
    r"\[/?(?:EOS|BOS|PAD|SEP|CLS|UNK|INST)\])"
)
_MARKS_FIRST = re.compile(rf"(?:{_MARK}\s*+)++", re.IGNORECASE)
_MARK_LAST = re.compile(rf"{_MARK}$", re.IGNORECASE)
_FENCED = re.compile(r"```.*?(?:```|$)", re.DOTALL)


_READ = 20_000


class Finding(NamedTuple):
    """`factor` in (0, 1) multiplies the grade; `reason` is one line for the reader of the record."""

    factor: float
    reason: str


@dataclass(frozen=True)
class Turn:
    """One assistant message (`response`), the user message it answers (`prompt`), all text before it (`context`), and
    how many answers came before (`number`)."""

    prompt: str
    response: str
    context: str
    number: int = 0

    @property
    def body(self) -> str:
        """As much of the response as checks read that look all through it."""
        return self.response[:_READ]

    @cached_property
    def prose(self) -> str:
        """The body without its fenced code."""
        return _FENCED.sub("\n", self.body) if "```" in self.response else self.body

    @cached_property
    def words(self) -> list[str]:
        """The response split at white space."""
        return self.response.split()

    @cached_property
    def question(self) -> str:
        """The prompt when it is one short request; empty when it carries a passage, examples or options.

        Mechanical checks read operands from here: in a long prompt they could come from the passage.
        """
        return self.prompt if len(self.prompt) <= 400 else ""


def turns(messages: Sequence[Mapping[str, str]]) -> Iterator[Turn]:
    """The assistant messages of a sample, each with what it answers."""
    before: list[str] = []
    prompt = ""
    number = 0
    for message in messages:
        text = message["content"]
        if message["role"] == "assistant":
            yield Turn(prompt.strip(), without_special_tokens(text), "\n".join(before), number)
            number += 1
        elif message["role"] == "user":
            prompt = text
        before.append(text)


def without_special_tokens(text: str) -> str:
    """`text` without white space and a tokenizer's special tokens around it."""
    text = text.strip()
    if (first := _MARKS_FIRST.match(text)) is not None:
        text = text[first.end() :].strip()
    while (last := _MARK_LAST.search(text[-40:])) is not None:
        text = text[: last.start() - len(text[-40:])].rstrip()
    return text


def clip(text: str, width: int = 60) -> str:
    """`text` on one line, shortened in the middle of nothing: for reasons in a record."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
