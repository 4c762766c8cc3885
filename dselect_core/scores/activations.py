"""Active neurons of a sample (MADS, arXiv 2605.30857, of which only the abstract is known; the rest is [ours]).

Value of a neuron: |what enters the MLP's down projection| (`|act(gate)·up|` in gated MLPs), mean over the
prompt's tokens (or all), so length gives no advantage. Active: the top share of each layer, so all sets
have one size. Stored as one fixed-width row of ids: layer · width + neuron.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.settings.settings import ActivationSpec

if TYPE_CHECKING:
    from dselect_core.lm.forward import Signals

REVISION = 1


def schema(active: int) -> dict[str, pl.DataType]:
    return {"sample_id": pl.String(), "neurons": pl.Array(pl.UInt32(), active), "reason": pl.String()}


def recipe(model: dict[str, Any], spec: ActivationSpec) -> dict[str, Any]:
    return {"score": "activations", "revision": REVISION, **spec.model_dump(), **model}


def active_neurons(values: dict[int, np.ndarray], top_share: float) -> np.ndarray:
    """{layer: [B, m_layer]} → uint32 [B, Σ k_layer], the ids of each layer's k = max(1, ⌊share·m⌋) largest values.

    Ids are layer · (widest layer) + neuron, ascending in a row; equal values go to the lower neuron.
    """
    stride = max(v.shape[1] for v in values.values())
    found = []
    for layer, value in sorted(values.items()):
        k = max(1, int(value.shape[1] * top_share))
        top = np.argsort(-value, axis=1, kind="stable")[:, :k]
        found.append(np.sort(top, axis=1) + layer * stride)
    return np.concatenate(found, axis=1).astype(np.uint32)


def frame(ids: list[str], signals: "Signals", spec: ActivationSpec) -> pl.DataFrame:
    """`schema`, one row per sequence of the batch; null where a value is not finite."""
    neurons = active_neurons(signals.neurons, spec.top_share)
    finite = np.all([np.isfinite(v).all(1) for v in signals.neurons.values()], axis=0)
    built = pl.DataFrame(
        {"sample_id": ids, "neurons": neurons, "reason": pl.Series([None] * len(ids), dtype=pl.String)},
        schema=schema(neurons.shape[1]),
    )
    if finite.all():
        return built
    keep = pl.Series(finite)
    return built.with_columns(
        pl.when(keep).then(pl.col("neurons")), reason=pl.when(~keep).then(pl.lit("activation is not finite"))
    )
