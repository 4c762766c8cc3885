"""The key `compute` of dselect.yaml: in which processes the target model runs. It moves no value, so nothing is made
again after an edit of it."""

from typing import Literal

from pydantic import Field, model_validator

from dselect_core.select.recipe import StrictModel


class ComputeSpec(StrictModel):
    """Where missing scores are computed: in the process of the run, or by workers of a Ray cluster.

    Each worker needs the same version of dselect, the model's path, and the storage (docs/operating.md).
    """

    engine: Literal["local", "ray"] = Field(
        "local", description="local: in the run's own process; ray: by workers of a Ray cluster (dselect[ray])"
    )
    workers: int | None = Field(
        None,
        gt=0,
        description="ray: processes that score at a time, of which each opens the model; those that the cluster has no "
        "room for yet start when it has. null: as many as the nodes hold, one a CPU, or one per `gpus_per_worker`",
    )
    gpus_per_worker: float = Field(
        0, ge=0, description="ray: GPUs of each worker; below 1 several share one, 0: workers see none"
    )
    address: str | None = Field(
        None,
        description="ray: `host:6379` of a cluster that the run's machine is a node of, `auto` for the one on it, or "
        "`ray://host:10001`; null: $RAY_ADDRESS, else a Ray of the run's own, on its machine",
    )

    @model_validator(mode="after")
    def _of_ray(self) -> "ComputeSpec":
        given = [name for name in ("address", "gpus_per_worker", "workers") if getattr(self, name)]
        if self.engine == "local" and given:
            raise ValueError(f"`{given[0]}` is of workers: say `engine: ray` too, or leave it out")
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError("gpus_per_worker: above 1 a whole number")
        return self
