"""How many tokens the questions to a judge behind an endpoint take, by its own tokenizer, before they are asked.

`grader.tokenizer` names a Hugging Face tokenizer: with its chat template the count is that of a server which renders
the chat with it, to the token. Without one, and with OpenAI's (tiktoken, where it is installed and knows the model), a
message takes its text and four tokens more, and the reply's begin three, as OpenAI's cookbook counts.

Trade-off: of many rows a part is counted, the lowest ids, which are a random draw for they are hashes; the rest is
estimated from its characters.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.graders.judge_form import Chat, JudgeForm
from dselect_core.lm.load import described, quiet_transformers
from dselect_core.settings.grader_spec import GraderSpec

MOST_ROWS = 1000
"""Rows that are counted one by one."""

_PER_MESSAGE, _PER_REPLY = 4, 3

_log = logging.getLogger(__name__)

Count = Callable[[Chat], int]


def counter_of(spec: GraderSpec) -> Count | None:
    """Counts the tokens of a chat; None where the judge's tokenizer is not known.

    Raises DselectError when the tokenizer that is named cannot be opened.
    """
    if spec.model is None:
        return None
    return _of_openai(spec.model) if spec.tokenizer is None else _of_hugging_face(spec.tokenizer)


def prompt_tokens(samples: pl.DataFrame, spec: GraderSpec, count: Count) -> int:
    """Tokens of all questions about SAMPLES (sample_id, messages), each asked once."""
    form = JudgeForm.of(spec)
    rubric = form.prompt.rubric(spec)
    counted = samples.select("sample_id", "messages").sort("sample_id").head(MOST_ROWS)
    tokens, characters = 0, 0
    for chat in (form.prompt.chat(sample_id, messages, rubric) for sample_id, messages in counted.iter_rows()):
        tokens += count(chat)
        characters += _characters(chat)
    if counted.height == samples.height:
        return tokens
    rest = samples.select("sample_id", "messages").join(counted, on="sample_id", how="anti")
    chats = (form.prompt.chat(sample_id, messages, rubric) for sample_id, messages in rest.iter_rows())
    return tokens + round(sum(map(_characters, chats)) * tokens / max(1, characters))


def _characters(chat: Chat) -> int:
    return sum(len(message["content"]) for message in chat)


def _of_hugging_face(name: str) -> Count:
    quiet_transformers()
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever the code of hundreds of families raises
        raise DselectError(
            f"grader.tokenizer: {name} cannot be opened ({described(error)}). Name a folder or a model of the hub, or "
            "take the key out"
        ) from error

    def by_template(chat: Chat) -> int:
        return len(tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"])

    def by_texts(chat: Chat) -> int:
        return _of_texts(chat, lambda text: tokenizer.encode(text, add_special_tokens=False))

    try:
        by_template([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    except Exception:  # it has no template, or one that takes no system message
        return by_texts
    return by_template


def _of_openai(model: str) -> Count | None:
    try:
        import tiktoken
    except ImportError:
        return None
    try:
        encoding = tiktoken.encoding_for_model(model)
    except KeyError:
        return None
    except Exception as error:  # it fetches what it has not yet
        _log.warning("tiktoken knows %s, and cannot open its tokens: %s", model, described(error))
        return None
    return lambda chat: _of_texts(chat, encoding.encode_ordinary)


def _of_texts(chat: Chat, encode: Callable[[str], Iterable[int]]) -> int:
    return _PER_REPLY + sum(_PER_MESSAGE + sum(1 for _ in encode(message["content"])) for message in chat)
