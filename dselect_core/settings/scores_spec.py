"""The keys `difficulty`, `activations` and `parts` of dselect.yaml: what scores are of, and when they are written."""

from typing import Literal

from pydantic import Field

from dselect_core.select.recipe import StrictModel


class DifficultySpec(StrictModel):
    """Parameters of UPD."""

    beta: float = Field(1.0, gt=0, description="exponent β of UPD")


class ActivationSpec(StrictModel):
    """Which neurons count as active."""

    top_share: float = Field(0.01, gt=0, le=1, description="share of each layer's neurons called active")
    tokens: Literal["prompt", "all"] = Field("prompt", description="tokens the neuron values are averaged over")
    layers: list[int] | None = Field(None, description="layers used; all by default")


class PartSpec(StrictModel):
    """How much finished work may be in memory before it is written: what a killed process can lose."""

    rows: int = Field(4096, gt=0, description="rows after which a part is written")
    seconds: float = Field(30.0, gt=0, description="seconds after which a part is written")
