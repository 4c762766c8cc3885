"""Zero-shot and one-shot pass in one, if the shots are known first: two thirds of the tokens of two passes.

A sample's zero-shot sequence is the root of the one-shot sequences that have it as their shot. So one run of it gives
the sample's own scores and is the prefix of theirs. The shots are known before the model runs if an encoder gives the
prompt embeddings. If the model itself gives them, it has already run (forward_scores.py), and only the one-shot pass
can share roots (miwv.py).
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import polars as pl

from dselect_core.kinds import kind_of
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Tree
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress
from dselect_core.scores import miwv
from dselect_core.scores.forward_scores import RenderedSample, forward_options, from_pass, render
from dselect_core.settings.settings import Settings

# Rendered samples in memory: each is needed as itself and as a continuation, often far apart.
_RENDERED = 65_536


def score_together(
    lm: LanguageModel,
    samples: pl.DataFrame,
    shots: pl.DataFrame,
    settings: Settings,
    want: frozenset[str],
    progress: Progress | None = None,
) -> Iterator[dict[str, pl.DataFrame]]:
    """Every kind in `want` (⊆ forward_kinds, and "miwv") of the samples, batch by batch.

    samples: SAMPLES; shots: sample_id, shot_id, both among the samples. A MIWV row follows when both its losses are
    computed, so not always with the sample's other scores. Its nulls and reasons are those of miwv.compute.
    """
    row_of = {sample_id: row for row, sample_id in enumerate(samples["sample_id"])}
    followers = dict(shots.drop_nulls("shot_id").group_by("shot_id").agg(pl.col("sample_id").sort()).iter_rows())

    @lru_cache(maxsize=_RENDERED)
    def rendered(sample_id: str) -> Rendered:
        sample = next(render(lm, samples[row_of[sample_id]]))
        assert isinstance(sample, RenderedSample), "the rows of a benchmark are plain"
        return sample.rendered

    def trees() -> Iterator[Tree]:
        for sample_id in row_of:
            own = rendered(sample_id)
            targets = [(other, rendered(other)) for other in followers.get(sample_id, ())]
            continuations, apart, _ = miwv.behind(lm.renderer, sample_id, own, targets)
            yield Tree(RenderedSample(sample_id, own).zero_shot(), continuations)
            yield from apart

    zero_shot: dict[str, float] = {}
    waiting: list[tuple[miwv.Pair, float]] = []  # one-shot losses of samples whose zero-shot loss is still to come
    scored_ids: list[pl.DataFrame] = []
    scored_count = 0
    passes = {kind: from_pass(kind_of(kind), settings) for kind in want - {"miwv"}}
    signals_wanted = frozenset({"difficulty"}).union(*(computation.signals for computation in passes.values()))
    options = forward_options(settings)
    for batch, signals in lm.forward.over(trees(), lm.spec.batch_tokens, want=signals_wanted, **options):
        assert signals.loss is not None
        at = [i for i, s in enumerate(batch) if isinstance(s.name, RenderedSample)]
        own = [batch[i].name for i in at]
        zero_shot |= {sample.id: float(signals.loss[i]) for i, sample in zip(at, own, strict=True)}
        waiting += [
            (s.name, float(x)) for s, x in zip(batch, signals.loss, strict=True) if isinstance(s.name, miwv.Pair)
        ]
        signals.loss, signals.entropy, signals.upd = (
            None if values is None else values[at] for values in (signals.loss, signals.entropy, signals.upd)
        )
        scored = {kind: passed.frame(own, signals, settings) for kind, passed in passes.items()} if own else {}
        complete = [row for row in waiting if np.isfinite(zero_shot.get(row[0].sample_id, np.nan))]
        if "miwv" in want and complete:
            scored["miwv"] = miwv.frame(complete, zero_shot)
            scored_ids.append(scored["miwv"].select("sample_id"))
        waiting = [row for row in waiting if row[0].sample_id not in zero_shot]
        yield scored
        scored_count += len(own)
        if progress is not None:
            progress(scored_count, samples.height)
    if "miwv" in want:
        unscored = shots if not scored_ids else shots.join(pl.concat(scored_ids), on="sample_id", how="anti")
        losses = pl.DataFrame(
            {"sample_id": list(zero_shot), "zero_shot_loss": list(zero_shot.values())},
            schema={"sample_id": pl.String, "zero_shot_loss": pl.Float32},
        ).with_columns(pl.col("zero_shot_loss").fill_nan(None))
        # Samples without a shot, a loss or room: miwv.compute gives their reasons.
        for frame in miwv.compute(lm, samples, unscored.join(losses, on="sample_id", how="left")):
            yield {"miwv": frame}
