"""Instruction-following difficulty: how much of a response's loss is left once its prompt is known.

    IFD = L(y|x) / L(y)     [paper: Cherry LLM, arXiv 2308.12032, eq. 4]

Both are means over the response tokens. L(y|x) is the loss of the difficulty; only the pass without the prompt is run
here (lm/without_prompt.py). At 1 and above the prompt is of no help to the model, and its authors drop the row. In a
conversation L(y) is the mean over the tokens of all assistant turns, each turn without anything before it [ours]. What
the window cuts has no IFD, for its prompt is not whole [second: Cherry LLM's code drops such rows].
Superfiltering (arXiv 2402.00530) divides perplexities instead: exp(L(y|x) - L(y)), which is below 1 for the same rows
and ranks them in another order; it is the column beside.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dselect_core.kinds import Column, FromScores, Kind, ProvenanceInputs
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Sequence, Tree
from dselect_core.lm.without_prompt import WithoutPrompt
from dselect_core.progress import Progress
from dselect_core.scores.forward_scores import Unrendered, render

REVISION = 1
_NO_LOSS = "no loss with its prompt"
_NO_TOKEN = "no response token to score without its prompt"
_CUT = "longer than the model's window, so that its prompt is cut"
_NO_RATIO = "the loss without its prompt is not a positive number"


def provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """The model; the loss with the prompt is the difficulty's, and follows from the same model."""
    return {"score": "ifd", "revision": REVISION, **inputs.model}


@dataclass
class _Sum:
    """The losses of a sample's turns as they come: their sum, the tokens, and how many turns are still to come."""

    turns_to_come: int
    total: float = 0.0
    tokens: int = 0


def compute(
    lm: LanguageModel, samples: pl.DataFrame, rows: pl.DataFrame, progress: Progress | None = None
) -> Iterator[pl.DataFrame]:
    """Losses without the prompt → the columns of IFD, batch by batch, a row per row of `rows` in the end.

    samples: SAMPLES, holding every sample of `rows`; rows: sample_id, loss. A row without a loss, or without a token to
    score, has a null and its reason.
    """
    without = rows.filter(pl.col("loss").is_null())
    loss = dict(rows.drop_nulls("loss").select("sample_id", "loss").iter_rows())
    reasons = dict.fromkeys(without["sample_id"], _NO_LOSS)
    sums: dict[str, _Sum] = {}
    cutter = WithoutPrompt(lm.renderer)

    def trees() -> Iterator[Tree]:
        with_loss = samples.join(rows.drop_nulls("loss"), on="sample_id", how="semi", maintain_order="left")
        for sample in render(lm, with_loss):
            if isinstance(sample, Unrendered):
                reasons[sample.id] = sample.reason
                continue
            if sample.rendered.truncated:
                reasons[sample.id] = _CUT
                continue
            try:
                turns = cutter.sequences(sample.rendered)
            except UnrenderableError as error:
                reasons[sample.id] = str(error)
                continue
            if not turns:
                reasons[sample.id] = _NO_TOKEN
                continue
            sums[sample.id] = _Sum(len(turns))
            for ids, scored in turns:
                yield Tree(Sequence(sample.id, ids, scored))

    done = 0
    for batch, signals in lm.forward.over(trees(), lm.spec.batch_tokens):
        assert signals.loss is not None
        finished = []
        for sequence, mean in zip(batch, signals.loss, strict=True):
            so_far = sums[sequence.name]
            tokens = int(sequence.scored.sum())
            so_far.turns_to_come -= 1
            so_far.total += float(mean) * tokens
            so_far.tokens += tokens
            if not so_far.turns_to_come:
                del sums[sequence.name]
                finished.append(_row(sequence.name, loss[sequence.name], so_far.total / so_far.tokens, so_far.tokens))
        yield pl.DataFrame(finished, schema=IFD.schema())
        done += len(finished)
        if progress is not None:
            progress(done, rows.height)
    if reasons:
        nulls = [{"sample_id": sample_id, "reason": reason} for sample_id, reason in reasons.items()]
        yield pl.DataFrame(nulls, schema=IFD.schema())
    if progress is not None:
        progress(rows.height, rows.height)


def _row(sample_id: str, loss: float, without_prompt: float, tokens: int) -> dict[str, Any]:
    is_ratio = math.isfinite(without_prompt) and without_prompt > 0
    return {
        "sample_id": sample_id,
        "ifd": loss / without_prompt if is_ratio else None,
        "ifd_perplexity": math.exp(min(loss - without_prompt, 80.0)) if is_ratio else None,  # float32 ends at e^88
        "loss_without_prompt": without_prompt if math.isfinite(without_prompt) else None,
        "tokens_without_prompt": tokens,
        "reason": None if is_ratio else _NO_RATIO,
    }


def figures(table: pl.DataFrame) -> dict[str, str | int | float]:
    """What a table of IFD says of itself: how many rows are dropped, and whether it ranks by length."""
    scored = table.drop_nulls("ifd")
    if scored.is_empty():
        return {}
    shown: dict[str, str | int | float] = {
        "share with ifd of 1 or more": int((scored["ifd"] >= 1).sum()) / scored.height
    }
    length = scored["tokens_without_prompt"]
    if scored.height > 1 and length.n_unique() > 1 and scored["ifd"].n_unique() > 1:
        ranks = np.array([scored[name].rank().to_numpy() for name in ("ifd", "tokens_without_prompt")])
        # Ranks are those of the logarithm too.
        shown["rank correlation of ifd with log response tokens"] = float(np.corrcoef(ranks)[0, 1])
    return shown


IFD = Kind(
    name="ifd",
    asset="difficulty_scores",
    description="Loss of each response with its prompt over that without (IFD, arXiv 2308.12032).",
    columns=(
        Column(
            "ifd",
            pl.Float32(),
            "instruction-following difficulty: loss with the prompt over loss without; from 1 on the prompt is no help",
            value_range=(0.0, float("inf")),
            rankable=True,
        ),
        Column(
            "ifd_perplexity",
            pl.Float32(),
            "the same of perplexities, as Superfiltering has it: exponential of the two losses' difference",
            rankable=True,
        ),
        Column(
            "loss_without_prompt",
            pl.Float32(),
            "mean loss of the response tokens without the prompt",
            unit="nats per token",
            value_range=(0.0, float("inf")),
            rankable=True,
        ),
        Column(
            "tokens_without_prompt",
            pl.Int32(),
            "response tokens that have a loss without the prompt",
            unit="tokens",
        ),
        Column("reason", pl.String(), "why there is no score"),
    ),
    value="ifd",
    provenance=provenance,
    computation=FromScores(compute, {"loss": ("difficulty", "loss")}),
    needs=frozenset({"difficulty"}),
    figures=figures,
    joined=True,
)
