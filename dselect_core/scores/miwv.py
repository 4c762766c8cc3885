"""MIWV, the model's own weakness (arXiv 2511.07074): one-shot minus zero-shot mean loss of the same response.

    MIWV_i = L(y_i | shot, x_i) - L(y_i | x_i)     [paper]

The shot is the sample's nearest neighbour by prompt embedding, in front of it as a user turn and an
assistant turn of the same template. The zero-shot loss comes with the difficulty; only the one-shot pass
is run here. A value belongs to (sample, shot, recipe): an earlier shot's value stays in the store, and how alike the
two are belongs to the neighbours, not to the value.
"""

from collections.abc import Iterator
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
    "cut_shot_tokens": pl.Int32(),
    "reason": pl.String(),
}
_NO_SHOT = "no other sample to be its shot"
_NO_LOSS = "no zero-shot loss"
_NO_ROOM = "no room for a shot in the window"


def recipe(model: dict[str, Any]) -> dict[str, Any]:
    return {"score": "miwv", "revision": REVISION, **model}


def compute(
    lm: LanguageModel,
    samples: pl.DataFrame,
    pairs: pl.DataFrame,
    progress: Progress | None = None,
) -> Iterator[pl.DataFrame]:
    """One-shot losses of the pairs → SCHEMA batch by batch, a row per pair in the end.

    samples: SAMPLES, holding every sample and shot named in pairs; pairs: sample_id, shot_id, zero_shot_loss. A row
    without a shot, without a zero-shot loss or without room in the window has a null and its reason.
    """
    wanted = pl.concat([pairs["sample_id"], pairs["shot_id"].drop_nulls()]).unique()
    held = samples.join(wanted.to_frame("sample_id"), on="sample_id", how="semi")
    rendered = dict(zip(held["sample_id"], render_all(lm, held), strict=True))
    without: list[dict[str, Any]] = []
    sequences = []
    for row in pairs.select("sample_id", "shot_id", "zero_shot_loss").iter_rows(named=True):
        if row["shot_id"] is None:
            without.append(row | {"reason": _NO_SHOT})
        elif row["zero_shot_loss"] is None:
            without.append(row | {"reason": _NO_LOSS})
        else:
            built = one_shot(rendered[row["sample_id"]], rendered[row["shot_id"]], lm.window)
            if built is None:
                without.append(row | {"reason": _NO_ROOM})
            else:
                ids, response, cut = built
                sequences.append((row | {"cut_shot_tokens": cut}, ids, response))
    if without:
        yield pl.DataFrame(without, schema=SCHEMA)
    done = len(without)
    for batch in batches([len(ids) for _, ids, _ in sequences], lm.spec.batch_tokens):
        chosen = [sequences[i] for i in batch]
        signals = lm.forward.run([ids for _, ids, _ in chosen], [response for _, _, response in chosen])
        assert signals.loss is not None
        yield pl.DataFrame(
            [
                row | {"one_shot_loss": float(loss), "miwv": float(loss) - row["zero_shot_loss"]}
                for (row, _, _), loss in zip(chosen, signals.loss, strict=True)
            ],
            schema=SCHEMA,
        )
        done += len(batch)
        if progress is not None:
            progress(done, pairs.height)
