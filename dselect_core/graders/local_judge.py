"""A causal LM that runs here as judge: how probable it is that it answers yes, of yes and no together (D3's `d3`).

What yes and no are, and when there is no grade, is said in yes_no.py. One forward pass a sample, nothing is generated;
the rubric, which all questions begin with, runs once a batch.

There is no grade either for a sample that does not fit into the judge's window whole, or that its chat template does
not print. Special tokens of the judge that stand in a sample are written with a space inside, so that they stay data.
Raise VERSION with any change that can change a grade.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import polars as pl

from dselect_core.corpus.sample import chat_messages, conform_samples
from dselect_core.errors import DselectError
from dselect_core.graders.judge_prompt import PROBABILITY
from dselect_core.graders.yes_no import NO, YES, outcome, spellings, summed
from dselect_core.lm import load, resident
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.message_form import Message
from dselect_core.lm.packing import Sequence, Tree, share_beginning
from dselect_core.lm.whole_text import DoesNotFitError, WholeText
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.model_spec import ModelSpec

VERSION = 1
# Questions whose common beginning is looked for at a time.
_QUESTIONS = 256
# How tokenizers write the space in front of a word.
_SPACES = ("", "Ġ", "▁", " ")
_OPEN_THOUGHTS = ("<think>", "<thinking>", "[THINK]", "<|START_THINKING|>")


def answer_tokens(tokenizer: Any, word: str) -> tuple[int, ...]:
    """Ids of all tokens that are the word, whatever its case, with or without a space in front; ascending."""
    vocabulary = tokenizer.get_vocab()
    written = [space + form for space in _SPACES for form in spellings(word)]
    return tuple(sorted({vocabulary[text] for text in written if text in vocabulary}))


class JudgeText:
    """What the judge is asked of a sample, as ids. Raises DselectError where its first token is no answer."""

    def __init__(self, tokenizer: Any, window: int, rubric: str):
        self._text = WholeText(tokenizer, window)
        self._rubric = rubric
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        self._special = sorted((token for token in special if len(token) > 1), key=lambda token: (-len(token), token))
        try:
            asked = self.text("probe", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        except UnrenderableError as error:
            raise DselectError(f"{error}. Choose another judge") from error
        if asked.rstrip().endswith(_OPEN_THOUGHTS):
            raise DselectError(
                "its chat template opens a think block, so its first token is no answer. Choose a judge that answers "
                "at once, or serve this one and give `base_url` and `model`"
            )

    def text(self, sample_id: str, messages: list[Message]) -> str:
        """The rendered question. Raises UnrenderableError."""
        system, user = PROBABILITY.chat(sample_id, messages, self._rubric)
        user["content"] = self._as_data(user["content"])
        template = self._text.template
        accepted, _ = template.accepted([system, user])
        text = template.text(accepted, generation_prompt=True, enable_thinking=False)
        if user["content"].strip() not in text:
            raise UnrenderableError("the judge's chat template does not print the conversation as it is")
        return text

    def ids(self, sample_id: str, messages: list[Message]) -> np.ndarray:
        """The question as int32 ids, with room for the answer's first token.

        Raises UnrenderableError, DoesNotFitError.
        """
        return self._text.ids(self.text(sample_id, messages), room=1)

    def _as_data(self, text: str) -> str:
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def grade(samples: pl.DataFrame, spec: GraderSpec) -> Iterator[list[dict[str, Any]]]:
    """SAMPLES frame → batch by batch, rows with the columns of the grades that a judge fills; in any order.

    Raises DselectError when the judge cannot be opened, or has no token for yes or no.
    """
    assert spec.judge is not None
    rubric = PROBABILITY.rubric(spec)
    model_identity = load.identity(spec.judge, spec.revision, load.IDENTITIES)
    load.quiet_transformers()
    try:
        model_spec = ModelSpec.of_grader(spec, load.commit_of(model_identity))
        key, path = ("judge", spec.judge, model_spec, model_identity), spec.judge
        lm = resident.hold(key, lambda: load.load(path, model_spec, model_identity))
        tokenizer = lm.renderer.tokenizer
        yes, no = (answer_tokens(tokenizer, word) for word in (YES, NO))
        if not (yes and no):
            raise DselectError("its tokenizer has no token for `yes` or none for `no`. Choose another judge")
        judge_text = JudgeText(tokenizer, lm.window, rubric)
    except DselectError as error:
        raise DselectError(f"grader.judge {spec.judge}: {error}") from error
    failed: list[dict[str, Any]] = []

    def questions() -> Iterator[Sequence]:
        for sample_id, messages in conform_samples(samples).select("sample_id", "messages").iter_rows():
            try:
                ids = judge_text.ids(sample_id, chat_messages(messages))
            except (UnrenderableError, DoesNotFitError) as error:
                failed.append({"sample_id": sample_id, "error": str(error), "graded_at": datetime.now(UTC)})
            else:
                yield Sequence(sample_id, ids, np.zeros(len(ids), dtype=bool))

    def trees() -> Iterator[Tree]:
        asked = questions()
        while chunk := list(islice(asked, _QUESTIONS)):
            yield from share_beginning(chunk)

    tokens = (*yes, *no)
    batches = lm.forward.over(trees(), spec.batch_tokens, want=frozenset({"next_token"}), next_tokens=tokens)
    for batch, signals in batches:
        assert signals.next_token is not None
        logprobs = signals.next_token.astype(np.float64)
        yield [
            _row(question.name, of_row[: len(yes)], of_row[len(yes) :], question.total_tokens)
            for question, of_row in zip(batch, logprobs, strict=True)
            if question.name is not None
        ]
    if failed:
        yield failed


def _row(sample_id: str, yes: np.ndarray, no: np.ndarray, tokens: int) -> dict[str, Any]:
    """yes, no: log-probabilities of the tokens that are the word."""
    counted = {"prompt_tokens": tokens, "completion_tokens": 0, "graded_at": datetime.now(UTC)}
    return {"sample_id": sample_id, **outcome(summed(yes), summed(no)), **counted}
