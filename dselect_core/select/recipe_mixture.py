"""The mixture that a recipe asks for, over the samples that it can choose from.

A sample is of one group, so that the rows of all groups add up: the first source by name that holds it, or a cluster.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.select.balance import Balanced
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.clusters import cluster_rows
from dselect_core.select.composition import first_source
from dselect_core.select.mixture import Mixture
from dselect_core.select.quotas import Quotas
from dselect_core.select.recipe import CoresetSpec

OTHERS = "all others"
"""The group of all samples that no quota speaks of. No source can have this name, which has a space."""


class Grouped(NamedTuple):
    """names: of the groups; groups: int64 [n], the group of each row that can be chosen."""

    names: list[str]
    groups: np.ndarray


def make_mixture(spec: CoresetSpec, selectable: Pool, budget_rows: int | None) -> Mixture | None:
    """The mixture of a recipe over the rows that it can choose from; None where it gives none.

    Raises DselectError where the quotas cannot be met, saying which and why.
    """
    if not spec.has_mixture:
        return None
    assert budget_rows is not None
    return mixture_of(spec, group_rows(spec, selectable), budget_rows)


def group_rows(spec: CoresetSpec, selectable: Pool) -> Grouped:
    """The groups of a recipe that has a mixture. Raises DselectError where the pool has no sources."""
    if spec.balance is not None and spec.needs_clusters:
        count = spec.balance.cluster_count
        names = [f"cluster {number:0{len(str(count - 1))}}" for number in range(count)]
        return Grouped(names, cluster_rows(selectable, count))
    if not isinstance(selectable.scores.schema.get("sources"), pl.List):
        raise DselectError("quota and balance need the column `sources` in the pool: a list of names for each sample")
    source_of = selectable.scores.select(source=first_source())["source"]
    names = [*sorted(spec.quota), OTHERS] if spec.quota else source_of.unique().sort().to_list()
    numbers = {name: number for number, name in enumerate(names)}
    return Grouped(names, np.array([numbers.get(name, len(names) - 1) for name in source_of], dtype=np.int64))


def mixture_of(spec: CoresetSpec, grouped: Grouped, budget_rows: int) -> Mixture:
    """The mixture over groups, before any row is taken. Raises DselectError where the quotas cannot be met."""
    if spec.balance is not None:
        return Balanced(*grouped, spec.balance)
    return Quotas(*grouped, spec.quota, budget_rows)
