"""The key `checks` of dselect.yaml: from where on the checks of the graph warn, or hold the coresets back."""

from pydantic import Field

from dselect_core.select.recipe import StrictModel


class ChecksSpec(StrictModel):
    """Shares are of rows, from 0 to 1. No score depends on them: another threshold computes nothing again."""

    quarantine: float = Field(0.05, ge=0, le=1, description="rows of a source in quarantine; more is a warning")
    nulls: float = Field(0.5, ge=0, le=1, description="pool without a score that recipes read; more is an error")
    held_out: float = Field(0.05, ge=0, le=1, description="pool held out for what eval sources hold; more is a warning")
    near_duplicates: float = Field(0.5, ge=0, le=1, description="pool alike to kept samples; more is a warning")
    drift: float = Field(
        0.1,
        ge=0,
        le=1,
        description="distance of a score's distribution over the pool from the last one (Kolmogorov and Smirnov); more "
        "is a warning",
    )
    alike: float = Field(0.99, gt=0, le=1, description="cosine of two chosen samples from which they are alike")
    alike_chosen: float = Field(0.1, ge=0, le=1, description="chosen rows alike to another; more is a warning")
    batch_difference: float | None = Field(
        None,
        gt=0,
        description="nats by which the loss of a sample may differ alone and in a batch, on a probe of 32; more is a "
        "warning. By default what is noise in the model's number type",
    )
