"""Attention over a flat batch: every sequence sees itself and its root, and nothing else.

The models of transformers look up this function by name (`AttentionInterface`). So the linear layers of any family run
on all tokens at once, and only attention runs sequence by sequence: one call of torch's kernel per sequence and layer.
On a CPU that costs less than the padding of larger calls. Sliding windows and soft-capped logits are computed here.
Arguments that this function does not support (biases by position, attention sinks) are refused, and the model falls
back to padded batches (forward.py).
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
# Heads × queries × keys that attend at a time where a mask is needed, or scores are capped (these have no kernel).
_CELLS = 2**26
_CAPPED_CELLS = 2**22
# Up to here the gradient of torch's CPU kernel takes less time in float32 than in bfloat16: 0.46 and 1.2 ms for 60
# tokens, 2.4 and 4.1 ms for 160, 14 ms both for 400 (9 heads × 64).
_FLOAT32_TOKENS = 400


@dataclass
class _Batch:
    """The flat batch that runs now.

    masks: by (tokens, keys in front, window, device), shared by all layers; windows: the sliding windows of the layers.
    """

    layout: Layout
    masks: dict[tuple[int, int, int | None, torch.device], Tensor] = field(default_factory=dict)
    windows: set[int | None] = field(default_factory=set)


_running: ContextVar[_Batch | None] = ContextVar("running", default=None)

# Arguments that change the result of attention and are not supported here.
_UNSUPPORTED = ("position_bias", "s_aux", "sinks", "head_mask", "cu_seq_lens_q")


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
    """query [1, heads, N, d], key and value [1, key-value heads, N, d] → [1, N, heads, d_value].

    Raises CannotPackError when no flat batch runs, or the model passes an argument that is not supported here.
    """
    batch = _running.get()
    if batch is None or query.shape[0] != 1 or query.shape[2] != len(batch.layout.ids) or attention_mask is not None:
        raise CannotPackError("called without a flat batch")
    unsupported = [name for name in _UNSUPPORTED if others.get(name) is not None]
    if unsupported or not getattr(module, "is_causal", True):
        raise CannotPackError(f"{type(module).__name__} needs {', '.join(unsupported) or 'both directions'}")
    batch.windows.add(sliding_window)
    width = value.shape[3]
    if query.shape[3] != width:
        # Torch's kernels want one width (DeepSeek's values are narrower); its fallback holds all queries × keys.
        scaling = query.shape[3] ** -0.5 if scaling is None else scaling
        widest = max(query.shape[3], width)
        query, key, value = (nn.functional.pad(x, (0, widest - x.shape[3])) for x in (query, key, value))
    grouped_queries = query.shape[1] != key.shape[1]
    attended = _Attended(value.new_empty(1, query.shape[2], query.shape[1], value.shape[3]))
    # Split in one go: the gradient of a slice is as large as the batch.
    lengths = [end - start for start, end in batch.layout.spans]
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), batch.layout.roots, strict=True)
    for q, k, v, (root, root_end) in parts:
        tokens, root_tokens = q.shape[2], root_end - root
        if root_tokens:
            k = torch.cat([key[:, :, root:root_end], k], dim=2)
            v = torch.cat([value[:, :, root:root_end], v], dim=2)
        window_cuts = sliding_window is not None and k.shape[2] > sliding_window
        if not (root_tokens or window_cuts or softcap is not None):
            attended.append(_causal(q, k, v, scaling, grouped_queries))
            continue
        # A mask of all queries and keys would grow with the square of the length.
        rows = _rows(q.shape[1], k.shape[2], sliding_window, _CAPPED_CELLS if softcap else _CELLS)
        for first in range(0, tokens, rows):
            block = slice(first, min(first + rows, tokens))
            oldest = 0 if sliding_window is None else max(0, root_tokens + first - sliding_window + 1)
            visible = slice(oldest, root_tokens + block.stop)
            mask = _mask(batch, block.stop - first, root_tokens + first - oldest, sliding_window, q.device)
            block_q, block_k, block_v = q[:, :, block], k[:, :, visible], v[:, :, visible]
            if softcap is not None:
                out = _soft_capped(block_q, block_k, block_v, mask, scaling, softcap)
            else:
                out = nn.functional.scaled_dot_product_attention(
                    block_q, block_k, block_v, attn_mask=mask, scale=scaling, enable_gqa=grouped_queries
                )
            attended.append(out)
    return attended.joined()[..., :width], None


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, grouped_queries: bool) -> Tensor:
    own_type = v.dtype
    with contextlib.ExitStack() as stack:
        if torch.is_grad_enabled() and q.device.type == "cpu" and k.shape[2] <= _FLOAT32_TOKENS:
            stack.enter_context(torch.autocast("cpu", enabled=False))
            q, k, v = q.float(), k.float(), v.float()
        return nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped_queries
        ).to(own_type)


class _Attended:
    """Results in the order of the tokens.

    Each is written to its place at once. Where a gradient is wanted, they are joined at the end, since the gradient of
    writing into a part of a tensor is as large as the tensor.
    """

    def __init__(self, place: Tensor):
        self._place = place
        self._parts: list[Tensor] | None = [] if torch.is_grad_enabled() else None
        self._written = 0

    def append(self, part: Tensor) -> None:
        """part: [1, heads, tokens, d]."""
        if self._parts is not None:
            self._parts.append(part.transpose(1, 2))
            return
        self._place[:, self._written : self._written + part.shape[2]] = part.transpose(1, 2)
        self._written += part.shape[2]

    def joined(self) -> Tensor:
        """[1, all tokens, heads, d]."""
        return self._place if self._parts is None else torch.cat(self._parts, dim=1)


def _rows(heads: int, keys: int, window: int | None, cells: int) -> int:
    """How many queries attend at a time, so that heads × queries × keys stays below `cells`."""
    if window is None:
        return max(1, cells // (heads * keys))
    # A block of queries sees the keys of its window, and its own.
    return max(1, min(window, cells // (heads * min(keys, 2 * window))))


def _mask(batch: _Batch, tokens: int, before: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean [tokens, before + tokens]: True for a token that does not follow and is less than a window back.

    before: number of keys in front of the first token.
    """
    key = (tokens, before, window, device)
    if key in batch.masks:
        return batch.masks[key]
    distance = torch.arange(before, before + tokens, device=device)[:, None]
    distance = distance - torch.arange(before + tokens, device=device)[None]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    # The blocks of a long sequence have a mask each; together they would be as large as the one that is avoided.
    if visible.numel() * len(batch.masks) < _CELLS:
        batch.masks[key] = visible
    return visible


def _soft_capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, softcap: float) -> Tensor:
    """Softmax over cap · tanh(q·k / cap), in float32 (Gemma 2, arXiv 2408.00118); torch has no kernel for it."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    weights = torch.matmul(q, k.transpose(2, 3)).float() * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = (torch.tanh(weights / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return torch.matmul(torch.softmax(weights, dim=-1).to(v.dtype), v)


@contextlib.contextmanager
def packed(model: nn.Module, layout: Layout) -> Iterator[set[int | None]]:
    """Inside the context the model's attention follows `layout`. Yields the set of its layers' sliding windows."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    own_implementation = {key: config._attn_implementation for key, config in configs.items()}
    batch = _Batch(layout)
    token = _running.set(batch)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield batch.windows
    finally:
        for key, config in configs.items():
            config._attn_implementation = own_implementation[key]
        _running.reset(token)
