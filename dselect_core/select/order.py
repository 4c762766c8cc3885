"""What a strategy chooses from (scores, vectors, active neurons, in one row order) and what it makes of it: an order.

The row order, that of the sample id, is fixed here, once, so that no strategy can depend on how its input happened to
be sorted.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from dselect_core.errors import DselectError


class Pick(NamedTuple):
    """One step of an order. `gain` is null where the method defines none (see each strategy)."""

    row: int
    gain: float | None
    cover_pass: int | None


class Order(Iterator[Pick]):
    """A pool's rows, each at most once, made pick by pick. It may be stopped at any pick, asked, and gone on with.

    Both questions are about exactly the picks given out so far, and asking changes none that follow. So an order may
    not run ahead of its consumer: what a pick changes is worked out at the latest when it is asked for.
    """

    @abstractmethod
    def __next__(self) -> Pick: ...

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """By name, one value per row: with the picks, all that continuing takes. Empty where the picks are enough."""

    @abstractmethod
    def standing(self) -> np.ndarray:
        """float64 [n]: the gain each row would have were it picked next; NaN where it was, or never can be, picked, and
        where none is defined.

        With the picks this says how near a row came that was not chosen. An order that does not know every gain gives
        the least bound it has from above; its state then has `seen`, less than the picks made where it is a bound.
        """


@dataclass(frozen=True, eq=False)
class Pool:
    """n samples in canonical order. Build it with `Pool.of`, which sorts; the constructor only checks.

    scores: one row per sample, strictly ascending `sample_id`, the score columns beside it (null where missing).
    embeddings: float [n, d], one vector per whole sample, any length; a row with NaN is missing. None: not loaded.
    neurons: uint32 [n, m], ids of the active neurons, all distinct inside a row. None: not loaded.
    has_neurons: boolean [n]; rows of `neurons` where it is False hold nothing. None: every row is filled.
    Raises DselectError for a repeated sample id, ValueError for shapes that do not fit.
    """

    scores: pl.DataFrame
    embeddings: np.ndarray | None = field(default=None, repr=False)
    neurons: np.ndarray | None = field(default=None, repr=False)
    has_neurons: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ids = self.scores["sample_id"]
        if not ids.is_sorted():
            raise ValueError("scores are not sorted by sample_id: build the pool with Pool.of")
        if ids.n_unique() != len(ids):
            repeated = ids.filter(ids.is_duplicated())[0]
            raise DselectError(f"pool: sample {repeated} is there twice; join the scores on sample_id, one row each")
        for name in ("embeddings", "neurons", "has_neurons"):
            array = getattr(self, name)
            if array is not None and len(array) != len(ids):
                raise ValueError(f"{name} has {len(array)} rows, the pool {len(ids)}")
        if self.neurons is not None and (self.neurons.dtype != np.uint32 or self.neurons.shape[1] == 0):
            raise ValueError(f"neurons must be uint32 [n, m ≥ 1], got {self.neurons.dtype} {self.neurons.shape}")

    @classmethod
    def of(
        cls,
        scores: pl.DataFrame,
        embeddings: np.ndarray | None = None,
        neurons: np.ndarray | None = None,
        has_neurons: np.ndarray | None = None,
    ) -> "Pool":
        """A pool from rows in any order (the same one in every argument); copies what it has to move."""
        rows = scores["sample_id"].arg_sort().to_numpy()
        return cls(
            scores[rows],
            *(None if array is None else array[rows] for array in (embeddings, neurons, has_neurons)),
        )

    def __len__(self) -> int:
        return self.scores.height

    @property
    def sample_ids(self) -> pl.Series:
        return self.scores["sample_id"]

    def take(self, rows: np.ndarray) -> "Pool":
        """The pool of the given rows alone (ascending row numbers); copies nothing if they are all."""
        if len(rows) == len(self):
            return self
        return Pool(
            self.scores[rows],
            *(None if array is None else array[rows] for array in (self.embeddings, self.neurons, self.has_neurons)),
        )
