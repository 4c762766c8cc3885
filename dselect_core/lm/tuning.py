"""The one way anything is tuned here: transformers' Trainer over rendered conversations.

A batch is whole examples up to a number of tokens; its loss is the mean over all its scored tokens, so a long answer
weighs as much as its tokens. Examples run flat, without padding, where the model's attention allows it (forward.py).
The output layer runs only where a token is scored (tuning_loss.py). The learning rate rises over the first tenth of
the steps and then falls to zero in a line. AdamW, gradients clipped to a norm of 1. Dropout is off, so that nothing
but the order and the first LoRA matrices is drawn by chance.

On a CPU the same input gives the same bytes for the same number of threads; on a GPU sums are rounded in another order
each time. A checkpoint is written once a minute, so a killed run loses a minute and ends in the same weights.
"""

import gc
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dselect_core.errors import DselectError
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress

if TYPE_CHECKING:
    from dselect_core.lm.lora import Lora


@dataclass(frozen=True)
class TuneSpec:
    """How a model is tuned. Everything here moves the result, and is part of a run's identity.

    method: all weights, or LoRA (arXiv 2106.09685): matrices of `lora_rank` beside each linear layer of the body,
    scaled by 2; epochs: passes over the examples; max_steps: optimizer steps, in place of epochs; batch_tokens: of a
    step, padding not counted; beta2: AdamW's; bf16: products in bfloat16, while weights that are tuned stay float32.
    """

    method: Literal["lora", "full"] = "full"
    lora_rank: int = 16
    epochs: float = 2.0
    max_steps: int | None = None
    learning_rate: float = 2e-5
    batch_tokens: int = 4096
    seed: int = 0
    bf16: bool = False
    beta2: float = 0.999


@dataclass(frozen=True)
class Example:
    """ids: int32 [n]; scored: boolean [n], the tokens whose loss is minimised (never the first)."""

    ids: np.ndarray
    scored: np.ndarray

    @classmethod
    def of(cls, rendered: Rendered) -> "Example":
        """A conversation, tuned on the tokens that scores count: its responses'."""
        return cls(rendered.ids, rendered.response)


@dataclass(frozen=True)
class Tuned:
    """A tuned model, and what the run did.

    model: the object that was given, an ordinary model with other weights; lora: its LoRA matrices,
    None where all weights were tuned. tokens: that the model saw, all epochs; losses: training loss of each optimizer
    step, nats per scored token; skipped: examples without a scored token. A run that went on from a checkpoint counts
    the steps, tokens, seconds and losses of its earlier part too.
    """

    model: Any
    steps: int
    tokens: int
    seconds: float
    losses: list[float]
    skipped: int = 0
    lora: "Lora | None" = field(default=None, repr=False)


def tune(
    model: Any,
    examples: Sequence[Example],
    spec: TuneSpec,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Tune `model` in place, LoRA matrices are merged into it at the end; the same input gives the same weights.

    checkpoints: a folder where the run keeps its state; a run of the same model, examples and spec goes on from there.
    The caller deletes it. progress: told the tokens. Raises DselectError when no example has a scored token, a loss is
    not finite, an example does not fit into memory, or LoRA does not know this architecture. After any error the model
    runs as before, but its weights may have changed (not those that LoRA left alone).
    """
    from dselect_core.lm.forward import Forward
    from dselect_core.lm.load import quiet_transformers
    from dselect_core.lm.lora import Lora, with_lora
    from dselect_core.lm.quantized import check_tunable
    from dselect_core.lm.tuning_state import as_it_was, weights_for
    from dselect_core.lm.tuning_steps import plan_steps
    from dselect_core.lm.tuning_trainer import train

    usable = [example for example in examples if example.scored[1:].any()]
    if not usable:
        raise DselectError(
            f"nothing to tune on: none of {len(examples)} examples has a scored token. Are the responses empty, or cut "
            "off by `max_length`?"
        )
    steps = plan_steps(usable, spec)
    quiet_transformers()
    check_tunable(model.config)
    lora = None
    with ExitStack() as stack:
        stack.enter_context(as_it_was(model, spec.seed))
        forward = Forward(model)
        stack.enter_context(weights_for(model, spec))
        if spec.method == "lora":
            adapted = stack.enter_context(with_lora(model, spec.lora_rank))
        else:
            model.requires_grad_(True)
        folder = checkpoints or Path(stack.enter_context(TemporaryDirectory(prefix="dselect-tune-")))
        record = train(forward, steps, spec, folder, keep=checkpoints is not None, progress=progress)
        if spec.method == "lora":
            lora = Lora.of(adapted)
    if lora is not None:
        lora.merge_into(model)
    gc.collect()  # the Trainer's parts name each other, and would keep the optimizer's state for a while
    tokens = sum(len(example.ids) for step in steps for example in step)
    return Tuned(model, len(steps), tokens, record.seconds, record.losses, len(examples) - len(usable), lora)
