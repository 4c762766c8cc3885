"""A reward model as grader: its value for the whole conversation, through a sigmoid, is the grade. [ours]

    grade = 1 / (1 + e^-reward), in (0, 1]

Under Bradley and Terry's model of preferences, by which reward models are tuned, this is the probability that the
answer is preferred to one of reward 0. The zero of a reward means nothing by itself, so grades of two reward models do
not compare. Rewards above 11 are one grade on the grid of selection (select/rounding.py): `topk:reward` ranks by the
reward itself, which is kept beside the grade.

A conversation longer than the window, or that the chat template does not print, has no grade. Raise VERSION with any
change that can change a grade.
"""

import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import polars as pl

from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples
from dselect_core.lm import resident
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import IDENTITIES, commit_of, identity
from dselect_core.lm.whole_text import DoesNotFitError
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.model_spec import ModelSpec

VERSION = 1
SCALE = "reward"
# Conversations that are tokenised, and sorted by length, at a time: bounds memory.
_SORTED = 4096


def squash(reward: float) -> float:
    """The sigmoid, above 0 however low the reward is."""
    if reward >= 0:
        return 1 / (1 + math.exp(-reward))
    e = math.exp(reward)
    return max(e / (1 + e), sys.float_info.min)


def grade(samples: pl.DataFrame, spec: GraderSpec) -> Iterator[list[dict[str, Any]]]:
    """SAMPLES frame → batch by batch, rows with the columns of the grades that a reward model fills; in any order.

    Raises DselectError when the reward model cannot be opened.
    """
    from dselect_core.lm.reward_model import open_reward_model

    assert spec.reward_model is not None
    path, model_identity = spec.reward_model, identity(spec.reward_model, spec.revision, IDENTITIES)
    model_spec = ModelSpec.of_grader(spec, commit_of(model_identity))
    key = ("reward model", path, model_spec, model_identity)
    model = resident.hold(key, lambda: open_reward_model(path, model_spec))
    contents = conform_samples(samples).select("sample_id", "messages", "tools")
    for part in contents.iter_slices(_SORTED):
        sample_ids, conversations, failed = [], [], []
        for sample_id, messages, tools in part.iter_rows():
            try:
                conversations.append(model.ids(chat_messages(messages), chat_tools(tools)))
                sample_ids.append(sample_id)
            except (UnrenderableError, DoesNotFitError) as error:
                failed.append({"sample_id": sample_id, "error": str(error), "graded_at": datetime.now(UTC)})
        if failed:
            yield failed
        for rows, rewards in model.rewards(conversations):
            yield [
                _row(sample_ids[row], float(reward), len(conversations[row]))
                for row, reward in zip(rows, rewards, strict=True)
            ]


def _row(sample_id: str, reward: float, tokens: int) -> dict[str, Any]:
    graded = {"grade": squash(reward), "reward": reward} if math.isfinite(reward) else {"error": f"reward is {reward}"}
    counted = {"prompt_tokens": tokens, "completion_tokens": 0, "graded_at": datetime.now(UTC)}
    return {"sample_id": sample_id, **graded, **counted}
