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
# Reasoning that stands in the text itself, as models write it.
_REASONING_BEGINS = re.compile(r"<(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷", re.IGNORECASE)
_REASONING_ENDS = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_FENCED = re.compile(r"```.*?(?:```|$)", re.DOTALL)
_READ = 20_000


class Finding(NamedTuple):
    """`factor` in (0, 1) multiplies the grade. `reason` is one line for the reader of the record."""

    factor: float
    reason: str


@dataclass(frozen=True)
class Turn:
    """One assistant message.

    prompt: the user message that it answers; response: its text after the reasoning, without special tokens around it;
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
            answer = without_special_tokens(without_reasoning(text))
            yield Turn(prompt.strip(), answer, "\n".join(earlier_texts), answers)
            answers += 1
        elif message["role"] == "user":
            prompt = text
        earlier_texts.append(text)


def without_reasoning(text: str) -> str:
    """The answer of a text that begins with reasoning: what follows the end of it; nothing where it never ends.

    Where only an end stands, at the end of its line, a chat template wrote the beginning. Any other text is all answer,
    also one that speaks of such tags.
    """
    begins, ends = _REASONING_BEGINS.search(text), _REASONING_ENDS.search(text)
    if begins is not None and not without_special_tokens(text[: begins.start()]):
        return "" if ends is None else text[ends.end() :]
    if ends is not None and (begins is None or begins.start() > ends.start()):
        rest_of_line, _, rest = text[ends.end() :].partition("\n")
        return rest if rest and not rest_of_line.strip() else text
    return text


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
