"""Neurons of a model: which module of a layer has them, and their mean |value| over tokens, taken as the model runs.

A neuron's value is what the down projection of the MLP receives. In a mixture of experts [ours] the layer's neurons are
those of all its experts, routed and shared, side by side; a routed expert's neuron is 0 on the tokens that are not
routed to it. The values of routed experts never leave the kernels of transformers, so they are computed a second time,
for the tokens that count: about two thirds of the experts' work on these. Every layer is measured, or none: a part of
a model must not pass for the whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dselect_core.errors import DselectError

# The last linear layer of an MLP in each family: Llama/Qwen/Mistral/Gemma/OLMo, GPT-2, GPT-NeoX, Phi, GPT-J, OPT, and
# Llama 4, Jamba, LFM2, Granite's shared expert. The first name that a layer has is taken; all, beside experts.
_DOWN = (
    *("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "mlp.fc_out", "fc2"),
    *("down_proj", "feed_forward.w2", "output_linear"),
)


@dataclass(frozen=True)
class Layer:
    """Where the neurons of one layer are. down: down projections of MLPs; experts: modules that hold routed experts."""

    down: tuple[nn.Module, ...]
    experts: tuple[nn.Module, ...]


def neuron_layers(body: nn.Module) -> list[Layer]:
    """The layers of a decoder, in their order. Raises DselectError when the neurons of any of them are not known."""
    stacks = [[_layer(child) for child in stack] for stack in _outermost_lists(body)]
    layers = [layer for stack in stacks if any(layer.down or layer.experts for layer in stack) for layer in stack]
    if not layers:
        raise DselectError(
            f"no MLP down projection found in {type(body).__name__}; activations need one of {', '.join(_DOWN)}"
        )
    unknown = [number for number, layer in enumerate(layers) if not (layer.down or layer.experts)]
    if unknown:
        raise DselectError(
            f"{type(body).__name__}: the neurons of {len(unknown)} of its {len(layers)} layers are not known (layers "
            f"{_some(unknown)}), so its activations cannot be measured"
        )
    measured = {id(module) for layer in layers for part in (*layer.down, *layer.experts) for module in part.modules()}
    for name, module in body.named_modules():
        if _is_expert(name, module) and not any(id(inner) in measured for inner in module.modules()):
            raise DselectError(
                f"{type(body).__name__}: the neurons of its experts ({name}, {type(module).__name__}) are not known, "
                "so its activations cannot be measured"
            )
    return layers


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")


def _outermost_lists(body: nn.Module) -> Iterator[nn.ModuleList]:
    for child in body.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)


def _layer(layer: nn.Module) -> Layer:
    experts = tuple(module for module in layer.modules() if _is_known_experts(module))
    inside = {id(module) for part in experts for module in part.modules()}
    # Experts in a plain list see only their own tokens, so what they receive says not whose it is.
    apart = {"experts", "attn", "self_attn", "attention"}
    named = [
        (f".{name}", m) for name, m in layer.named_modules() if id(m) not in inside and not apart & {*name.split(".")}
    ]
    found = [tuple(module for name, module in named if name.endswith(f".{suffix}")) for suffix in _DOWN]
    if experts:  # beside a dense MLP of one name there may be shared experts of another
        return Layer(tuple({id(module): module for of_suffix in found for module in of_suffix}.values()), experts)
    return Layer(next(filter(None, found), ()), ())


def _is_known_experts(module: nn.Module) -> bool:
    """Whether it holds experts as transformers writes them now (`use_experts_implementation`), or Llama 4's."""
    weights = getattr(module, "down_proj", None)
    if not isinstance(weights, Tensor) or weights.dim() != 3:
        return False
    return (hasattr(module, "_apply_gate") and hasattr(module, "is_transposed")) or _is_llama4(module)


def _is_llama4(module: nn.Module) -> bool:
    return type(module).__name__ == "Llama4TextExperts"


def _is_expert(name: str, module: nn.Module) -> bool:
    last = name.rpartition(".")[2].lower()
    if last.endswith(("gate", "router")) or next(module.parameters(), None) is None:
        return False
    return "expert" in last or "expert" in type(module).__name__.lower()


