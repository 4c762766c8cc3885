"""`model:` of dselect.yaml: which target model, and how it is opened; a local grader is opened in the same way."""

import datetime
from typing import Literal

from pydantic import Field

from dselect_core.select.recipe import StrictModel
from dselect_core.settings.grader_spec import GraderSpec

TEMPLATE_DATE = datetime.date(2025, 1, 1)
"""What a chat template that asks for today's date gets, unless `model: {date: …}` says another."""


class ModelSpec(StrictModel):
    """The target model: a Hugging Face causal LM by hub name or folder, a GGUF file, or the builtin one."""

    path: str = Field("builtin", description="hub name, local folder, GGUF file, or `builtin`")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    dtype: Literal["auto", "float32", "bf16-mixed", "bfloat16", "float16"] = Field(
        "auto", description="numeric type; auto: the checkpoint's where the device computes in it, else float32"
    )
    device: str = Field(
        "auto", description="auto (cuda, then mps, then cpu), a torch device, or balanced: over all GPUs (accelerate)"
    )
    max_length: int | None = Field(None, gt=8, description="window in tokens; by default the model's own")
    template: Literal["auto", "alpaca", "plain"] = Field("auto", description="auto: the tokenizer's chat template")
    date: datetime.date = Field(
        TEMPLATE_DATE, description="what a chat template that prints today's date prints instead"
    )
    batch_tokens: int = Field(4096, gt=0, description="tokens per forward pass; halved when memory does not do")

    @classmethod
    def of_grader(cls, grader: GraderSpec, commit: str | None) -> "ModelSpec":
        """How a reward model or judge is opened. commit: that of a hub model, else None."""
        options = grader.model_dump(include={"dtype", "device", "max_length", "batch_tokens"})
        return cls(path=grader.local_model or "", revision=commit, **options)
