"""The loops that scoring scripts are: a row at a time through the whole causal LM, full logits, float32.

- **two passes**: zero-shot for loss, entropy, UPD, embeddings and activations together, then one-shot for the loss.
- **four passes**: each score by itself, as the papers' and the peers' scripts run: UPD; the zero-shot loss that MIWV
  and IFD need; the one-shot loss; hidden states and activations. Each calls the model as one does, with its output
  layer: the last pass too, though nobody reads its logits (RDS+ and Cherry_LLM do the same).

Both are at their best setting on a CPU: batch 1, nothing padded, no cache, inference mode. They are given our token
ids, already rendered, so tokenising costs them nothing and what they give can be compared with ours number by number.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sequence:
    """ids: [1, T]; scored: positions of the response tokens; prompt: tokens before the first of them."""

    ids: Tensor
    scored: Tensor
    prompt: int


@dataclass
class Scores:
    """A value or a vector per row; neurons: the active ones' ids, ascending, layer · width + neuron."""

    upd: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    one_shot_loss: list[float] = field(default_factory=list)
    state: list[np.ndarray] = field(default_factory=list)
    prompt_state: list[np.ndarray] = field(default_factory=list)
    neurons: list[np.ndarray] = field(default_factory=list)


def sequence(ids: np.ndarray, response: np.ndarray) -> Sequence:
    scored = np.flatnonzero(response)
    return Sequence(torch.from_numpy(ids.astype(np.int64))[None], torch.from_numpy(scored), int(scored[0]))


@torch.inference_mode()
def two_pass(model: Any, zero: list[Sequence], one: list[Sequence], top_share: float) -> Scores:
    scores = Scores()
    with _mlp_values(model) as values:
        for row, shown in zip(zero, one, strict=True):
            out = model(input_ids=row.ids, output_hidden_states=True, use_cache=False)
            _difficulty(scores, out.logits, row)
            _vectors(scores, out.hidden_states[-1], values, row, top_share)
            out = model(input_ids=shown.ids, use_cache=False)
            scores.one_shot_loss.append(_loss(out.logits, shown))
    return scores


@torch.inference_mode()
def four_pass(model: Any, zero: list[Sequence], one: list[Sequence], top_share: float) -> Scores:
    scores = Scores()
    for row in zero:
        _difficulty(scores, model(input_ids=row.ids, use_cache=False).logits, row)
    scores.loss = [_loss(model(input_ids=row.ids, use_cache=False).logits, row) for row in zero]
    scores.one_shot_loss = [_loss(model(input_ids=row.ids, use_cache=False).logits, row) for row in one]
    with _mlp_values(model) as values:
        for row in zero:
            out = model(input_ids=row.ids, output_hidden_states=True, use_cache=False)
            _vectors(scores, out.hidden_states[-1], values, row, top_share)
    return scores


def _difficulty(scores: Scores, logits: Tensor, row: Sequence) -> None:
    log_p = F.log_softmax(logits[0, row.scored - 1], dim=-1)
    loss = -log_p.gather(1, row.ids[0, row.scored][:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    upd = torch.sigmoid(loss) * (1 - entropy / math.log(logits.shape[-1])).clamp_min(0)
    scores.upd.append(upd.mean().item())
    scores.loss.append(loss.mean().item())
    scores.entropy.append(entropy.mean().item())


def _loss(logits: Tensor, row: Sequence) -> float:
    return F.cross_entropy(logits[0, row.scored - 1], row.ids[0, row.scored]).item()


def _vectors(scores: Scores, states: Tensor, values: dict[int, Tensor], row: Sequence, top_share: float) -> None:
    scores.state.append(states[0].mean(0).numpy())
    scores.prompt_state.append(states[0, : row.prompt].mean(0).numpy())
    active = []
    for layer, value in values.items():
        mean = value[0, : row.prompt].abs().mean(0)
        active.append(mean.topk(max(1, int(len(mean) * top_share))).indices.sort().values + layer * len(mean))
    scores.neurons.append(torch.cat(active).numpy())


@contextmanager
def _mlp_values(model: Any) -> Iterator[dict[int, Tensor]]:
    """What entered each layer's down projection in the latest call, [1, T, m] by layer."""
    values: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, given: tuple[Tensor, ...]) -> None:
            values[layer] = given[0]

        return hook

    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(keep(number)) for number, layer in enumerate(model.model.layers)
    ]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()
