"""MIWV, the model's own weakness (arXiv 2511.07074): one-shot minus zero-shot mean loss of the same response.

    MIWV_i = L(y_i | shot, x_i) - L(y_i | x_i)     [paper]

The shot is the sample's nearest neighbour by prompt embedding, in front of it as a user turn and an assistant turn of
the same template. The zero-shot loss comes with the difficulty; only the one-shot pass is run here, samples with the
same shot behind one run of it. A value belongs to (sample, shot, provenance): an earlier shot's value stays in the
store. How alike the two are belongs to the neighbours, not to the value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl

from dselect_core.kinds import PAIR, Column, FromPairs, Kind, ProvenanceInputs
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Sequence, Tree
from dselect_core.lm.render import Rendered, Renderer
from dselect_core.progress import Progress
from dselect_core.scores.forward_scores import Unrendered, render

REVISION = 1
_NO_SHOT = "no other sample to be its shot"
_NO_LOSS = "no zero-shot loss"
_NO_ROOM = "no room for a shot in the window"
# Pairs that are rendered at a time: bounds what is held.
_PAIRS = 4096


def provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """The model; the shot is a key of the score, not part of its provenance."""
    return {"score": "miwv", "revision": REVISION, **inputs.model}


@dataclass(frozen=True)
class Pair:
    """What a one-shot sequence is named by on its way through the model."""

    sample_id: str
    shot_id: str
    cut_shot_tokens: int | None


def behind(
    renderer: Renderer, shot_id: str, shot: Rendered, targets: list[tuple[str, Rendered]]
) -> tuple[tuple[Sequence, ...], list[Tree], list[tuple[str, str]]]:
    """One-shot sequences of samples with one shot: continuations of the whole shot; trees of their own where the shot
    had to be cut to fit the window, or is printed in another way in front of them; and [(sample_id, reason)] of the
    samples that cannot have one.
    """
    continuations, apart, without = [], [], []
    for sample_id, target in targets:
        try:
            built = renderer.one_shot(target, shot)
        except UnrenderableError as error:
            without.append((sample_id, str(error)))
            continue
        if built is None:
            without.append((sample_id, _NO_ROOM))
            continue
        name = Pair(sample_id, shot_id, built.cut_shot)
        if built.shared:
            continuations.append(Sequence(name, built.ids[built.shared :], built.scored[built.shared :]))
        else:
            apart.append(Tree(Sequence(name, built.ids, built.scored)))
    return tuple(continuations), apart, without


def compute(
    lm: LanguageModel,
    samples: pl.DataFrame,
    pairs: pl.DataFrame,
    progress: Progress | None = None,
) -> Iterator[pl.DataFrame]:
    """One-shot losses of the pairs → the columns of MIWV, batch by batch, a row per pair in the end.

    samples: SAMPLES, holding every sample and shot named in pairs; pairs: sample_id, shot_id, zero_shot_loss. A row
    without a shot, without a zero-shot loss or without room in the window has a null and its reason.
    """
    pairs = pairs.select("sample_id", "shot_id", pl.col("zero_shot_loss").cast(pl.Float32))
    no_shot, no_loss = pl.col("shot_id").is_null(), pl.col("zero_shot_loss").is_null()
    without = pairs.filter(no_shot | no_loss).with_columns(
        reason=pl.when(no_shot).then(pl.lit(_NO_SHOT)).otherwise(pl.lit(_NO_LOSS))
    )
    # Those with one shot side by side, so that it runs once for them.
    scorable = pairs.join(without, on="sample_id", how="anti").sort("shot_id", "sample_id")
    zero_shot = dict(scorable.select("sample_id", "zero_shot_loss").iter_rows())
    # {sample_id: (shot_id, reason)} of samples that cannot stand behind their shot
    not_scored: dict[str, tuple[str, str]] = {}

    def trees() -> Iterator[Tree]:
        for part in scorable.iter_slices(_PAIRS):
            wanted = pl.concat([part["sample_id"], part["shot_id"]]).unique()
            part_samples = samples.join(wanted.to_frame("sample_id"), on="sample_id", how="semi")
            rendered = {sample.id: sample for sample in render(lm, part_samples)}
            for shot_id, group in groupby(part.iter_rows(), key=lambda row: str(row[1])):
                sample_ids = [str(row[0]) for row in group]
                of_shot = rendered[shot_id]
                if isinstance(of_shot, Unrendered):
                    not_scored.update(dict.fromkeys(sample_ids, (shot_id, f"its shot: {of_shot.reason}")))
                    continue
                targets = []
                for sample_id in sample_ids:
                    of_target = rendered[sample_id]
                    if isinstance(of_target, Unrendered):
                        not_scored[sample_id] = (shot_id, of_target.reason)
                    else:
                        targets.append((sample_id, of_target.rendered))
                shot = of_shot.rendered
                continuations, apart, without_shot = behind(lm.renderer, shot_id, shot, targets)
                not_scored.update({sample_id: (shot_id, reason) for sample_id, reason in without_shot})
                if continuations:
                    yield Tree(Sequence(None, shot.ids, np.zeros(len(shot.ids), dtype=bool)), continuations)
                yield from apart

    if without.height:
        yield _rows(without.to_dicts())
    done = without.height
    for batch, signals in lm.forward.over(trees(), lm.spec.batch_tokens):
        assert signals.loss is not None
        scored = [(s.name, float(loss)) for s, loss in zip(batch, signals.loss, strict=True) if s.name is not None]
        if scored:
            yield frame(scored, zero_shot)
        done += len(scored)
        if progress is not None:
            progress(done, pairs.height)
    if not_scored:
        yield _rows(
            [
                {"sample_id": sample_id, "shot_id": shot_id, "zero_shot_loss": zero_shot[sample_id], "reason": reason}
                for sample_id, (shot_id, reason) in not_scored.items()
            ]
        )


def frame(one_shot_losses: list[tuple[Pair, float]], zero_shot: dict[str, float]) -> pl.DataFrame:
    """One row per pair, from its one-shot loss and the sample's zero-shot loss."""
    return _rows(
        [
            {
                "sample_id": pair.sample_id,
                "shot_id": pair.shot_id,
                "miwv": loss - zero_shot[pair.sample_id],
                "one_shot_loss": loss,
                "zero_shot_loss": zero_shot[pair.sample_id],
                "cut_shot_tokens": pair.cut_shot_tokens,
            }
            for pair, loss in one_shot_losses
        ]
    )


def _rows(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=MIWV.schema())


MIWV = Kind(
    name="miwv",
    asset="miwv_values",
    description="One-shot minus zero-shot loss of each response: where the model is weak (MIWV, arXiv 2511.07074).",
    columns=(
        Column("miwv", pl.Float32(), "one-shot minus zero-shot loss", unit="nats per token", rankable=True),
        Column(
            "one_shot_loss",
            pl.Float32(),
            "mean loss of the response tokens behind the shot",
            unit="nats per token",
            rankable=True,
        ),
        Column(
            "zero_shot_loss",
            pl.Float32(),
            "mean loss of the response tokens without a shot",
            unit="nats per token",
            rankable=True,
        ),
        Column("cut_shot_tokens", pl.Int32(), "tokens of the shot that the window had no room for", unit="tokens"),
        Column("reason", pl.String(), "why there is no value"),
    ),
    value="miwv",
    keys=PAIR,
    provenance=provenance,
    computation=FromPairs(compute, {"zero_shot_loss": ("difficulty", "loss")}),
    needs=frozenset({"prompts", "difficulty"}),
    pair_columns=(
        Column("shot_similarity", pl.Float32(), "cosine of the prompts of the sample and its shot", rankable=True),
    ),
)
