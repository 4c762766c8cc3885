"""Is the coreset better than a random draw of its size? Intervals over draws, seeds and eval rows. [ours]

Two things are uncertain. Random draws differ: the coreset is held to what *one further random draw* would do, so its
difference is measured against the spread of single draws (a prediction interval by Student's t with draws - 1 degrees
of freedom; Crawford and Howell 1998, "Comparing an individual's test score against norms derived from small samples").
Comparing means alone would call a lucky random draw better. And the eval rows are a sample: their part is the variance
of the difference over a bootstrap that resamples rows within each eval set, the same for all runs, so it is paired.

What this trades off: with few draws the interval is wide (5 draws: 3.0 spreads, 20: 2.1), and what lies inside is
called no difference. Against a set that is not drawn (the whole pool) it is Welch's interval over seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Of all intervals, two-sided."""

_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Marks:
    """What was measured of the runs on one training set, by eval set.

    values: {eval set: float64 [runs, rows]}; weights: {eval set: float64 [rows]}, how much a row counts (its tokens, or
    1). Both have the same rows in the same order for every training set.
    """

    values: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]

    @property
    def runs(self) -> int:
        """Number of runs."""
        return int(next(iter(self.values.values())).shape[0])

    def only(self, name: str) -> "Marks":
        """The marks on one eval set."""
        return Marks({name: self.values[name]}, {name: self.weights[name]})

    def per_run(self) -> np.ndarray:
        """float64 [runs]: the weighted mean over the rows of each eval set, then the mean over eval sets."""
        return self.resampled({name: np.ones((1, len(weights))) for name, weights in self.weights.items()})[:, 0]

    def resampled(self, counts: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64 [runs, resamples]: `per_run` where each row counts as often as `counts` says.

        counts: {eval set: float64 [resamples, rows]}.
        """
        means = [
            values @ (counts[name] * self.weights[name]).T / (counts[name] @ self.weights[name])
            for name, values in self.values.items()
        ]
        return np.asarray(np.mean(means, axis=0))


@dataclass(frozen=True)
class Difference:
    """By how much the coreset is better than another set, and half of the width of its interval; both in the metric."""

    better_by: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.better_by - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.better_by + self.half_width


def difference(coreset: Marks, other: Marks, *, drawn: bool, higher_is_better: bool, seed: int = 0) -> Difference:
    """The coreset against another training set. drawn: each run of the other set is a random draw of its own.

    Raises ValueError where a drawn set has fewer than two runs: it has no spread then.
    """
    sign = 1.0 if higher_is_better else -1.0
    ours, theirs = coreset.per_run(), other.per_run()
    better_by = sign * float(ours.mean() - theirs.mean())
    of_rows = _variance_over_rows(coreset, other, np.random.default_rng(seed))
    if drawn:
        if len(theirs) < 2:
            raise ValueError("a spread needs two draws")
        degrees = float(len(theirs) - 1)
        variance = float(theirs.var(ddof=1)) * (1 + 1 / len(theirs))
    else:
        degrees, variance = _welch(ours, theirs)
    factor = float(stats.t.ppf((1 + LEVEL) / 2, degrees))
    return Difference(better_by, factor * float(np.sqrt(variance + of_rows)))


def _welch(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """(degrees of freedom, variance) of the difference of two means; runs of one set alone have no spread."""
    parts = [(float(values.var(ddof=1)) / len(values), len(values)) for values in (ours, theirs) if len(values) > 1]
    variance = sum(part for part, _ in parts)
    if not variance:
        return 1e6, 0.0
    return variance**2 / sum(part**2 / (count - 1) for part, count in parts if part), variance


def _variance_over_rows(coreset: Marks, other: Marks, random: np.random.Generator) -> float:
    """Variance of the difference of the two means when the eval rows are drawn again."""
    counts = _row_counts(coreset, random)
    return float(np.var(coreset.resampled(counts).mean(axis=0) - other.resampled(counts).mean(axis=0), ddof=1))


def _row_counts(marks: Marks, random: np.random.Generator) -> dict[str, np.ndarray]:
    """How often each eval row is drawn in each resample; the same for all runs, so that differences are paired."""
    sizes = {name: len(weights) for name, weights in marks.weights.items()}
    return {name: random.multinomial(n, [1 / n] * n, size=_RESAMPLES).astype(np.float64) for name, n in sizes.items()}


def crossing(loss: float, curve: Mapping[int, float]) -> float:
    """The multiple of the budget at which random draws first reach `loss`, linear in the logarithm of the multiple.

    curve: {multiple: their mean loss}. Below 1 and beyond the largest multiple nothing is extrapolated: 1, or infinity.
    """
    multiples = sorted(curve)
    if loss >= curve[multiples[0]]:
        return float(multiples[0])
    for smaller, larger in pairwise(multiples):
        above, below = curve[smaller], curve[larger]
        if below <= loss < above:
            share = (above - loss) / (above - below)
            return float(2 ** (np.log2(smaller) + share * (np.log2(larger) - np.log2(smaller))))
    return float("inf")


def multiplier(coreset: Marks, random_draws: Mapping[int, Marks], seed: int = 0) -> tuple[float, float, float]:
    """(value, low, high): how much more random data reaches the coreset's loss; infinity where it lies beyond.

    random_draws: {multiple of the budget: marks}, with 1 among them. The interval is a bootstrap over eval rows, draws
    and seeds.
    """
    value = crossing(
        float(coreset.per_run().mean()), {k: float(marks.per_run().mean()) for k, marks in random_draws.items()}
    )
    random = np.random.default_rng(seed)
    counts = _row_counts(coreset, random)
    ours = _means_of_resampled_runs(coreset, counts, random)
    curves = {k: _means_of_resampled_runs(marks, counts, random) for k, marks in random_draws.items()}
    found = [crossing(float(ours[b]), {k: float(losses[b]) for k, losses in curves.items()}) for b in range(len(ours))]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail], method="nearest")
    return value, float(low), float(high)


def _means_of_resampled_runs(marks: Marks, counts: Mapping[str, np.ndarray], random: np.random.Generator) -> np.ndarray:
    """float64 [resamples]: the mean over runs that are drawn again, on eval rows that are."""
    per_run = marks.resampled(counts)
    chosen = random.integers(0, len(per_run), size=per_run.shape)
    return np.asarray(np.take_along_axis(per_run, chosen, axis=0).mean(axis=0))
