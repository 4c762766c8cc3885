"""A tuned model on disk: LoRA's matrices (megabytes) where there are some, else all weights.

Both are in the layouts that PEFT and transformers read.
"""

from pathlib import Path
from typing import Any

from dselect_core.errors import DselectError
from dselect_core.lm.tuning import Tuned

_WEIGHTS = "model.safetensors"


def save_tuned(tuned: Tuned, folder: Path) -> None:
    """Write what `load_tuned` needs beside the model that was tuned: files directly inside `folder`."""
    from safetensors.torch import save_file

    if tuned.lora is not None:
        tuned.lora.save(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().cpu().contiguous() for name, p in tuned.model.named_parameters()}
    save_file(weights, folder / _WEIGHTS, {"format": "pt"})
    tuned.model.config.save_pretrained(folder)


def load_tuned(model: Any, folder: Path) -> Any:
    """Give `model`, the one that was tuned, the weights in `folder`, in place; it scores as the tuned one did.

    Returns the model. Raises DselectError when they are another model's, FileNotFoundError when there are none.
    """
    import torch
    from safetensors import safe_open

    from dselect_core.lm.lora import ADAPTER, Lora

    if (folder / ADAPTER).exists():
        Lora.load(folder).merge_into(model)
        return model
    own = dict(model.named_parameters())
    with safe_open(folder / _WEIGHTS, framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        shapes = {name: list(parameter.shape) for name, parameter in own.items()}
        if names != set(own) or any(file.get_slice(name).get_shape() != shapes[name] for name in names):
            raise DselectError(f"{folder}: these weights are another model's")
        for name, parameter in own.items():
            parameter.copy_(file.get_tensor(name))
    return model
