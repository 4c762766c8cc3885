"""Attention over a flat batch: every sequence sees itself and its root, and nothing else.

The attention function that transformers' models look up by name (`AttentionInterface`), so the linear layers of any
family run on all tokens at once and only attention goes sequence by sequence. One call of torch's kernel a sequence and
layer: on a CPU that costs less than the padding of larger calls. Sliding windows and soft-capped logits are done here;
what cannot be told from the arguments (biases by position, attention sinks) is refused, and the model falls back to
padded batches (forward.py).
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dselect_core.lm.packing import Layout

NAME = "dselect_packed"


@dataclass
class _Batch:
    """The flat batch that runs. masks: by (tokens, root tokens, window, device), for all layers; windows: asked for."""

    layout: Layout
    masks: dict[tuple[int, int, int | None, torch.device], Tensor] = field(default_factory=dict)
    windows: set[int | None] = field(default_factory=set)


_running: ContextVar[_Batch | None] = ContextVar("running", default=None)

# Arguments that change what attention gives, and are not done here.
_REFUSED = ("position_bias", "s_aux", "sinks", "head_mask", "cu_seq_lens_q")


class CannotPackError(Exception):
    """This architecture's attention cannot run on a flat batch."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, N, d], key and value [1, key-value heads, N, d] → [1, N, heads, d_value]."""
    batch = _running.get()
    if batch is None or query.shape[0] != 1 or query.shape[2] != len(batch.layout.ids) or attention_mask is not None:
        raise CannotPackError("called without a flat batch")
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if refused or not getattr(module, "is_causal", True):
        raise CannotPackError(f"{type(module).__name__} needs {', '.join(refused) or 'both directions'}")
    batch.windows.add(sliding_window)
    out = value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    shared = query.shape[1] != key.shape[1]
    for (start, end), (root, root_end) in zip(batch.layout.spans, batch.layout.roots, strict=True):
        q, k, v = (states[:, :, start:end] for states in (query, key, value))
        before = root_end - root
        if before:
            k = torch.cat([key[:, :, root:root_end], k], dim=2)
            v = torch.cat([value[:, :, root:root_end], v], dim=2)
        beyond = sliding_window is not None and before + end - start > sliding_window
        masked = before or beyond or softcap is not None
        mask = _mask(batch, end - start, before, sliding_window, q.device) if masked else None
        if softcap is not None:
            assert mask is not None
            seen = _soft_capped(q, k, v, mask, scaling, softcap)
        else:
            seen = nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=shared
            )
        out[:, start:end] = seen.transpose(1, 2)
    return out, None


def _mask(batch: _Batch, tokens: int, before: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean [tokens, before + tokens], True where a token is seen: none that follows, none a window or more back."""
    at = (tokens, before, window, device)
    if at not in batch.masks:
        distance = torch.arange(before, before + tokens)[:, None] - torch.arange(before + tokens)[None]
        seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        batch.masks[at] = seen.to(device)
    return batch.masks[at]


def _soft_capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, softcap: float) -> Tensor:
    """cap · tanh(q·k / cap) in front of the softmax (Gemma 2), float32 inside; no kernel of torch's does it."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    weights = torch.matmul(q, k.transpose(2, 3)).float() * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = (torch.tanh(weights / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return torch.matmul(torch.softmax(weights, dim=-1).to(v.dtype), v)


@contextlib.contextmanager
def packed(model: nn.Module, layout: Layout) -> Iterator[set[int | None]]:
    """Within, the model's attention follows `layout`; gives the sliding windows that its layers asked for."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    own = {at: config._attn_implementation for at, config in configs.items()}
    batch = _Batch(layout)
    token = _running.set(batch)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield batch.windows
    finally:
        for at, config in configs.items():
            config._attn_implementation = own[at]
        _running.reset(token)
