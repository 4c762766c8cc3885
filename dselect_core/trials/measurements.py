"""What is measured of each run: a metric on an eval set, under a name that says on which samples and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.lm.load import LanguageModel
from dselect_core.pool.held_out import EvalSet
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.trials.mark_store import marks_name
from dselect_core.trials.measure import greedy_answers, response_losses

LOSS, ANSWERS = "loss", "answers"
"""Kinds of measurement. Exact match and ROUGE-L come from the same answers."""

_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run. name: of its marks. tokens: through the model, estimated from characters."""

    kind: str
    eval_set: EvalSet
    name: str
    tokens: int
    answer_tokens: int

    def measure(self, lm: LanguageModel) -> pl.DataFrame:
        """The marks: a row per eval sample, ascending by id."""
        if self.kind == LOSS:
            return response_losses(lm, self.eval_set.samples)
        return greedy_answers(lm, self.eval_set.samples, self.answer_tokens)


def measurements(eval_sets: Sequence[EvalSet], trials: TrialsSpec, model: dict[str, Any]) -> list[Measurement]:
    """All measurements of a run. model: the provenance of the model that measures, for its rendering."""
    rendering = {key: value for key, value in model.items() if key != "model"}
    kinds = [LOSS] + ([ANSWERS] if {"exact_match", "rouge_l"} & set(trials.metrics) else [])
    return [_measurement(kind, each, trials, rendering) for each in eval_sets for kind in kinds]


def _measurement(kind: str, eval_set: EvalSet, trials: TrialsSpec, rendering: dict[str, Any]) -> Measurement:
    how = rendering if kind == LOSS else {**rendering, "answer_tokens": trials.answer_tokens}
    characters = eval_set.samples["messages"].list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()
    tokens = int(float(characters.sum() or 0) / _CHARACTERS_PER_TOKEN)
    if kind == ANSWERS:
        tokens += trials.answer_tokens * eval_set.samples.height
    return Measurement(kind, eval_set, marks_name(kind, eval_set.version, how), tokens, trials.answer_tokens)
