"""How a model is tuned on chosen rows: the keys that `trials` and `feedback` of dselect.yaml share, and `feedback`."""

from typing import Literal

from pydantic import Field

from dselect_core.select.recipe import StrictModel


class TuningSpec(StrictModel):
    """How a model is tuned. Every key moves its weights."""

    method: Literal["auto", "lora", "full"] = Field(
        "auto", description="auto: all weights of the builtin model, LoRA for any other"
    )
    lora_rank: int = Field(16, gt=0, description="rank of the LoRA matrices, which are scaled by 2")
    precision: Literal["auto", "bf16", "float32"] = Field(
        "auto", description="auto: bf16 where the device computes in it, float32 for the builtin model"
    )
    epochs: float = Field(2.0, gt=0, description="passes over the training rows")
    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate; by default 2e-4 for LoRA, 2e-5 for all weights, 3e-4 for builtin"
    )
    batch_tokens: int = Field(2048, gt=0, description="tokens per optimizer step")
    max_length: int = Field(1024, gt=8, description="tuning length in tokens, longer samples are cut")


class FeedbackSpec(TuningSpec):
    """How the target model is tuned for the rounds of recipes with `rounds` or `warmup`, each time from its start."""
