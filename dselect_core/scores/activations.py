"""Active neurons of a sample (MADS, arXiv 2605.30857, of which only the abstract is known; the rest is [ours]).

Value of a neuron: |what enters the MLP's down projection| (`|act(gate)·up|` in gated MLPs), mean over the
prompt's tokens (or all), so length gives no advantage. In a mixture of experts the neurons of a layer are those of all
its experts, 0 on tokens that are not routed to them (lm/neurons.py). Active: the top share of each layer, so all sets
have one size. Stored as one fixed-width row of ids: layer · width + neuron.
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


def provenance(inputs: ProvenanceInputs) -> dict[str, Any]:
    """The model, which tokens and layers count, and which share of the neurons is active."""
    spec = inputs.settings.activations
    return {"score": "activations", "revision": REVISION, **spec.model_dump(), **inputs.model}


def active_neurons(values: dict[int, np.ndarray], top_share: float) -> np.ndarray:
    """{layer: [B, m_layer]} → uint32 [B, Σ k_layer], the ids of each layer's k = max(1, ⌊share·m⌋) largest values.

    Ids are layer · (widest layer) + neuron, ascending in a row; equal values go to the lower neuron.
    """
    stride = max(v.shape[1] for v in values.values())
    ids_by_layer = []
    for layer, value in sorted(values.items()):
        k = max(1, int(value.shape[1] * top_share))
        top = np.argsort(-value, axis=1, kind="stable")[:, :k]
        ids_by_layer.append(np.sort(top, axis=1) + layer * stride)
    return np.concatenate(ids_by_layer, axis=1).astype(np.uint32)


def frame(samples: "list[RenderedSample]", signals: "Signals", settings: "Settings") -> pl.DataFrame:
    """One row per sample of the batch; neurons are null where a value is not finite."""
    neurons = active_neurons(signals.neurons, settings.activations.top_share)
    finite = np.all([np.isfinite(v).all(1) for v in signals.neurons.values()], axis=0)
    ids = [sample.id for sample in samples]
    scored = pl.DataFrame(
        {"sample_id": ids, "neurons": neurons, "reason": pl.Series([None] * len(ids), dtype=pl.String)},
        schema=ACTIVATIONS.schema(neurons.shape[1]),
    )
    if finite.all():
        return scored
    keep = pl.Series(finite)
    return scored.with_columns(
        pl.when(keep).then(pl.col("neurons")), reason=pl.when(~keep).then(pl.lit("activation is not finite"))
    )


ACTIVATIONS = Kind(
    name="activations",
    asset="activations",
    description="Active neurons of each layer on the prompt (MADS, arXiv 2605.30857; our reading of its abstract).",
    columns=(
        Column(
            "neurons", pl.UInt32(), "ids of the active neurons: layer · widest layer + neuron, ascending", vector=True
        ),
        Column("reason", pl.String(), "why there is no score"),
    ),
    value="neurons",
    array="neurons",
    pool_field="neurons",
    provenance=provenance,
    computation=FromForwardPass(frozenset({"activations"}), frame),
)
