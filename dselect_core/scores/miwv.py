"""MIWV, the model's own weakness (arXiv 2511.07074): one-shot minus zero-shot mean loss of the same response.

    MIWV_i = L(y_i | shot, x_i) - L(y_i | x_i)     [paper]

The shot is the sample's nearest neighbour by prompt embedding, in front of it as a user turn and an
assistant turn of the same template. The zero-shot loss comes with the difficulty; only the one-shot pass
is run here. A value belongs to (sample, shot, recipe).
"""

from typing import Any

import polars as pl

from dselect_core.lm.batches import batches
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.render import one_shot
from dselect_core.progress import Progress
from dselect_core.scores.one_pass import render_all

REVISION = 1
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "shot_id": pl.String(),
    "miwv": pl.Float32(),
    "one_shot_loss": pl.Float32(),
    "zero_shot_loss": pl.Float32(),
    "shot_similarity": pl.Float32(),
    "cut_shot_tokens": pl.Int32(),
    "reason": pl.String(),
}


def recipe(model: dict[str, Any]) -> dict[str, Any]:
    return {"score": "miwv", "revision": REVISION, **model}


def compute(
    lm: LanguageModel,
    samples: pl.DataFrame,
    pairs: pl.DataFrame,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """One-shot losses of the pairs → SCHEMA, a row per pair.

    samples: SAMPLES, holding every sample and shot named in pairs; pairs: sample_id, shot_id, similarity,
    zero_shot_loss. A row without a shot, without a zero-shot loss or without room in the window has a null
    and its reason.
    """
    wanted = pl.concat([pairs["sample_id"], pairs["shot_id"].drop_nulls()]).unique()
    held = samples.join(wanted.to_frame("sample_id"), on="sample_id", how="semi")
    rendered = dict(zip(held["sample_id"], render_all(lm, held), strict=True))
    rows: list[dict[str, Any]] = []
    sequences = []
    for pair in pairs.iter_rows(named=True):
        row = {
            "sample_id": pair["sample_id"],
            "shot_id": pair["shot_id"],
            "zero_shot_loss": pair["zero_shot_loss"],
            "shot_similarity": pair["similarity"],
            "reason": None,
        }
        rows.append(row)
        built = None
        if pair["shot_id"] is None:
            row["reason"] = "no other sample to be its shot"
        elif pair["zero_shot_loss"] is None:
            row["reason"] = "no zero-shot loss"
        else:
            built = one_shot(rendered[pair["sample_id"]], rendered[pair["shot_id"]], lm.window)
            if built is None:
                row["reason"] = "no room for a shot in the window"
        if built is not None:
            row["cut_shot_tokens"] = built[2]
            sequences.append((len(rows) - 1, built[0], built[1]))
    done = 0
    for batch in batches([len(s[1]) for s in sequences], lm.spec.batch_tokens):
        chosen = [sequences[i] for i in batch]
        signals = lm.forward.run([s[1] for s in chosen], [s[2] for s in chosen])
        assert signals.loss is not None
        for (at, _, _), loss in zip(chosen, signals.loss, strict=True):
            rows[at]["one_shot_loss"] = float(loss)
            rows[at]["miwv"] = float(loss) - rows[at]["zero_shot_loss"]
        done += len(batch)
        if progress is not None:
            progress(done, len(sequences))
    return pl.DataFrame(rows, schema=SCHEMA)