class NeuronRecorder:
    """While it is attached, sums |values| of neurons over spans of the tokens that a batch runs."""

    def __init__(self, layers: list[Layer], spans: list[tuple[int, int]], chosen: list[int] | None):
        """spans: [start, end) of each pooled sequence's tokens; chosen: numbers of layers, all by default.

        Raises DselectError for a number above the last.
        """
        check_layers(len(layers), chosen)
        numbers = range(len(layers)) if chosen is None else chosen
        self._spans = spans
        self._parts: dict[tuple[int, int], Tensor] = {}
        self._owner: Tensor | None = None
        self._hooks: list[Any] = []
        for number in numbers:
            for at, module in enumerate((*layers[number].down, *layers[number].experts)):
                take = self._take_experts if at >= len(layers[number].down) else self._take_down
                self._hooks.append(module.register_forward_pre_hook(self._hook((number, at), take), with_kwargs=True))

    def detach(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def values(self) -> dict[int, np.ndarray]:
        """{layer: float32 [spans, neurons]}: mean |value| over each span, so that length gives no advantage."""
        counts = torch.tensor([max(1, end - start) for start, end in self._spans])[:, None]
        by_layer: dict[int, list[Tensor]] = {}
        for number, at in sorted(self._parts):
            by_layer.setdefault(number, []).append(self._parts[number, at])
        return {number: (torch.cat(parts, 1) / counts).numpy() for number, parts in by_layer.items()}

    @staticmethod
    def _hook(key: tuple[int, int], take: Any) -> Any:
        def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            take(key, module, [*args, *kwargs.values()])

        return capture

    def _take_down(self, key: tuple[int, int], _module: nn.Module, inputs: list[Any]) -> None:
        values = inputs[0].reshape(-1, inputs[0].shape[-1])
        # Sums of slices avoid a copy of all values.
        sums = [values[start:end].abs().sum(0, dtype=torch.float32) for start, end in self._spans]
        self._parts[key] = torch.stack(sums).cpu()

    def _take_experts(self, key: tuple[int, int], experts: nn.Module, inputs: list[Any]) -> None:
        down: Tensor = experts.down_proj  # type: ignore[assignment]
        width = down.shape[1] if _is_llama4(experts) or experts.is_transposed else down.shape[2]
        sums = torch.zeros(len(self._spans), down.shape[0], width)
        for expert, tokens, states in _routed(experts, inputs):
            owner = self._owners(tokens)
            counted = owner >= 0
            if counted.any():
                values = _expert_values(experts, expert, states[counted]).abs().float()
                # A product, for sums by index are not repeatable on a GPU.
                of_span = (owner[counted][None] == torch.arange(len(self._spans), device=owner.device)[:, None]).float()
                sums[:, expert] = (of_span @ values).cpu()
        self._parts[key] = sums.flatten(1)

    def _owners(self, tokens: Tensor) -> Tensor:
        """The number of each token's span, -1 for a token in none."""
        starts = torch.tensor([start for start, _ in self._spans], device=tokens.device)
        ends = torch.tensor([end for _, end in self._spans], device=tokens.device)
        inside = (tokens[:, None] >= starts) & (tokens[:, None] < ends)
        return torch.where(inside.any(1), inside.int().argmax(1), -1)


def check_layers(count: int, chosen: list[int] | None) -> None:
    """Raises DselectError when `activations.layers` names a layer that the model does not have."""
    if any(layer >= count for layer in chosen or ()):
        raise DselectError(f"activations.layers names a layer above {count - 1}, the model's last")


def _routed(experts: nn.Module, inputs: list[Any]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each expert that is used, the offsets of its tokens int64 [n], and their states [n, d]."""
    down: Tensor = experts.down_proj  # type: ignore[assignment]
    states = inputs[0].reshape(-1, inputs[0].shape[-1])
    if _is_llama4(experts):
        # All tokens for each expert, zeros where a token is not routed to it.
        for expert, of_expert in enumerate(states.view(down.shape[0], -1, states.shape[-1])):
            tokens = of_expert.any(1).nonzero()[:, 0]
            if len(tokens):
                yield expert, tokens, of_expert[tokens]
        return
    chosen: Tensor = inputs[1].reshape(len(states), -1)
    for expert in chosen.unique().tolist():
        if expert < down.shape[0]:  # beyond: a token that no expert here takes
            tokens = (chosen == expert).any(1).nonzero()[:, 0]
            yield expert, tokens, states[tokens]


def _expert_values(experts: Any, expert: int, states: Tensor) -> Tensor:
    """[n, d] → [n, m]: what the expert's down projection receives."""
    if _is_llama4(experts):
        gate, up = (states @ experts.gate_up_proj[expert]).chunk(2, dim=-1)
        of_llama4: Tensor = up * experts.act_fn(gate)
        return of_llama4
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    weight = getattr(experts, name)[expert]
    projected = states @ (weight if experts.is_transposed else weight.T)
    if experts.has_bias:
        projected = projected + getattr(experts, f"{name}_bias")[expert]
    activate = experts._apply_gate if experts.has_gate else experts.act_fn
    values: Tensor = activate(projected)
    return values
