"""The one way anything is tuned here: transformers' Trainer over rendered conversations.

Whole conversations are packed into batches without padding, where the model's attention can run flat (forward.py), so
no token is wasted and none sees another conversation; otherwise rows are padded. The loss is the mean over the scored
tokens of a step. The output layer runs at these tokens alone, in blocks that are computed again for the gradient, so
that logits do not fill the memory.

What this trades off: a step is one batch of at most `batch_tokens`, so that a longer step than fits into memory is not
split. LoRA matrices stay beside their layers and are not merged: merging into bfloat16 weights rounds them away.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dselect_core.errors import DselectError
from dselect_core.lm import packing
from dselect_core.lm.attention import packed
from dselect_core.lm.forward import Forward
from dselect_core.lm.loss import OwnHead
from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress

# Positions whose logits are in memory at once, with their gradient.
_LOGITS = 2**25
_WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class TuneSpec:
    """How a model is tuned. Everything here moves the result, and is part of a run's identity.

    max_steps: ends before `epochs` do. final_rate: share of the peak learning rate at the end of the linear decay.
    """

    method: Literal["lora", "full"] = "full"
    lora_rank: int = 16
    epochs: float = 2.0
    max_steps: int | None = None
    learning_rate: float = 2e-5
    final_rate: float = 0.0
    batch_tokens: int = 4096
    seed: int = 0
    bf16: bool = False


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
    """What a run did. model: the tuned one, in evaluation mode; adapter: its LoRA matrices (peft), None without.

    losses: training loss of each optimizer step, nats per scored token.
    """

    model: Any = field(repr=False)
    adapter: Any = field(repr=False)
    steps: int
    tokens: int
    seconds: float
    losses: list[float] = field(repr=False)


def tune(
    model: Any,
    examples: Sequence[Example],
    spec: TuneSpec,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Tune `model` in place; the same input gives the same weights.

    checkpoints: folder in which a long run keeps its state every few minutes, and from which it goes on. progress: in
    steps. Raises DselectError where no example has a token to learn.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    usable = [example for example in examples if example.scored.any()]
    if not usable:
        raise DselectError("there is nothing to tune on: no example has a response token")
    started = time.monotonic()
    steps = list(_steps(usable, spec))
    set_seed(spec.seed)
    packs = Forward(model).packs
    adapter, base = _with_adapter(model, spec) if spec.method == "lora" else (None, model)
    losses: list[float] = []
    device = next(base.parameters()).device
    objective = _Objective(base, packs, spec.bf16)

    class _Tuner(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss = objective(inputs["examples"])
            losses.append(float(loss.detach()))
            return (loss, None) if return_outputs else loss

        def _prepare_inputs(self, inputs: Any) -> Any:
            return inputs

    class _Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, len(steps))

    with TemporaryDirectory(prefix="dselect-tuning-") as scratch:
        arguments = TrainingArguments(
            output_dir=str(checkpoints or scratch),
            per_device_train_batch_size=1,
            max_steps=len(steps),
            learning_rate=spec.learning_rate,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.0 if spec.method == "lora" else 0.01,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            use_cpu=device.type == "cpu",
            seed=spec.seed,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        base.train()
        optimizer = torch.optim.AdamW(
            [parameter for parameter in base.parameters() if parameter.requires_grad],
            lr=spec.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=arguments.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, len(steps), spec.final_rate))
        trainer = _Tuner(
            model=adapter or base,
            args=arguments,
            train_dataset=_Steps(steps),
            data_collator=lambda items: {"examples": items[0]},
            callbacks=[_Tell()],
            optimizers=(optimizer, schedule),
        )
        trainer.train()
    base.eval()
    tokens = sum(len(example.ids) for step in steps for example in step)
    return Tuned(base, adapter, len(steps), tokens, time.monotonic() - started, losses)


class _Steps(torch.utils.data.Dataset[list[Example]]):
    def __init__(self, steps: list[list[Example]]):
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, at: int) -> list[Example]:
        return self._steps[at]


def _rate(step: int, steps: int, final: float) -> float:
    """Share of the peak learning rate: linear up over the first tenth of the steps, then linear down."""
    rising = max(1, int(steps * _WARMUP_SHARE))
    if step < rising:
        return (step + 1) / rising
    return max(final, 1 - (step - rising) / max(1, steps - rising))


def _steps(examples: Sequence[Example], spec: TuneSpec) -> Iterator[list[Example]]:
    """The batch of each optimizer step: each epoch in another order, packed until a step is full."""
    order = random.Random(spec.seed)
    wanted = round(spec.epochs * len(examples))
    queue: list[Example] = []
    while len(queue) < wanted:
        queue += order.sample(list(examples), len(examples))
    made, batch, tokens = 0, list[Example](), 0
    for example in queue[:wanted]:
        if batch and tokens + len(example.ids) > spec.batch_tokens:
            yield batch
            made, batch, tokens = made + 1, [], 0
            if made == spec.max_steps:
                return
        batch.append(example)
        tokens += len(example.ids)
    if batch:
        yield batch


def _with_adapter(model: Any, spec: TuneSpec) -> tuple[Any, Any]:
    """(peft's model, the model with LoRA matrices inside): all linear layers of the body, scaled by 2."""
    from peft import LoraConfig, get_peft_model

    if spec.bf16:
        model.to(torch.bfloat16)  # frozen, so nothing is lost in the sum; the matrices stay float32
    config = LoraConfig(r=spec.lora_rank, lora_alpha=2 * spec.lora_rank, lora_dropout=0.0, target_modules="all-linear")
    adapter = get_peft_model(model, config)
    return adapter, adapter.get_base_model()


class _Objective:
    """The mean loss over the scored tokens of a batch, with its gradient."""

    def __init__(self, model: Any, packs: bool, bf16: bool):
        self._forward = Forward(model)
        self._model, self._packs, self._bf16 = model, packs, bf16

    def __call__(self, examples: list[Example]) -> Tensor:
        forward = self._forward
        sequences = [packing.Sequence(None, each.ids, each.scored) for each in examples]
        layout, longest = (packing.flat(sequences), None) if self._packs else packing.padded(sequences)
        ids = torch.from_numpy(layout.ids).to(forward.device)
        with torch.autocast(forward.device.type, torch.bfloat16, enabled=self._bf16):
            if longest is None:
                positions = torch.from_numpy(layout.positions)[None].to(forward.device)
                with packed(forward.body, layout):
                    states = forward.body(input_ids=ids[None], position_ids=positions, use_cache=False)
            else:
                states = forward.body(input_ids=ids.reshape(-1, longest), use_cache=False)
            predecessor, target, _ = layout.scored()
            chosen = states.last_hidden_state.flatten(0, 1)[torch.from_numpy(predecessor).to(forward.device)]
            return self._mean_loss(chosen, torch.from_numpy(target).to(forward.device))

    def _mean_loss(self, states: Tensor, targets: Tensor) -> Tensor:
        head: Any = self._forward.head if self._forward.plain_head else OwnHead(self._model, self._forward.body)

        def of_block(block: Tensor, block_targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(head(block).float(), block_targets, reduction="sum")

        rows = max(1, _LOGITS // self._forward.vocabulary)
        sums = [
            checkpoint(of_block, states[start : start + rows], targets[start : start + rows], use_reentrant=False)
            for start in range(0, len(states), rows)
        ]
        total: Tensor = torch.stack(sums).sum() / len(states)
        return total
