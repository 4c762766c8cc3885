"""Embeddings of a sample: of its prompt (MIWV's neighbours) and of the whole of it (D3's diversity).

From the target model: mean of the last layer over the prompt's tokens, which precede the response and so
never saw it, and over all tokens [ours, after DiverseEvol]. Or from a named encoder, mean-pooled over the
text [MIWV's paper: BGE-large-en]. In a conversation of several turns the prompt is what stands before the
first answer [ours].
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.config import EmbeddingSpec
from dselect_core.errors import DselectError
from dselect_core.lm.batches import batches
from dselect_core.lm.load import device, first_line, quiet_transformers
from dselect_core.progress import Progress

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals

REVISION = 1
# Tokens per encoder batch, padding included.
ENCODER_BATCH_TOKENS = 8192


def schema(width: int) -> dict[str, pl.DataType]:
    return {
        "sample_id": pl.String(),
        "embedding": pl.Array(pl.Float32(), width),
        "prompt_embedding": pl.Array(pl.Float32(), width),
        "reason": pl.String(),
    }


def recipe(model: dict[str, Any]) -> dict[str, Any]:
    return {"score": "embeddings", "revision": REVISION, "pooling": "mean", **model}


def encoder_recipe(identity: str, spec: EmbeddingSpec) -> dict[str, Any]:
    return recipe({"model": identity, "window": spec.max_length})


def frame(ids: list[str], signals: "Signals") -> pl.DataFrame:
    """`schema`, one row per sequence of the batch."""
    assert signals.state is not None and signals.prompt_state is not None
    return _frame(ids, signals.state, signals.prompt_state)


def _frame(ids: list[str], whole: np.ndarray, prompt: np.ndarray) -> pl.DataFrame:
    finite = np.isfinite(whole).all(1) & np.isfinite(prompt).all(1)
    columns = {"sample_id": ids, "embedding": whole, "prompt_embedding": prompt}
    built = pl.DataFrame(
        columns | {"reason": pl.Series([None] * len(ids), dtype=pl.String)}, schema=schema(whole.shape[1])
    )
    if finite.all():
        return built
    keep = pl.Series(finite)
    return built.with_columns(
        pl.when(keep).then(pl.col("embedding")),
        pl.when(keep).then(pl.col("prompt_embedding")),
        reason=pl.when(~keep).then(pl.lit("embedding is not finite")),
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


def encode(samples: pl.DataFrame, spec: EmbeddingSpec, progress: Progress | None = None) -> pl.DataFrame:
    """Embeddings by the encoder named in `spec` of a SAMPLES frame → `schema`, in the frame's order."""
    assert spec.path is not None
    tokenizer, model = _encoder(spec.path, spec.revision)
    prompts, wholes = [], []
    for messages in samples["messages"].to_list():
        first_answer = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
        prompts.append("\n\n".join(m["content"] for m in messages[:first_answer]))
        wholes.append("\n\n".join(m["content"] for m in messages))
    texts = prompts + wholes
    vectors = _encode(tokenizer, model, texts, spec.max_length, progress)
    return _frame(samples["sample_id"].to_list(), vectors[len(prompts) :], vectors[: len(prompts)])


def _encode(tokenizer: Any, model: Any, texts: list[str], window: int, progress: Progress | None) -> np.ndarray:
    import torch

    window = min(window, getattr(model.config, "max_position_embeddings", window))
    encoded = tokenizer(texts, truncation=True, max_length=window)["input_ids"]
    out = np.empty((len(texts), model.config.hidden_size), np.float32)
    done = 0
    for batch in batches([len(e) for e in encoded], ENCODER_BATCH_TOKENS):
        # An encoder looks both ways, so unlike a causal model it needs the padding mask.
        padded = tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            states = model(**padded).last_hidden_state.float()
        mask = padded["attention_mask"][:, :, None].float()
        out[batch] = ((states * mask).sum(1) / mask.sum(1).clamp_min(1)).cpu().numpy()
        done += len(batch)
        if progress is not None:
            progress(done // 2, len(texts) // 2)
    return out
