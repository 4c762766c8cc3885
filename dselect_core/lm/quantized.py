"""Checkpoints of quantised weights (torchao, compressed-tensors, bitsandbytes, GPTQ, …), as transformers opens them.

They are scored as they are. What is not done, and said: products in another type than the checkpoint's packing knows,
and tuning, for merged LoRA weights would have to be packed anew. A GGUF file is none of these: gguf_file.py unpacks it.
Opened and scored here is torchao's on a CPU alone; kinds that need a GPU were never run.
"""

from typing import Any

from dselect_core.errors import DselectError
from dselect_core.lm.numeric_type import MIXED


def packing(config: Any) -> str | None:
    """How the weights of a model are packed, by the name of the method; None for ordinary weights."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def check_type(path: str, config: Any, dtype: str) -> None:
    """Raises DselectError where the settings ask for products in another type."""
    if (method := packing(config)) is not None and dtype == MIXED:
        raise DselectError(
            f"model {path}: its weights are quantised ({method}), and have products of their own. Say `dtype: auto`, "
            "or leave it out."
        )


def check_tunable(config: Any) -> None:
    """Raises DselectError for a model that would have to be unpacked first."""
    if (method := packing(config)) is not None:
        raise DselectError(
            f"its weights are quantised ({method}), and such a model is scored here, not tuned. Name one with ordinary "
            "weights: `trials: {model: …}` for trials, `model` for rounds and warm-ups."
        )
