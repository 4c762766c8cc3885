"""Make a round of a recipe: tune its model, score the pool by it, choose its share, and record who came in and why.

A round reads what the rounds before it chose, from their records, and nothing else of them. Everything that costs is
kept by what it follows from: the tuned model by its training set, each score by its model. So an edit does again what
it moves, and a round that was killed goes on.

`Rounds` is what a plan (rounds_todo.py) and the making ask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import Kind, kind_of
from dselect_core.pool.corpus_index import Index
from dselect_core.pool.pool_tables import fingerprint_of_pool, load_pool, pool_samples
from dselect_core.progress import Progress
from dselect_core.rounds.choose_round import (
    Selectable,
    budget_amount,
    choose,
    cumulative_shares,
    rows_of,
    warm_up_rows,
)
from dselect_core.rounds.round_model import RoundModel
from dselect_core.rounds.round_record import OWN_COLUMNS, WARM_UP, RoundRecord, read_record, write_record
from dselect_core.rounds.round_scores import RoundScores
from dselect_core.runs.run_store import of_samples
from dselect_core.runs.tunable_model import TunableModel
from dselect_core.scores.forward_scores import forward_kinds
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.d3 import D3
from dselect_core.select.mixture import Mixture
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import required_kinds
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped

REVISION = 1
"""Goes up when the same recipe over the same scores chooses other rows, or records something else."""


@dataclass(frozen=True)
class MadeRound:
    """A round that was made. tuned_tokens, scored_tokens: through the model, now; rows_computed: scored now."""

    record: RoundRecord
    rows_computed: int
    rows_reused: int
    tuned: bool
    tuned_tokens: int
    scored_tokens: int


@dataclass(frozen=True)
class Rounds:
    """The rounds of a recipe over the pool of an index.

    spec_version: of the recipe, as its record has it; pool_version: of what it chooses from. Both say which records are
    of these rounds.
    """

    workspace: Workspace
    recipe: str
    spec: CoresetSpec
    index: Index
    spec_version: str
    pool_version: str

    @cached_property
    def pool(self) -> Pool:
        """The pool with the target model's scores."""
        return load_pool(self.workspace, self.index, required_kinds(self.spec), self.spec.grade)

    @cached_property
    def base(self) -> TunableModel:
        """The target model."""
        return TunableModel.of_target(self.workspace, self.workspace.settings.feedback)

    @cached_property
    def selectable(self) -> Selectable:
        """What d3 can choose by the target model's scores."""
        return Selectable.of(self.pool, self.spec)

    @cached_property
    def warm_up(self) -> list[str]:
        """Ids of the warm-up rows; none where the recipe has no `warmup`."""
        if self.spec.warmup is None:
            return []
        return warm_up_rows(self.selectable, self.spec, self.mixture() if self.spec.warmup.in_budget else None)

    @cached_property
    def shares(self) -> list[int]:
        """Rows or tokens that are chosen by the end of each round."""
        return cumulative_shares(budget_amount(self.spec, len(self.pool)), self.spec.round_count)

    @property
    def by_tokens(self) -> bool:
        """Whether the budget is in response tokens."""
        return self.spec.budget.unit == "tokens"

    def mixture(self, chosen: Sequence[str] = ()) -> Mixture | None:
        """`quota` or `balance`, after these samples were chosen; None where the recipe has neither."""
        return self.selectable.mixture(self.spec, self.shares[-1], chosen) if self.spec.has_mixture else None

    def model(self, number: int, before: RoundRecord | None) -> RoundModel:
        """The model of a round. before: the record of the round before it; None for the first.

        Raises DselectError where the warm-up rows are too few, or more than the first share.
        """
        if before is not None:
            name, ids = f"chosen before round {number}", before.chosen["sample_id"].to_list()
        elif self.spec.warmup is not None:
            self._check_first_share()
            name, ids = "warm-up", self.warm_up
        else:
            return RoundModel(self.base, None)
        return RoundModel.tuned_on(self.base, of_samples(name, 0, ids), self.spec.seed)

    def scores(self, model: RoundModel) -> RoundScores:
        """The scores of the pool by a round's model."""
        return RoundScores(self.workspace, self.index, model)

    def choose(self, number: int, before: RoundRecord | None, model: RoundModel) -> RoundRecord:
        """Whom a round chooses, once all scores of its model are there. Writes nothing.

        Raises DselectError where its share cannot be filled.
        """
        pool = self.scores(model).pool(self.pool)
        selectable = Selectable.of(pool, self.spec, self.selectable if self.spec.has_mixture else None)
        chosen = self._chosen(before)
        spent, chosen_ids = self._spent(chosen), chosen["sample_id"].to_list()
        mixture = self.mixture(chosen_ids)
        given = rows_of(selectable.pool, chosen_ids)
        choice = choose(selectable, self.spec, given, spent, self.shares[number - 1], mixture)
        if chosen.is_empty() and not choice.picks:
            raise DselectError(
                f"the first share, {self.shares[0]} response tokens, buys nothing: the first pick alone has more"
            )
        ids = selectable.pool.sample_ids.to_numpy()
        came_in = pl.DataFrame(
            {
                "sample_id": [ids[pick.row] for pick in choice.picks],
                "round": pl.Series([number] * len(choice.picks), dtype=pl.UInt32),
                "rank": pl.Series(range(chosen.height + 1, chosen.height + len(choice.picks) + 1), dtype=pl.UInt32),
                "gain": pl.Series([pick.gain for pick in choice.picks], dtype=pl.Float64),
            },
            schema_overrides={"sample_id": pl.String},
        )
        standings = pl.DataFrame(
            {
                "sample_id": selectable.pool.sample_ids,
                "standing": pl.Series(choice.standing, dtype=pl.Float64, nan_to_null=True),
                "is_bound": choice.is_bound,
            }
        )
        table = pool.scores.with_columns(selectable.reasons.alias("reason"))
        for more in (pl.concat([chosen, came_in]), standings):
            table = table.join(more, on="sample_id", how="left", maintain_order="left")
        return RoundRecord(table.select(*pool.scores.columns, *OWN_COLUMNS), self._facts(number, before, model))

    def _chosen(self, before: RoundRecord | None) -> pl.DataFrame:
        """sample_id, round, rank, gain of what was chosen before a round, by rank."""
        if before is not None:
            return before.chosen.select("sample_id", "round", "rank", "gain")
        in_budget = self.spec.warmup is not None and self.spec.warmup.in_budget
        ids = self.warm_up if in_budget else []
        return pl.DataFrame(
            {
                "sample_id": pl.Series(ids, dtype=pl.String),
                "round": pl.Series([WARM_UP] * len(ids), dtype=pl.UInt32),
                "rank": pl.Series(range(1, len(ids) + 1), dtype=pl.UInt32),
                "gain": pl.Series([None] * len(ids), dtype=pl.Float64),
            }
        )

    def _spent(self, chosen: pl.DataFrame) -> int:
        if not self.by_tokens:
            return chosen.height
        lengths = self.pool.scores.select("sample_id", pl.col("response_tokens").cast(pl.Int64))
        return int(chosen.join(lengths, on="sample_id")["response_tokens"].sum())

    def _check_first_share(self) -> None:
        spent = self._spent(self._chosen(None))
        if spent > self.shares[0]:
            unit = "response tokens" if self.by_tokens else "rows"
            raise DselectError(
                f"the warm-up rows take {spent} {unit}, and the first of {self.spec.round_count} rounds has "
                f"{self.shares[0]}: lower `warmup.samples`, raise the budget, or say `warmup: {{in_budget: false}}`"
            )

    def _facts(self, number: int, before: RoundRecord | None, model: RoundModel) -> dict[str, Any]:
        stores = {name: store.fingerprint for name, store in self.scores(model).stores.items()}
        others = {name: fingerprint_of_pool(self.workspace, self.index, kind) for name, kind in self._other_kinds()}
        return {
            "revision": REVISION,
            "recipe": self.recipe,
            "round": number,
            "rounds": self.spec.round_count,
            "spec": self.spec_version,
            "pool": self.pool_version,
            "previous": None if before is None else before.version,
            "model": model.fingerprint,
            "target_model": self.base.identity,
            "tuned_on": None if model.run is None else model.run.training_set.name,
            "tuned_on_rows": 0 if model.run is None else len(model.run.training_set.ids),
            "run": None if model.run is None else model.run.fingerprint,
            "tuning": {k: v for k, v in model.facts.items() if k in ("steps", "tokens", "rows_left_out")},
            "scores": {**stores, **others},
            "budget": str(self.spec.budget),
            "share": self.shares[number - 1] - (self.shares[number - 2] if number > 1 else 0),
        }

    def _other_kinds(self) -> list[tuple[str, Kind]]:
        needs = D3.needs if self.spec.grade is None else self.spec.grade.of_needs(D3.needs)
        return [(name, kind_of(name)) for name in sorted(needs - forward_kinds(self.workspace.settings))]

    def require_current(self, record: RoundRecord) -> None:
        """Raises DselectError where a round was made of another recipe or pool than this."""
        facts = record.facts
        if (facts["spec"], facts["pool"], facts["revision"]) != (self.spec_version, self.pool_version, REVISION):
            raise DselectError(
                f"round {record.number} of {self.recipe} is of an earlier pool or recipe: materialise "
                f"d3_round_{record.number} first (`dselect refresh` does)"
            )

    def record_before(self, number: int) -> RoundRecord | None:
        """The record of the round before one; None before the first. Raises DselectError where it is not current."""
        if number == 1:
            return None
        record = read_record(self.workspace, self.recipe, number - 1)
        self.require_current(record)
        return record


def make_round(rounds: Rounds, number: int, progress: Progress | None = None) -> MadeRound:
    """Tune, score, choose, and keep the record. progress: of scoring, in rows.

    Raises DselectError naming the recipe and the round: the round before is not current, a share cannot be filled, a
    model cannot be tuned.
    """
    try:
        before = rounds.record_before(number)
        model = rounds.model(number, before)
        scores = rounds.scores(model)
        candidates, missing = rounds.index.candidates.height, scores.missing_rows().height
        samples = cache(lambda: pool_samples(rounds.workspace, rounds.index))
        is_tuned = model.is_tuned
        scored = scores.compute(lambda: model.open(samples), samples, progress)
        was_tuned = not is_tuned and model.is_tuned
        record = rounds.choose(number, before, model)
    except DselectError as error:
        raise DselectError(f"round {number} of {rounds.recipe}: {error}") from error
    raise_if_stopped()  # nothing is recorded after it
    write_record(rounds.workspace, rounds.recipe, record)
    tokens = int(model.facts.get("tokens", 0)) if was_tuned else 0
    return MadeRound(record, missing, candidates - missing, was_tuned, tokens, scored)
