"""transformers' Trainer, given whole optimizer steps: it schedules, clips, updates, keeps and takes up checkpoints.

Ours are the batches, the loss, and what a checkpoint holds of the model: only the weights that are tuned. A step that
does not fit into memory runs in parts whose gradients add up, so its result differs by rounding only.
"""

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.lm.forward import Forward, is_out_of_memory
from dselect_core.lm.packing import padded_batches
from dselect_core.lm.tuning import Example, TuneSpec
from dselect_core.lm.tuning_loss import summed_loss
from dselect_core.progress import Progress
from dselect_core.stop import Stopped, raise_if_stopped

SECONDS_BETWEEN_CHECKPOINTS = 60.0
# Share of the steps in which the learning rate rises.
WARMUP = 0.1
_RUN = "run.txt"
_TUNED = "tuned.safetensors"
_RECORD = "record.json"

Step = list[Example]


@dataclass
class Record:
    """losses: of each step, nats per scored token; seconds: spent in steps, before and after a checkpoint."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def train(
    forward: Forward, steps: Sequence[Step], spec: TuneSpec, folder: Path, *, keep: bool, progress: Progress | None
) -> Record:
    """Tune the weights of `forward.model` that require a gradient, a step for each of `steps`.

    folder: where checkpoints are kept (`keep`), and taken up if they are of this run. Raises DselectError as `tune`.
    """
    unbroken = _last_checkpoint(folder, _run_name(forward, steps, spec)) if keep else None
    lora = spec.method == "lora"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(steps),
        per_device_train_batch_size=1,
        learning_rate=spec.learning_rate,
        adam_beta2=spec.beta2,
        weight_decay=0.0 if lora else 0.01,
        max_grad_norm=1.0,
        seed=spec.seed % 2**32,
        use_cpu=forward.device.type == "cpu",
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        save_total_limit=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    told = _Told(steps, progress, keep)
    trainer = _StepTrainer(forward, steps, spec, arguments, told)
    trainer.train(resume_from_checkpoint=None if unbroken is None else str(unbroken))
    if told.stopped is not None:
        raise told.stopped
    return trainer.record


class _StepTrainer(Trainer):
    """A Trainer whose data set is the steps of the whole run, in order."""

    def __init__(
        self, forward: Forward, steps: Sequence[Step], spec: TuneSpec, arguments: TrainingArguments, told: "_Told"
    ):
        arguments.n_gpu  # noqa: B018  it looks for devices once
        arguments._n_gpu = 1  # the model stays where it is, and is not copied to further devices
        self.record = Record()
        self._forward = forward
        self._steps: Any = steps
        self._spec = spec
        self._memory_budget: int | None = None
        super().__init__(forward.model, arguments, train_dataset=steps, callbacks=[told])
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Step]:
        """The steps as they are."""
        return DataLoader(self._steps, batch_size=1, collate_fn=lambda steps: {"step": steps[0]})

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear, up from the first step on, and down to zero behind the last one."""
        rising = math.ceil(WARMUP * num_training_steps)
        falling = num_training_steps - rising + 1
        scheduled: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            scheduled,
            lambda step: min((step + 1) / rising, (num_training_steps - step) / falling),
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradient of the mean loss over all scored tokens of the step."""
        start = time.monotonic()
        examples: Step = inputs["step"]
        model.eval()
        loss = self._backward(model, examples)
        if not math.isfinite(loss):
            raise DselectError(
                f"tuning broke off: the loss of step {self.state.global_step + 1} is {loss}. Lower `learning_rate`."
            )
        self.record.losses.append(loss)
        self.record.seconds += time.monotonic() - start
        return torch.tensor(loss, device=self.args.device)

    def _backward(self, model: Any, examples: Step) -> float:
        scored = sum(int(example.scored[1:].sum()) for example in examples)
        while True:
            try:
                total = 0.0
                for part in self._parts(examples):
                    loss = summed_loss(self._forward, part, self._spec.bf16)
                    self.accelerator.backward(loss / scored)
                    total += loss.item()
                return total / scored
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            model.zero_grad()
            if self._forward.device.type == "cuda":
                torch.cuda.empty_cache()
            longest = max(len(example.ids) for example in examples)
            size = max(sum(len(example.ids) for example in part) for part in self._parts(examples))
            if size <= longest:
                raise DselectError(
                    f"an example of {longest} tokens does not fit into the memory of {self._forward.device} with its "
                    "gradient: lower `max_length`, or choose a smaller model or LoRA"
                )
            self._memory_budget = max(longest, size // 2)

    def _parts(self, examples: Step) -> list[Step]:
        """The examples that run at a time: all of a flat batch, or rows of about the same length, padded."""
        budget = self._spec.batch_tokens if self._memory_budget is None else self._memory_budget
        if self._forward.packs and self._memory_budget is None:
            return [examples]
        return [[examples[i] for i in rows] for rows in padded_batches([len(e.ids) for e in examples], budget)]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights that are tuned, and the record."""
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in self._tuned().items()}, folder / _TUNED)
        (folder / _RECORD).write_text(json.dumps({"losses": self.record.losses, "seconds": self.record.seconds}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        weights = load_file(folder / _TUNED)
        with torch.no_grad():
            for name, parameter in self._tuned().items():
                parameter.copy_(weights[name])
        self.record = Record(**json.loads((folder / _RECORD).read_text()))

    def _tuned(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self._forward.model.named_parameters() if p.requires_grad}

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """The model stays where it is."""


class _Told(TrainerCallback):
    """Tells the progress after each step, in tokens; stops where a person asked to, after a checkpoint."""

    def __init__(self, steps: Sequence[Step], progress: Progress | None, keep: bool):
        self._tokens = np.cumsum([sum(len(example.ids) for example in step) for step in steps])
        self._progress = progress
        self._keep = keep
        self._saved = time.monotonic()
        self.stopped: Stopped | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """One optimizer step is done."""
        done = state.global_step
        try:
            if self._progress is not None:
                self._progress(int(self._tokens[done - 1]), int(self._tokens[-1]))
            raise_if_stopped()
        except Stopped as stopped:
            if done < len(self._tokens):  # else there is nothing to go on with
                self.stopped = stopped
                control.should_training_stop = True
        is_due = time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS and done < len(self._tokens)
        control.should_save = self._keep and (is_due or self.stopped is not None)
        if control.should_save:
            self._saved = time.monotonic()
        return control


def _run_name(forward: Forward, steps: Sequence[Step], spec: TuneSpec) -> str:
    """Names the run: its steps, the spec, and the model by the first numbers of each weight."""
    fields: list[str | bytes] = [repr(spec), type(forward.model).__name__]
    for name, parameter in forward.model.named_parameters():
        first = parameter.detach().flatten()[:256].float().cpu().numpy()
        fields += [name, str(list(parameter.shape)), first.tobytes()]
    for step in steps:
        fields += [part for example in step for part in (example.ids.tobytes(), example.scored.tobytes())]
    return digest(fields)


def _last_checkpoint(folder: Path, run: str) -> Path | None:
    """The newest whole checkpoint of this run; what another run or a kill left behind is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    named = folder / _RUN
    is_this_run = named.exists() and named.read_text() == run
    whole: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        if is_this_run and _is_whole(path):
            whole[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    named.write_text(run)
    return whole[max(whole)] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    # The Trainer writes this file last.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True
