"""Work on rows that can be cut: what a worker is given, what it gives back, and how rows are cut into shards.

A worker keeps what it computes in the shared store itself and gives back counts alone. The store is addressed by
content, so a shard that is computed twice is harmless, and a worker that dies costs its shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.progress import Progress


@dataclass(frozen=True)
class Shard:
    """Rows to compute. samples: SAMPLES, at least those that the rows name in columns that end on `_id`."""

    rows: pl.DataFrame = field(repr=False)
    samples: pl.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """What came of a shard whose rows are in the store. tokens: pushed through a model.

    failures: {kind of score: why it cannot be computed as a whole}.
    """

    tokens: int = 0
    failures: dict[str, DselectError] = field(default_factory=dict)

    def __add__(self, other: "Outcome") -> "Outcome":
        """Both together."""
        return Outcome(self.tokens + other.tokens, self.failures | other.failures)


class Work(Protocol):
    """What is done to each shard; it is pickled where another process does it."""

    def there(self) -> "Work":
        """The same, as a worker on another machine does it.

        Raises DselectError where that machine does not see the storage, or has another model at the path.
        """

    def __call__(self, shard: Shard, progress: Progress | None) -> Outcome:
        """Compute the rows and append them to their store; progress: in rows of the shard.

        Raises DselectError where none can be computed; what was finished is kept.
        """


def cut(whole: Shard, rows: int) -> Iterator[Shard]:
    """Shards of at most so many rows, in the order of the rows, each with its own samples in the order of all."""
    at = whole.samples.select("sample_id").with_row_index("at")
    places = [
        whole.rows.select(pl.col(name).alias("sample_id")).join(at, on="sample_id", how="left", maintain_order="left")
        for name in whole.rows.columns
        if name.endswith("_id")
    ]
    for start in range(0, whole.rows.height, rows):
        named = pl.concat([at["at"].clear(), *(place["at"].slice(start, rows) for place in places)]).drop_nulls()
        yield Shard(whole.rows.slice(start, rows), whole.samples[np.unique(named.to_numpy())])
