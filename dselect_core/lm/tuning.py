"""The one way anything is tuned here: transformers' Trainer over rendered conversations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dselect_core.lm.render import Rendered
from dselect_core.progress import Progress


@dataclass(frozen=True)
class TuneSpec:
    """How a model is tuned. Everything here moves the result, and is part of a run's identity."""

    method: Literal["lora", "full"] = "full"
    lora_rank: int = 16
    epochs: float = 2.0
    max_steps: int | None = None
    learning_rate: float = 2e-5
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
    """What a run did. losses: training loss of each optimizer step, nats per scored token."""

    steps: int
    tokens: int
    seconds: float
    losses: list[float]


def tune(
    model: Any,
    examples: Sequence[Example],
    spec: TuneSpec,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Tune `model` in place (LoRA matrices are merged into it at the end); the same input gives the same weights."""
    raise NotImplementedError
