"""The key `grader.batch` of dselect.yaml: what goes into one batch, and how long a run waits for it."""

from pydantic import Field

from dselect_core.select.recipe import StrictModel


class BatchSpec(StrictModel):
    """How requests are put into the files of the Batch API. The defaults are OpenAI's limits."""

    rows: int = Field(50_000, gt=0, description="requests in one batch, at most")
    megabytes: float = Field(200.0, gt=0, description="size of a batch's file in 10^6 bytes, at most")
    wait_seconds: float = Field(
        600.0,
        ge=0,
        description="seconds that a run waits for its batches. Then it ends with the grades that are there; a later "
        "refresh, or the sensor `grading_batches`, collects the others",
    )
    poll_seconds: float = Field(30.0, gt=0, description="seconds between two looks at a batch")
