"""Which runs a recipe's trial consists of: on its coreset, and on what it is compared with."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import polars as pl

from dselect_core.coreset.published import read_version
from dselect_core.errors import DselectError
from dselect_core.pool.corpus_index import Index, read_index
from dselect_core.pool.pool_tables import pool_scores
from dselect_core.runs.run_store import Run, TrainingSet, of_samples
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.select.composition import first_source
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.trials import draws

TOKENS_OF_A_SAMPLE = 256
"""Where nothing of the pool was tokenised: for estimates of cost alone."""


@dataclass(frozen=True)
class Sample:
    """What a training set needs to know of a sample of the pool. Tokens are None where they are not counted."""

    source: str
    prompt_tokens: int | None
    response_tokens: int | None


@dataclass(frozen=True)
class TrialPool:
    """What a recipe chose, and could have chosen from. chosen: ids by rank; candidates: {id: sample}."""

    chosen: list[str]
    candidates: dict[str, Sample]

    @classmethod
    def of(cls, workspace: Workspace, recipe: str) -> "TrialPool":
        """Of the coreset and the corpus index as they are now. Raises DselectError where the coreset is not made."""
        try:
            order = read_version(workspace.coreset(recipe), lambda made: made.read_table("order.parquet"))
        except FileNotFoundError:
            raise DselectError(f"coreset {recipe}: not made yet; run `dselect refresh`") from None
        index = read_index(workspace)
        samples = index.candidates.select("sample_id", first_source()).join(
            _counted(workspace, index), on="sample_id", how="left"
        )
        return cls(order["sample_id"].to_list(), {row[0]: Sample(*row[1:]) for row in samples.iter_rows()})

    def response_tokens(self, ids: Iterable[str]) -> int | None:
        """Response tokens of samples; None where none of the pool is counted. A sample without a count is none."""
        if all(sample.response_tokens is None for sample in self.candidates.values()):
            return None
        found = [self.candidates[sample_id] for sample_id in ids if sample_id in self.candidates]
        return sum(sample.response_tokens or 0 for sample in found)

    def tokens(self, ids: Iterable[str], window: int) -> float:
        """All tokens of samples, each cut at a window; those that are not counted have the mean of the others."""
        known = self._known(window)
        return sum(known.get(sample_id, self._mean(window)) for sample_id in ids)

    @cache  # noqa: B019  (one pool lives as long as its trial)
    def _known(self, window: int) -> dict[str, int]:
        return {
            sample_id: min(window, sample.prompt_tokens + sample.response_tokens)
            for sample_id, sample in self.candidates.items()
            if sample.prompt_tokens is not None and sample.response_tokens is not None
        }

    @cache  # noqa: B019
    def _mean(self, window: int) -> float:
        known = self._known(window)
        return sum(known.values()) / len(known) if known else min(TOKENS_OF_A_SAMPLE, window)

    def __hash__(self) -> int:
        return id(self)


def _counted(workspace: Workspace, index: Index) -> pl.DataFrame:
    """sample_id, prompt_tokens, response_tokens, where some recipe has them counted."""
    columns = ["prompt_tokens", "response_tokens"]
    if "difficulty" not in index.fingerprints:
        return pl.DataFrame(schema={"sample_id": pl.String, **dict.fromkeys(columns, pl.Int64)})
    return pool_scores(workspace, index, "difficulty", columns).select("sample_id", pl.col(columns).cast(pl.Int64))


def training_sets(pool: TrialPool, trials: TrialsSpec) -> list[TrainingSet]:
    """The sets of a trial, in the order in which they are tuned. Sets that are not drawn come once a seed.

    Draws that would be larger than the pool are left out: such a multiple has no random draw.
    """
    ids, rows = list(pool.candidates), len(pool.chosen)
    orders = [draws.draw_order(ids, number) for number in range(trials.draws)]
    sets = [of_samples(draws.CORESET, seed, pool.chosen) for seed in range(trials.seeds)]
    sets += [of_samples(draws.RANDOM, number, order[:rows]) for number, order in enumerate(orders)]
    counted = {name: sample.response_tokens for name, sample in pool.candidates.items()}
    lengths = {name: tokens for name, tokens in counted.items() if tokens is not None}
    tokens = pool.response_tokens(pool.chosen)
    if "tokens" in trials.baselines and tokens:
        sets += [
            of_samples(draws.TOKENS, number, draws.take_tokens(order, lengths, tokens))
            for number, order in enumerate(orders)
        ]
    sources = {name: sample.source for name, sample in pool.candidates.items()}
    if "balanced" in trials.baselines and len(set(sources.values())) > 1:
        sets += [
            of_samples(draws.BALANCED, number, draws.take_balanced(order, sources, rows))
            for number, order in enumerate(orders)
        ]
    for factor in sorted(set(trials.multiples)):
        if factor * rows <= len(ids):
            sets += [
                of_samples(draws.multiple(factor), number, order[: factor * rows])
                for number, order in enumerate(orders[: trials.seeds])
            ]
    if "pool" in trials.baselines:
        sets += [of_samples(draws.POOL, seed, ids) for seed in range(trials.seeds)]
    return sets


def runs_of(sets: Iterable[TrainingSet], model: TunableModel) -> list[Run]:
    """A run for each set: its number is its seed."""
    return [Run(each, replace(model.tune_spec, seed=each.number), model.run_model) for each in sets]
