"""Difficulty of a response for the target model: UPD, loss and entropy (D3, arXiv 2503.11441).

    UPD = mean_t sigmoid(L_t) · max(0, 1 - H_t / (ln V)^β)     [second source]

over response tokens, float32, nats. The zero-shot loss is kept beside it: MIWV needs it too.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.kinds import Column, FromForwardPass, Kind, ProvenanceInputs

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals
    from dselect_core.scores.forward_scores import RenderedSample
    from dselect_core.settings.settings import Settings

REVISION = 1
_INFINITY = float("inf")


def provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """The model and β."""
    return {"score": "difficulty", "revision": REVISION, "beta": inputs.settings.difficulty.beta, **inputs.model}


def frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """One row per sample of the batch; upd, loss and entropy are null where no token is scored."""
    assert signals.upd is not None and signals.loss is not None and signals.entropy is not None
    rendered = [sample.rendered for sample in samples]

    def null_unless_finite(values: np.ndarray) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    return pl.DataFrame(
        {
            "sample_id": [sample.id for sample in samples],
            "upd": null_unless_finite(signals.upd),
            "loss": null_unless_finite(signals.loss),
            "entropy": null_unless_finite(signals.entropy),
            "prompt_tokens": [r.prompt_tokens for r in rendered],
            "response_tokens": [r.response_tokens for r in rendered],
            "cut_prompt_tokens": [r.cut_prompt for r in rendered],
            "cut_response_tokens": [r.cut_response for r in rendered],
            "truncated": [r.truncated for r in rendered],
            "reason": [
                None
                if np.isfinite(upd)
                else "no response token to score"
                if not r.response_tokens
                else "loss is not finite"
                for upd, r in zip(signals.upd, rendered, strict=True)
            ],
        },
        schema=DIFFICULTY.schema(),
    )


DIFFICULTY = Kind(
    name="difficulty",
    asset="difficulty_scores",
    description="UPD, loss and mean entropy of each response for the target model (D3, arXiv 2503.11441).",
    columns=(
        Column(
            "upd",
            pl.Float32(),
            "uncertainty-based prediction difficulty: mean over response tokens of sigmoid(loss) · certainty",
            value_range=(0.0, 1.0),
            rankable=True,
        ),
        Column(
            "loss",
            pl.Float32(),
            "mean zero-shot loss of the response tokens",
            unit="nats per token",
            value_range=(0.0, _INFINITY),
            rankable=True,
        ),
        Column(
            "entropy",
            pl.Float32(),
            "mean entropy of the model's prediction at the response tokens",
            unit="nats per token",
            value_range=(0.0, _INFINITY),
            rankable=True,
        ),
        Column("prompt_tokens", pl.Int32(), "length of the prompt", unit="tokens", rankable=True, of_text=True),
        Column("response_tokens", pl.Int32(), "length of the response", unit="tokens", rankable=True, of_text=True),
        Column("cut_prompt_tokens", pl.Int32(), "tokens of the prompt beyond the model's window", unit="tokens"),
        Column("cut_response_tokens", pl.Int32(), "tokens of the response beyond the model's window", unit="tokens"),
        Column("truncated", pl.Boolean(), "whether anything was cut to fit the model's window", of_text=True),
        Column("reason", pl.String(), "why there is no score"),
    ),
    value="upd",
    provenance=provenance,
    computation=FromForwardPass(frozenset({"difficulty"}), frame),
    parameters=frozenset({"beta"}),
)
