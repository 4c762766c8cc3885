"""What every check reads (one answer and what it answers) and what it may find.

Text is normalised once here and cached per turn, because most checks look only at its first or last characters.
Special tokens in the text are removed by their spelling, not by a tokenizer: the corpus does not name its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from dselect_core.corpus.sample import message_text

# Corpora often carry the special tokens of their tokenizer in the text. They say nothing about the answer.
_SPECIAL_TOKEN = (
    r"(?:<[|｜][a-z_▁0-9]{1,40}[|｜]>|</?s>|<(?:pad|eos|bos|unk|sep|cls|mask|end_of_turn|start_of_turn|end_of_text)>|"
    r"\[/?(?:EOS|BOS|PAD|SEP|CLS|UNK|INST)\])"
)
_LEADING_TOKENS = re.compile(rf"(?:{_SPECIAL_TOKEN}\s*+)++", re.IGNORECASE)
_TRAILING_TOKEN = re.compile(rf"{_SPECIAL_TOKEN}$", re.IGNORECASE)
_LONGEST_TOKEN = 44
_FENCED = re.compile(r"```.*?(?:```|$)", re.DOTALL)
_READ = 20_000


class Finding(NamedTuple):
    """`factor` in (0, 1) multiplies the grade. `reason` is one line for the reader of the record."""

    factor: float
    reason: str


@dataclass(frozen=True)
class Turn:
    """One assistant message.

    prompt: the user message that it answers; response: its text without thinking, and without special tokens around it;
    context: all text before it; answers_before: how many assistant messages come before it.
    """

    prompt: str
    response: str
    context: str
    answers_before: int = 0

    @cached_property
    def prose(self) -> str:
        """The first 20,000 characters of the response without fenced code."""
        body = self.response[:_READ]
        return _FENCED.sub("\n", body) if "```" in self.response else body

    @cached_property
    def words(self) -> list[str]:
        """The response split at white space."""
        return self.response.split()

    @cached_property
    def question(self) -> str:
        """The prompt when it is one short request; empty when it may carry a passage, examples or options.

        A check reads what is asked from here: in a long prompt the words could come from the passage.
        """
        return self.prompt if len(self.prompt) <= 400 else ""


def turns(messages: Sequence[Mapping[str, str]]) -> Iterator[Turn]:
    """The assistant messages of a sample, each with what it answers."""
    earlier_texts: list[str] = []
    prompt = ""
    answers = 0
    for message in messages:
        text = message_text(message)
        if message["role"] == "assistant":
            yield Turn(
                prompt.strip(), without_special_tokens(without_thinking(text)), "\n".join(earlier_texts), answers
            )
            answers += 1
        elif message["role"] == "user":
            prompt = text
        earlier_texts.append(text)


def without_thinking(text: str) -> str:
    """The answer alone: what follows the last think block. A trial and its correction in there are no claim."""
    _, closing, answer = text.rpartition("</think>")
    return answer if closing else text


def without_special_tokens(text: str) -> str:
    """`text` without white space and special tokens around it: `<s> Paris<|endoftext|>` is `Paris`."""
    text = text.strip()
    if (leading := _LEADING_TOKENS.match(text)) is not None:
        text = text[leading.end() :].strip()
    while (trailing := _TRAILING_TOKEN.search(text[-_LONGEST_TOKEN:])) is not None:
        text = text[: len(text) - len(trailing[0])].rstrip()
    return text


def clip(text: str, width: int = 60) -> str:
    """`text` on one line and at most `width` characters long, for the reason of a finding."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
