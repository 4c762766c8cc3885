"""Last states → loss and entropy per token, with the logits of only one block in memory.

A block (positions × vocabulary) is small enough for the cache and is read once: a running maximum m, Σ exp(z - m) and
Σ exp(z - m)·(z - m) give loss and entropy, in float32 for any type of the model. This adds a few per cent to the matrix
product. Whole rows of logits, written and read again, would double its cost.

A model that scales or caps its logits (Gemma 2, Cohere, Granite) runs its own code on each block of states, for the
whole vocabulary at once: `OwnHead`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Positions × vocabulary of a block: it fits into a CPU's cache; a GPU is faster with larger products.
_CPU_BLOCK = (512, 1024)
_GPU_BLOCK = (4096, 32_768)
# Logits in memory at once where the vocabulary cannot be cut.
_WHOLE_ROWS = 2**24

Logits = Callable[[Tensor], Tensor]


def loss_and_entropy(
    states: Tensor,
    targets: Tensor,
    head: nn.Linear,
    block: tuple[int, int] | None = None,
    products: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """states [n, d], targets int64 [n] → loss and entropy in nats, float32 [n] each, of softmax(head(states)).

    loss = lse - z_target, entropy = lse - Σ p·z (D3, arXiv 2503.11441, the entropy of its UPD), both relative to the
    maximum, so that large logits cost no digits. block: positions and vocabulary entries computed at a time. products:
    the type of the matrix products, by default the model's; block by block, so that no second copy of the head is held.
    """
    products = products or head.weight.dtype
    rows, columns = block or (_CPU_BLOCK if states.device.type == "cpu" else _GPU_BLOCK)
    losses, entropies = [], []
    for start in range(0, len(states), rows):
        h = states[start : start + rows].to(products)
        # Not -inf: the first block multiplies the empty sums by the distance from this maximum.
        top = torch.full((len(h), 1), torch.finfo(torch.float32).min / 4, device=h.device)
        total = torch.zeros_like(top)
        weighted = torch.zeros_like(top)
        target = torch.empty_like(top)
        target_ids = targets[start : start + rows, None]
        for first in range(0, head.out_features, columns):
            bias = None if head.bias is None else head.bias[first : first + columns].to(products)
            z = nn.functional.linear(h, head.weight[first : first + columns].to(products), bias).float()
            in_block = (target_ids >= first) & (target_ids < first + z.shape[1])
            target = torch.where(in_block, z.gather(1, (target_ids - first).clamp(0, z.shape[1] - 1)), target)
            new_top = torch.maximum(top, z.amax(1, keepdim=True))
            shift = top - new_top
            shrink = torch.exp(shift)
            z -= new_top
            e = z.exp()
            weighted = (weighted + total * shift) * shrink + z.mul_(e).sum(1, keepdim=True)
            total = total * shrink + e.sum(1, keepdim=True)
            top = new_top
        losses.append(total.log() + (top - target))
        entropies.append(total.log() - weighted / total)
    return _joined(losses), _joined(entropies)


def loss_and_entropy_of(logits: Logits, states: Tensor, targets: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """As `loss_and_entropy`, from whole rows of logits: `logits` maps states [m, d] to [m, vocabulary]."""
    rows = max(1, _WHOLE_ROWS // vocabulary)
    losses, entropies = [], []
    for start in range(0, len(states), rows):
        z = logits(states[start : start + rows]).float()
        log_p = torch.log_softmax(z, dim=1)
        losses.append(-log_p.gather(1, targets[start : start + rows, None]))
        entropies.append(-(log_p.exp() * log_p).sum(1, keepdim=True))
    return _joined(losses), _joined(entropies)


def _joined(columns: list[Tensor]) -> Tensor:
    return torch.cat(columns)[:, 0] if columns else torch.empty(0)


class OwnHead:
    """The model's own code from last states to logits: during a call, a stub that returns the states is its body."""

    def __init__(self, model: nn.Module, body: nn.Module):
        self._model = model
        path = next(name for name, module in model.named_modules() if module is body)
        parent, _, self._name = path.rpartition(".")
        self._parent = model.get_submodule(parent)

    def __call__(self, states: Tensor) -> Tensor:
        """Last states [positions, d] → logits [positions, V]."""
        body = getattr(self._parent, self._name)
        setattr(self._parent, self._name, _StubBody(states[None]))
        try:
            logits: Tensor = self._model(input_ids=None, inputs_embeds=states[None], use_cache=False).logits[0]
        finally:
            setattr(self._parent, self._name, body)
        return logits


class _StubBody(nn.Module):
    def __init__(self, states: Tensor):
        super().__init__()
        self._states = states

    def forward(self, *_: Any, **__: Any) -> Any:
        """The states, as the output of a body."""
        return _StubOutput(last_hidden_state=self._states)


class _StubOutput:
    """A body's output as a tuple and as an object.

    None is all that it says of what some families return beside the states (router logits, cross attentions).
    """

    def __init__(self, last_hidden_state: Tensor):
        self.last_hidden_state = last_hidden_state

    def __getitem__(self, at: Any) -> Any:
        return (self.last_hidden_state,)[at]

    def __getattr__(self, _: str) -> None:
        return None
