"""Work on rows, in the process of the run or by workers of a Ray cluster, as the settings say (`compute`).

Here the rows are one shard, whose batches follow from them alone; on a cluster they are cut. So values of two engines
agree as those of two batchings do, to the packing tolerance, and no provenance names the engine.
"""

from dselect_core.compute.shards import Outcome, Shard, Work
from dselect_core.progress import Progress
from dselect_core.settings.settings import Settings


def compute(settings: Settings, work: Work, whole: Shard, progress: Progress | None) -> Outcome:
    """Do the work on all rows; returns when they are in the store.

    Raises what the work raises, and DselectError where there is no Ray or no cluster, or workers end again and again.
    """
    if settings.compute.engine == "local":
        return work(whole, progress)
    from dselect_core.compute.ray_engine import compute_on_ray  # loaded where it is asked for

    return compute_on_ray(settings.compute, work, whole, settings.parts.rows, progress)
