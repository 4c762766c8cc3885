"""Difficulty of a response for the target model: UPD, loss and entropy (D3, arXiv 2503.11441).

    UPD = mean_t sigmoid(L_t) · max(0, 1 - H_t / (ln V)^β)     [second source]

over response tokens, float32, nats. The zero-shot loss is kept beside it: MIWV needs it too.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.settings.settings import DifficultySpec

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals
    from dselect_core.lm.render import Rendered

REVISION = 1
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "upd": pl.Float32(),
    "loss": pl.Float32(),
    "entropy": pl.Float32(),
    "prompt_tokens": pl.Int32(),
    "response_tokens": pl.Int32(),
    "cut_prompt_tokens": pl.Int32(),
    "cut_response_tokens": pl.Int32(),
    "truncated": pl.Boolean(),
    "reason": pl.String(),
}


def recipe(model: dict[str, Any], spec: DifficultySpec) -> dict[str, Any]:
    return {"score": "difficulty", "revision": REVISION, "beta": spec.beta, **model}


def frame(ids: list[str], rendered: list["Rendered"], signals: "Signals") -> pl.DataFrame:
    """SCHEMA, one row per sequence of the batch; upd, loss and entropy null where no token is scored."""
    assert signals.upd is not None and signals.loss is not None and signals.entropy is not None

    def value(column: np.ndarray) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in column]

    return pl.DataFrame(
        {
            "sample_id": ids,
            "upd": value(signals.upd),
            "loss": value(signals.loss),
            "entropy": value(signals.entropy),
            "prompt_tokens": [r.prompt_tokens for r in rendered],
            "response_tokens": [r.response_tokens for r in rendered],
            "cut_prompt_tokens": [r.cut_prompt for r in rendered],
            "cut_response_tokens": [r.cut_response for r in rendered],
            "truncated": [r.truncated for r in rendered],
            "reason": [
                None
                if np.isfinite(u)
                else "no response token to score"
                if not r.response_tokens
                else "loss is not finite"
                for u, r in zip(signals.upd, rendered, strict=True)
            ],
        },
        schema=SCHEMA,
    )
