"""What tuning changes for a while, and puts back: the process's random numbers, the model's switches, its numeric type.

Weights that are tuned are float32 while they are tuned, because small steps vanish in 16 bits. Weights that LoRA leaves
alone are in the type that products are computed in: a copy, next to the model's own weights, which come back unrounded.
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
    """Inside the context the weights have the type that they are tuned or computed in, afterwards their own again.

    All weights that are tuned come back with their tuned values; LoRA's come back as they were.
    """
    lora = spec.method == "lora"
    inside = torch.bfloat16 if lora and spec.bf16 else torch.float32
    own = {p: p.data for p in model.parameters() if p.is_floating_point() and p.dtype != inside}
    for parameter, data in own.items():
        parameter.data = data.to(inside)
    try:
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data if lora else parameter.data.to(data.dtype)
