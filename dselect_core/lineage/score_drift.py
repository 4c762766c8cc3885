"""Whether the pool's scores are distributed as they were when the pool was last another one. [ours]

corpus/score_distributions.json holds, of the pool as it is and of the one before, the percentiles of each score. The
distance is that of Kolmogorov and Smirnov, taken at the percentiles from before: the largest difference between the
shares of rows at or below one of them. Scores of another provenance are not compared, for they are made anew.
Trade-off: percentiles of the whole pool, so rows that drift and are few are not seen.
"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from dselect_core.errors import DamagedFileError
from dselect_core.kinds import kind_of
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.pool_tables import fingerprint_of_pool, pool_scores
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json, write_json

FEWEST_ROWS = 100
"""Fewer rows differ by chance."""


@dataclass(frozen=True)
class Distribution:
    """Of one column of scores. points: ascending; at_or_below: the share of rows at or below each."""

    fingerprint: str
    rows: int
    points: list[float]
    at_or_below: list[float]

    @classmethod
    def of(cls, values: pl.Series, fingerprint: str) -> "Distribution":
        """Of a column without nulls."""
        numbers = np.sort(values.cast(pl.Float64).to_numpy())
        points = np.unique(np.quantile(numbers, np.linspace(0.01, 0.99, 99))) if len(numbers) else numbers
        return cls(fingerprint, len(numbers), points.tolist(), _shares(numbers, points))


@dataclass(frozen=True)
class Drift:
    """How far a score moved. rows_before, rows: that were compared."""

    column: str
    distance: float
    rows_before: int
    rows: int


def score_drift(workspace: Workspace, kinds: frozenset[str]) -> list[Drift]:
    """What moved since the pool was another one, the farthest first; keeps what the next call compares with."""
    index = read_index(workspace)
    place = workspace.score_distributions
    try:
        kept = read_json(place)
    except (FileNotFoundError, DamagedFileError):
        kept = {"version": None, "now": {}, "before": {}}
    before = kept["before"] if kept["version"] == index.version else kept["now"]
    now, found = {}, []
    for name in sorted(kinds):
        kind = kind_of(name)
        # Scores over the pool are made after the index that this is asked of; those there are, if any, are of the last.
        if len(index.fingerprints.get(name, [])) != 1 and name not in index.stores:
            continue  # or of several provenances that nobody asked for, which is another check's matter
        made_by = fingerprint_of_pool(workspace, index, kind)
        scored = [column.name for column in kind.columns if column.value_range is not None or column.name == kind.value]
        table = pool_scores(workspace, index, name, scored)
        for column in scored:
            if not table[column].dtype.is_numeric():
                continue
            values = table[column].drop_nulls()
            named = kind.named(column)
            now[named] = asdict(Distribution.of(values, made_by))
            if named not in before:
                continue
            last = Distribution(**before[named])
            if last.fingerprint == made_by and min(last.rows, len(values)) >= FEWEST_ROWS:
                shares = _shares(np.sort(values.cast(pl.Float64).to_numpy()), np.array(last.points))
                distance = float(np.abs(np.array(shares) - np.array(last.at_or_below)).max(initial=0.0))
                found.append(Drift(named, distance, last.rows, len(values)))
    write_json({"version": index.version, "now": now, "before": before}, place)
    return sorted(found, key=lambda each: (-each.distance, each.column))


def _shares(ascending: np.ndarray, points: np.ndarray) -> list[float]:
    return [float(count) / max(1, len(ascending)) for count in np.searchsorted(ascending, points, side="right")]
