"""What a strategy chooses from: scores, vectors and active neurons of n samples, in one row order.

The rows are sorted by sample id here, once, so that no strategy can depend on how its input happened to be sorted.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.select.rounding import usable_vectors


@dataclass(frozen=True, eq=False)
class Targets:
    """The examples of the target sources: what a coreset is to be good at.

    sample_ids: String [q], strictly ascending. vectors: float [q, d], usable, of the kind that the strategy reads.
    """

    sample_ids: pl.Series
    vectors: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, sample_ids: pl.Series, vectors: np.ndarray) -> "Targets":
        """From rows in any order; those without a usable vector are left out. Raises DselectError where none is."""
        order = sample_ids.arg_sort().to_numpy()
        order = order[usable_vectors(vectors)[order]]
        if not len(order):
            raise DselectError(
                f"none of the {len(sample_ids)} examples of target sources has a usable vector: see their `reason`"
            )
        return cls(sample_ids[order], vectors[order])

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, eq=False)
class Pool:
    """n samples in canonical order. Build it with `Pool.of`, which sorts; the constructor only checks.

    scores: one row per sample, strictly ascending `sample_id`, the score columns beside it (null where missing).
    embeddings: float [n, d], one vector per whole sample, any length; a row with NaN is missing. None: not loaded.
    neurons: uint32 [n, m], ids of the active neurons, all distinct inside a row. None: not loaded.
    has_neurons: boolean [n]; rows of `neurons` where it is False have no meaning. None: every row has neurons.
    groups: int64 [n], of which group of a mixture each sample is (mixture.py). None: there is no mixture.
    held_out: String [n], why a sample must not be chosen whatever its scores; null where it may. None: all may.
    ungraded: boolean [n], the samples whose grade nobody asked for yet; it may be any. None: all were asked for.
    weighted_embeddings: as `embeddings`, pooled by position. targets: the examples to be near to. None: not loaded.
    Raises DselectError for a repeated sample id, ValueError for shapes that do not fit.
    """

    scores: pl.DataFrame
    embeddings: np.ndarray | None = field(default=None, repr=False)
    neurons: np.ndarray | None = field(default=None, repr=False)
    has_neurons: np.ndarray | None = field(default=None, repr=False)
    held_out: pl.Series | None = field(default=None, repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    weighted_embeddings: np.ndarray | None = field(default=None, repr=False)
    targets: Targets | None = field(default=None, repr=False)
    ungraded: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ids = self.scores["sample_id"]
        if not ids.is_sorted():
            raise ValueError("scores are not sorted by sample_id: build the pool with Pool.of")
        if ids.n_unique() != len(ids):
            repeated = ids.filter(ids.is_duplicated())[0]
            raise DselectError(f"pool: sample {repeated} is there twice; join the scores on sample_id, one row each")
        for name in ("embeddings", "neurons", "has_neurons", "held_out", "weighted_embeddings", "groups", "ungraded"):
            array = getattr(self, name)
            if array is not None and len(array) != len(ids):
                raise ValueError(f"{name} has {len(array)} rows, the pool {len(ids)}")
        if self.weighted_embeddings is not None and self.targets is not None:
            width, of_targets = self.weighted_embeddings.shape[1], self.targets.vectors.shape[1]
            if width != of_targets:
                raise ValueError(f"the targets' vectors are {of_targets} wide, the pool's {width}: of another model?")
        if self.neurons is not None and (self.neurons.dtype != np.uint32 or self.neurons.shape[1] == 0):
            raise ValueError(f"neurons must be uint32 [n, m ≥ 1], got {self.neurons.dtype} {self.neurons.shape}")

    @classmethod
    def of(
        cls,
        scores: pl.DataFrame,
        embeddings: np.ndarray | None = None,
        neurons: np.ndarray | None = None,
        has_neurons: np.ndarray | None = None,
        held_out: pl.Series | None = None,
        weighted_embeddings: np.ndarray | None = None,
        targets: Targets | None = None,
    ) -> "Pool":
        """A pool from rows in any order, the same order in every argument. Copies only what it reorders."""
        rows = scores["sample_id"].arg_sort().to_numpy()
        return cls(
            scores[rows],
            None if embeddings is None else embeddings[rows],
            None if neurons is None else neurons[rows],
            None if has_neurons is None else has_neurons[rows],
            None if held_out is None else held_out[rows],
            weighted_embeddings=None if weighted_embeddings is None else weighted_embeddings[rows],
            targets=targets,
        )

    def __len__(self) -> int:
        return self.scores.height

    @property
    def sample_ids(self) -> pl.Series:
        """Ids of the samples: String [n], ascending."""
        return self.scores["sample_id"]

    def has_array(self, name: str) -> np.ndarray:
        """Boolean [n]: the rows that have a usable vector (any name but one) or neurons (`neurons`).

        The array must be loaded.
        """
        array: np.ndarray = getattr(self, name)
        if name == "neurons":
            return np.ones(len(self), dtype=bool) if self.has_neurons is None else self.has_neurons
        return usable_vectors(array)

    def take(self, rows: np.ndarray) -> "Pool":
        """The pool of the given rows alone (int64, ascending). Copies nothing if they are all rows."""
        if len(rows) == len(self):
            return self
        return Pool(
            self.scores[rows],
            None if self.embeddings is None else self.embeddings[rows],
            None if self.neurons is None else self.neurons[rows],
            None if self.has_neurons is None else self.has_neurons[rows],
            None if self.held_out is None else self.held_out[rows],
            None if self.groups is None else self.groups[rows],
            None if self.weighted_embeddings is None else self.weighted_embeddings[rows],
            self.targets,
            None if self.ungraded is None else self.ungraded[rows],
        )
