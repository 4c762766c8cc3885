"""Tune one run: render its samples, tune, and say what was done. Who calls keeps it (run_store.py)."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from upath import UPath

from dselect_core.lm.load import LanguageModel
from dselect_core.lm.tuning import Example, Tuned, tune
from dselect_core.progress import Progress
from dselect_core.runs.run_store import Run
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.scores.forward_scores import Unrendered, render
from dselect_core.storage.files import is_local


@dataclass(frozen=True)
class TunedRun:
    """A run that was just tuned. model: with the tuned weights; left_out: {reason: samples it was not tuned on}.

    facts: what is kept of it beside its weights, as JSON values.
    """

    model: LanguageModel
    tuned: Tuned
    left_out: Counter[str]
    facts: dict[str, Any]


def tune_run(
    model: TunableModel,
    run: Run,
    samples: pl.DataFrame,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> TunedRun:
    """Open the model and tune it. samples: SAMPLES, the run's and more; progress: told the tokens.

    checkpoints: as in `tuning.tune`. Raises DselectError as it does.
    """
    lm = model.open()
    examples, left_out = _examples(model, lm, run, samples)
    tuned = tune(lm.forward.model, examples, run.spec, checkpoints, progress)
    facts = {
        "set": run.training_set.name,
        "response_tokens": sum(int(example.scored.sum()) for example in examples),
        "rows_left_out": dict(left_out),
        "steps": tuned.steps,
        "tokens": tuned.tokens,
        "seconds": round(tuned.seconds, 3),
        "losses": [round(loss, 6) for loss in tuned.losses],
    }
    return TunedRun(lm.with_model(tuned.model), tuned, left_out, facts)


def checkpoint_folder(folder: UPath, run: Run) -> Path | None:
    """Where a run in progress keeps its state; None where the storage is not a local folder."""
    return Path((folder / run.fingerprint).path) if is_local(folder) else None


def _examples(
    model: TunableModel, lm: LanguageModel, run: Run, samples: pl.DataFrame
) -> tuple[list[Example], Counter[str]]:
    rows = samples.filter(pl.col("sample_id").is_in(list(run.training_set.ids))).sort("sample_id")
    examples, left_out = [], Counter[str]()
    for sample in render(replace(lm, renderer=model.tuning_renderer(lm)), rows):
        if isinstance(sample, Unrendered):
            left_out[sample.reason] += 1
        elif sample.rendered.response_tokens:
            examples.append(Example.of(sample.rendered))
        else:
            left_out["no token of the response within `max_length`"] += 1
    return examples, left_out
