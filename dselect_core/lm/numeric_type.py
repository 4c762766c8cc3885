"""The numeric type in which a model computes: what `dtype: auto` means on this machine, and mixed precision.

`auto` is the checkpoint's own type where the device computes in it, else float32. It is asked once, when a model is
opened for the first time: the answer is part of the model's provenance from then on (target_model.py), so that a
machine without the instructions goes on with the same scores, only slower.

`bf16-mixed` rounds to bfloat16 what enters the products of linear layers, and nothing else: states, norms, softmax and
sums stay float32. On a CPU it takes some 1.2 times as long as bfloat16 throughout. Its scores are nearer to those of
float32, its coresets are not, so `auto` takes bfloat16 (docs/performance.md, Numeric types).
"""

from typing import Any

import torch
from torch import Tensor, nn

from dselect_core.settings.model_spec import ModelSpec

MIXED = "bf16-mixed"
FAST = "bfloat16"
"""What `auto` takes where the device has the instructions: as many rows of a coreset stay as with MIXED."""

_CPUS_WITH_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""What torch calls the instructions of x86 and, the last, of ARM."""

_NOISE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def computes_bf16(device: str) -> bool:
    """Whether the device computes in bfloat16, and not only stores it or converts to float32 and back.

    A CPU without the instructions takes five times as long as for float32 (measured: 30 against 164 GFLOP/s), and
    oneDNN's own question says yes of every CPU with AVX-512.
    """
    if device.startswith("cuda") or device == "balanced":
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        found = torch.cpu.get_capabilities()
        return torch.backends.mkldnn.is_available() and any(found.get(name) for name in _CPUS_WITH_BF16)
    return False


def chosen(spec: ModelSpec, own: torch.dtype | None, device: str) -> str:
    """The type that `spec.dtype` means. own: the checkpoint's; device: as `load.device` names it.

    float16 counts as fast on a GPU alone; a GPU of Apple keeps float32, for nothing was measured there.
    """
    if spec.dtype != "auto":
        return spec.dtype
    if own is torch.float16 and (device.startswith("cuda") or device == "balanced"):
        return "float16"
    if own in (torch.bfloat16, torch.float16) and computes_bf16(device):
        return FAST
    return "float32"


def noise(model: Any) -> float:
    """Relative distance between two ways of computing the same states that is the model's float noise.

    bfloat16 keeps 8 bits of the mantissa, also where only products are in it.
    """
    return max(_NOISE[parameter.dtype] for parameter in model.parameters() if parameter.dtype in _NOISE)


class _MixedLinear(nn.Linear):
    """A linear layer whose product is in bfloat16, of states in float32."""

    def forward(self, states: Tensor) -> Tensor:
        """states [..., d], any float → float32 [..., out]. A weight that is tuned in float32 is rounded here."""
        bias = None if self.bias is None else self.bias.bfloat16()
        return nn.functional.linear(states.bfloat16(), self.weight.bfloat16(), bias).float()


def mix(model: Any) -> None:
    """Turn the linear layers below the output layer to products in bfloat16, and all other weights to float32.

    The output layer stays float32, for it often is the embedding too; loss.py rounds it block by block. Layers that
    are no nn.Linear (routed experts in one tensor, GPT-2's) compute in float32.
    """
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if type(module) is nn.Linear and module is not head]
    inside = {id(parameter) for module in linear for parameter in module.parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16() if id(parameter) in inside else parameter.data.float()
    for module in linear:
        module.__class__ = _MixedLinear


def is_mixed(model: Any) -> bool:
    """Whether `mix` was called on the model."""
    return any(isinstance(module, _MixedLinear) for module in model.modules())
