"""The training loss of a batch: body, then the output layer only where a token is scored, a block at a time.

Logits of a whole batch would be the largest thing in memory (4,096 tokens × 262,144 entries are 4 GB). So loss and
gradient of a plain output layer are computed together, block by block, and no logits are kept for the backward pass
(the idea of Liger's fused linear cross-entropy, arXiv 2410.10989). A layer that scales or caps its logits runs the
model's own code, twice: once for the loss, once more for the gradient (torch's checkpoint).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dselect_core.lm import packing
from dselect_core.lm.forward import Forward
from dselect_core.lm.loss import OwnHead
from dselect_core.lm.tuning import Example

# Logits (positions × vocabulary) in memory at once. From 2**22 to 2**24 the time is the same within 6%.
_CELLS = 2**23


def summed_loss(forward: Forward, examples: Sequence[Example], bf16: bool) -> Tensor:
    """Sum of the losses of all scored tokens, nats, float32, with its gradient. One flat batch, or one padded one."""
    sequences = [packing.Sequence(None, example.ids, _scored(example)) for example in examples]
    with torch.autocast(forward.device.type, torch.bfloat16, enabled=bf16):
        if forward.packs:
            layout = packing.flat(sequences)
            states, _ = forward.packed_states(layout)
        else:
            layout, longest = packing.padded(sequences)
            states = forward.padded_states(layout, longest)
        predecessor, target, _ = layout.scored()
        head_device = forward.head.weight.device
        chosen = states[torch.from_numpy(predecessor).to(states.device)].to(head_device)
        targets = torch.from_numpy(target).to(head_device)
        if forward.plain_head:
            kind = torch.bfloat16 if bf16 else chosen.dtype
            head_loss: Any = _HeadLoss
            loss: Tensor = head_loss.apply(chosen, targets, forward.head.weight, forward.head.bias, kind)
            return loss
        own_head = OwnHead(forward.model, forward.body)
        rows = max(1, _CELLS // forward.vocabulary)
        parts = zip(chosen.split(rows), targets.split(rows), strict=True)
        losses = [checkpoint(_own_loss, own_head, *part, use_reentrant=False) for part in parts]
        return torch.stack(losses).sum()


def _scored(example: Example) -> Any:
    scored = example.scored.astype(bool)
    scored[0] = False
    return scored


def _own_loss(head: OwnHead, states: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(states).float(), targets, reduction="sum")


class _HeadLoss(torch.autograd.Function):
    """Sum of -log softmax(states · weightᵀ + bias)[target], and its gradient, without all logits at once."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, kind: Any) -> Tensor:
        """states [n, d], targets [n], weight [V, d], bias [V] → scalar; kind: the type of the products."""
        tuned = weight.requires_grad
        with torch.autocast(states.device.type, enabled=False):
            matrix = weight.to(kind)
            state_gradient = torch.empty_like(states)
            weight_gradient = torch.zeros_like(weight) if tuned else None
            bias_gradient = torch.zeros_like(bias) if tuned and bias is not None else None
            total = torch.zeros((), dtype=torch.float32, device=states.device)
            rows = max(1, _CELLS // len(weight))
            for start in range(0, len(states), rows):
                h, target = states[start : start + rows].to(kind), targets[start : start + rows, None]
                z = nn.functional.linear(h, matrix, None if bias is None else bias.to(kind)).float()
                top = torch.logsumexp(z, dim=1, keepdim=True)
                total += (top - z.gather(1, target)).sum()
                p = z.sub_(top).exp_()
                p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))
                if bias_gradient is not None:
                    bias_gradient += p.sum(0)
                p = p.to(kind)
                state_gradient[start : start + rows] = p @ matrix
                if weight_gradient is not None:
                    weight_gradient += p.T @ h
        ctx.save_for_backward(state_gradient, weight_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that `forward` found, times the gradient of the sum."""
        states, weight, bias = ctx.saved_tensors
        scaled = [None if each is None else each.mul_(gradient.to(each.dtype)) for each in (states, weight, bias)]
        return scaled[0], None, scaled[1], scaled[2], None
