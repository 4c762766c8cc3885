"""Embeddings of a sample: of the whole of it (D3's diversity) and of its prompt (MIWV's neighbours), two kinds.

Whole: mean of the target model's last layer over all tokens [ours, after DiverseEvol]. Prompt: the same over the
prompt's tokens, which precede the response and so never saw it; or from a named encoder, mean-pooled over the text
[MIWV's paper: BGE-large-en]. In a conversation of several turns the prompt is what stands before the first answer
[ours].
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import Column, Computation, Emit, FromForwardPass, FromSamples, Kind, ProvenanceInputs
from dselect_core.lm.batches import batches
from dselect_core.lm.load import device, first_line, quiet_transformers
from dselect_core.progress import Progress
from dselect_core.settings.settings import EmbeddingSpec

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals
    from dselect_core.scores.forward_scores import RenderedSample
    from dselect_core.settings.settings import Settings

REVISION = 1
# Tokens per encoder batch, padding included.
ENCODER_BATCH_TOKENS = 8192


def provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    return {"score": "embeddings", "revision": REVISION, "pooling": "mean", **inputs.model}


def prompt_provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """Of the target model, or of the encoder that the settings name."""
    encoder = inputs.settings.embeddings
    if encoder.path is not None:
        return encoder_recipe(inputs.identify(encoder.path, encoder.revision), encoder)
    return {"score": "prompts", "revision": REVISION, "pooling": "mean", **inputs.model}


def encoder_recipe(identity: str, spec: EmbeddingSpec) -> dict[str, Any]:
    return {"score": "prompts", "revision": REVISION, "pooling": "mean", "model": identity, "window": spec.max_length}


def frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """Vectors of whole samples, one row per sample of the batch; a vector that is not finite is null."""
    assert signals.state is not None
    return _frame(EMBEDDINGS, [sample.id for sample in samples], signals.state)


def prompt_frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """As `frame`, of the prompts."""
    assert signals.prompt_state is not None
    return _frame(PROMPTS, [sample.id for sample in samples], signals.prompt_state)


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


@lru_cache(maxsize=1)
def _encoder(path: str, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model = AutoModel.from_pretrained(path, revision=revision).eval().to(device("auto"))
    except (OSError, ValueError, KeyError) as error:
        raise DselectError(f"encoder {path}: cannot be opened: {first_line(error)}") from error
    return tokenizer, model


def encode(samples: pl.DataFrame, spec: EmbeddingSpec, progress: Progress | None = None) -> Iterator[pl.DataFrame]:
    """Prompt embeddings of a SAMPLES frame by the encoder named in `spec`, batch by batch, as `_frame`."""
    assert spec.path is not None
    tokenizer, model = _encoder(spec.path, spec.revision)
    ids = samples["sample_id"].to_list()
    prompts = []
    for messages in samples["messages"].to_list():
        first_answer = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
        prompts.append("\n\n".join(m["content"] for m in messages[:first_answer]))
    done = 0
    for batch, vectors in _encode(tokenizer, model, prompts, spec.max_length):
        yield _frame(PROMPTS, [ids[i] for i in batch], vectors)
        done += len(batch)
        if progress is not None:
            progress(done, len(ids))


def _encode(tokenizer: Any, model: Any, texts: list[str], window: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Per batch: positions in `texts`, and the mean-pooled last layer, float32 [batch, d]."""
    import torch

    window = min(window, getattr(model.config, "max_position_embeddings", window))
    encoded = tokenizer(texts, truncation=True, max_length=window)["input_ids"]
    for batch in batches([len(e) for e in encoded], ENCODER_BATCH_TOKENS):
        # An encoder looks both ways, so unlike a causal model it needs the padding mask.
        padded = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            states = model(**padded).last_hidden_state.float()
        mask = padded["attention_mask"][:, :, None].float()
        yield batch, ((states * mask).sum(1) / mask.sum(1).clamp_min(1)).cpu().numpy()


def _prompts_computed_by(settings: "Settings") -> Computation:
    if settings.embeddings.path is None:
        return FromForwardPass(frozenset({"embeddings"}), prompt_frame)
    return FromSamples(_encode_prompts)


def _encode_prompts(samples: pl.DataFrame, settings: "Settings", emit: Emit, progress: Progress | None) -> None:
    for vectors in encode(samples, settings.embeddings, progress):
        emit(vectors)


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
