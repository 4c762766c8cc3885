"""What tuning changes for a while, and puts back: the process's random numbers, the model's switches, its numeric type.

Weights that are tuned are float32 while they are tuned, because small steps vanish in 16 bits. Weights that LoRA leaves
alone stay as they are: with bf16, autocast rounds them for each product. That takes no more time than a rounded copy of
all of them (SmolLM2-135M on a CPU: 274 tokens a CPU second, 258 with a copy), and sums between layers stay exact.
"""

import contextlib
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dselect_core.lm.tuning import TuneSpec


@contextlib.contextmanager
def as_it_was(model: Any, seed: int) -> Iterator[None]:
    """Inside the context random numbers follow from `seed`; afterwards all but the weights is as it was."""
    training = {module: module.training for module in model.modules()}
    tunable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    use_cache = getattr(model.config, "use_cache", None)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed % 2**63)
        # Without dropout: in a flat batch attention has none, and what a run draws would have to be drawn again.
        model.eval()
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for module, was_training in training.items():
                module.training = was_training
            for parameter, was_tunable in tunable.items():
                parameter.grad = None
                parameter.requires_grad_(was_tunable)
            if use_cache is not None:
                model.config.use_cache = use_cache


@contextlib.contextmanager
def weights_for(model: Any, spec: TuneSpec) -> Iterator[None]:
    """Inside the context 16-bit weights are float32, but for LoRA's bfloat16 with `bf16`; afterwards as before.

    All weights that are tuned come back with their tuned values, rounded; LoRA's come back as they were.
    """
    lora = spec.method == "lora"
    stays = {torch.float32, torch.float64} | ({torch.bfloat16} if lora and spec.bf16 else set())
    own = {p: p.data for p in model.parameters() if p.is_floating_point() and p.dtype not in stays}
    for parameter, data in own.items():
        parameter.data = data.float()
    try:
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data if lora else parameter.data.to(data.dtype)
