"""The key `trials` of dselect.yaml: what is tuned to try a coreset, how often, and what is measured."""

from typing import Annotated, Literal

from pydantic import Field

from dselect_core.settings.tuning_spec import TuningSpec


class TrialsSpec(TuningSpec):
    """How a coreset is tried against random draws: what is tuned, how often, and what is measured.

    A recipe is tried where it says `trial: true`. Runs are kept, so a key that no run depends on (`seeds`, `draws`,
    `multiples`, `baselines`, `metrics`, `max_seconds`) tunes nothing again.
    """

    model: str | None = Field(None, description="model that is tuned: hub name or folder; by default the target model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    seeds: int = Field(3, gt=0, description="runs on the coreset, each with its own seed")
    draws: int = Field(5, gt=2, description="random draws that it is compared with, each with its own seed")
    multiples: list[Annotated[int, Field(gt=1)]] = Field(
        [2, 4],
        description="larger random draws, as multiples of the budget: how much random data reaches the same loss",
    )
    baselines: list[Literal["tokens", "balanced", "pool"]] = Field(
        ["tokens", "balanced"],
        description="beside draws of as many rows: of as many response tokens, balanced by source, the whole pool",
    )
    metrics: list[Literal["loss", "exact_match", "rouge_l"]] = Field(
        ["loss"], description="loss of the responses; exact match and ROUGE-L of greedy answers"
    )
    answer_tokens: int = Field(128, gt=0, description="tokens of a greedy answer at most")
    max_seconds: float | None = Field(
        None, gt=0, description="a trial starts no run beyond this; what is tuned is kept, and the next refresh goes on"
    )
    keep_models: bool = Field(True, description="keep tuned weights, so that another eval source tunes nothing again")
