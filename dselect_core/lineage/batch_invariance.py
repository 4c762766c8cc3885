"""Whether a sample's loss is the same alone as in a batch, on a probe of landed rows. [ours]

Batches run flat, and a model whose attention looks beyond its own sequence gives each row a score that depends on its
neighbours. That the model can run flat is tried with made-up tokens when it is opened (lm/forward.py); this tries it
with the corpus's own rows, and says by how much. Trade-off: the probe is run twice, once for each model.
"""

from collections.abc import Iterator

import polars as pl

from dselect_core.corpus.raw_dataset import read_samples
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.target_model import open_target_model
from dselect_core.scores.forward_scores import forward_scores
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace

PROBE_ROWS = 32

_LOSS = "loss"


def batch_differences(workspace: Workspace) -> tuple[pl.DataFrame, float] | None:
    """Of the first rows of a train source, by id: (sample_id, loss in a batch, loss alone, difference), the largest
    difference first, and the noise of the model's number type; in nats. None where no row has landed or has a loss.

    Raises DselectError when there is no model.
    """
    samples = next(_landed(workspace), None)
    if samples is None:
        return None
    lm = open_target_model(workspace)
    together = _losses(lm, samples, workspace.settings).rename({_LOSS: "in_batch"})
    alone = [_losses(lm, samples[at : at + 1], workspace.settings) for at in range(samples.height)]
    found = together.join(pl.concat(alone).rename({_LOSS: "alone"}), on="sample_id").drop_nulls()
    if found.is_empty():
        return None
    found = found.with_columns(difference=(pl.col("in_batch") - pl.col("alone")).abs())
    return found.sort("difference", "sample_id", descending=[True, False]), lm.forward.noise


def _landed(workspace: Workspace) -> Iterator[pl.DataFrame]:
    for name in sorted(workspace.settings.sources):
        if workspace.settings.role_of(name) == "train" and workspace.samples(name).exists():
            samples = read_samples(workspace, name)
            if not samples.is_empty():
                yield samples.sort("sample_id").head(PROBE_ROWS)


def _losses(lm: LanguageModel, samples: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    frames = [frames["difficulty"] for frames in forward_scores(lm, samples, frozenset({"difficulty"}), settings)]
    return pl.concat(frames).select("sample_id", _LOSS)
