"""Embeddings of a sample: of the whole of it (D3, RDS+) and of its prompt (MIWV's neighbours), three kinds.

Whole: mean of the target model's last layer over all tokens [ours, after DiverseEvol]. Prompt: the same over the
prompt's tokens, which precede the response and so never saw it; or from a named encoder (lm/encoder.py) [MIWV's paper:
BGE-large-en, mean-pooled]. In a conversation of several turns the prompt is what stands before the first answer [ours].
Weighted: the mean over all tokens where the i-th token of the sample counts i times [RDS+, arXiv 2503.01807, after
SGPT, arXiv 2202.08904], so that late tokens, which saw the most, count the most.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.kinds import Column, Computation, Emit, FromForwardPass, FromSamples, Kind, ProvenanceInputs
from dselect_core.lm.encoder import encode, encoder_provenance
from dselect_core.progress import Progress

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals
    from dselect_core.scores.forward_scores import RenderedSample
    from dselect_core.settings.settings import Settings

REVISION = 1


def provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """The model and how its states are pooled."""
    return {"score": "embeddings", "revision": REVISION, "pooling": "mean", **inputs.model}


def prompt_provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """Of the target model, or of the encoder that the settings name, with the encoder's own pooling."""
    encoder, model = inputs.settings.embeddings, inputs.model
    if encoder.path is not None:
        model = encoder_provenance(encoder, inputs.identify(encoder.path, encoder.revision))
    return {"score": "prompts", "revision": REVISION, "pooling": "mean", **model}


def frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """Vectors of whole samples, one row per sample of the batch; a vector that is not finite is null."""
    assert signals.state is not None
    return _frame(EMBEDDINGS, [sample.id for sample in samples], signals.state)


def prompt_frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """As `frame`, of the prompts."""
    assert signals.prompt_state is not None
    return _frame(PROMPTS, [sample.id for sample in samples], signals.prompt_state)


def weighted_provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """As `provenance`, pooled by position."""
    return {"score": "weighted_embeddings", "revision": REVISION, "pooling": "position-weighted mean", **inputs.model}


def weighted_frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """As `frame`, with the mean weighted by position."""
    assert signals.weighted_state is not None
    return _frame(WEIGHTED, [sample.id for sample in samples], signals.weighted_state)


def _frame(kind: Kind, ids: list[str], vectors: np.ndarray) -> pl.DataFrame:
    """sample_id, the kind's vector column, reason. vectors: float [n, d]."""
    keep = pl.lit(pl.Series(np.isfinite(vectors).all(1)))
    return pl.DataFrame(
        {"sample_id": ids, kind.value: vectors.astype(np.float32)},
        schema={"sample_id": pl.String(), kind.value: pl.Array(pl.Float32(), vectors.shape[1])},
    ).with_columns(
        pl.when(keep).then(pl.col(kind.value)),
        reason=pl.when(~keep).then(pl.lit("embedding is not finite")).otherwise(pl.lit(None, pl.String)),
    )


def _prompts_computed_by(settings: "Settings") -> Computation:
    if settings.embeddings.path is None:
        return FromForwardPass(frozenset({"embeddings"}), prompt_frame)
    return FromSamples(_encode_prompts)


def _encode_prompts(samples: pl.DataFrame, settings: "Settings", emit: Emit, progress: Progress | None) -> None:
    for ids, vectors in encode(samples, settings.embeddings, progress):
        emit(_frame(PROMPTS, ids, vectors))


_REASON = Column("reason", pl.String(), "why there is no vector")

EMBEDDINGS = Kind(
    name="embeddings",
    asset="embeddings",
    description="Mean-pooled vector of the whole sample by the target model.",
    columns=(
        Column("embedding", pl.Float32(), "mean of the model's last layer over all tokens of the sample", vector=True),
        _REASON,
    ),
    value="embedding",
    array="embedding",
    pool_field="embeddings",
    provenance=provenance,
    computation=FromForwardPass(frozenset({"embeddings"}), frame),
)

PROMPTS = Kind(
    name="prompts",
    asset="embeddings",
    description="Vector of the prompt by the target model or a named encoder; MIWV's shots are found by it.",
    columns=(
        Column("prompt_embedding", pl.Float32(), "pooled last layer over the tokens of the prompt", vector=True),
        _REASON,
    ),
    value="prompt_embedding",
    array="prompt_embedding",
    provenance=prompt_provenance,
    computation=_prompts_computed_by,
)

WEIGHTED = Kind(
    name="weighted_embeddings",
    asset="embeddings",
    description="Position-weighted mean of the target model's last layer over the whole sample: RDS+.",
    columns=(
        Column(
            "weighted_embedding",
            pl.Float32(),
            "mean of the model's last layer over all tokens of the sample, the i-th weighted by i",
            vector=True,
        ),
        _REASON,
    ),
    value="weighted_embedding",
    array="weighted_embedding",
    pool_field="weighted_embeddings",
    provenance=weighted_provenance,
    computation=FromForwardPass(frozenset({"weighted_embeddings"}), weighted_frame),
    joined=True,
)
