"""What the rounds of a recipe will have to do: for plans. It only reads.

A round whose scores are all there is chosen here as its run will choose, so the model of the next one is known, and the
figures are those of the runs up to the first round that has something to compute. The models of the rounds after it are
not known before that run: they count as new, which is the most there can be to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.rounds.choose_round import budget_amount, cumulative_shares
from dselect_core.rounds.make_round import Rounds
from dselect_core.rounds.round_record import RoundRecord, read_record
from dselect_core.scores.forward_scores import forward_kinds
from dselect_core.select.recipe import CoresetSpec
from dselect_core.settings.workspace import Workspace


@dataclass(frozen=True)
class RoundTodo:
    """What a round has to do.

    tunes_on: sample ids that its model is still to be tuned on, or how many there will be; none where it is there.
    missing: sample_id of the rows to score; None: as many as `rows`, the whole pool. version: of the record there will
    be; None where it is not known before the run. exact: whether the run does exactly this.
    """

    number: int
    tunes_on: Sequence[str] | int
    rows: int
    missing: pl.DataFrame | None
    version: str | None = None
    exact: bool = True


def rounds_todo(rounds: Rounds) -> list[RoundTodo]:
    """Of all rounds, from the first, over the pool as it is. Raises DselectError as the rounds do."""
    todos: list[RoundTodo] = []
    before: RoundRecord | None = None
    for number in range(1, rounds.spec.round_count + 1):
        model = rounds.model(number, before)
        missing = rounds.scores(model).missing_rows()
        if missing.height:
            tunes_on = () if model.run is None or model.is_tuned else model.run.training_set.ids
            todos.append(RoundTodo(number, tunes_on, missing.height, missing))
            rows = rounds.index.candidates.height
            return [*todos, *_not_known(rounds.spec, rounds.index.frame.height, rows, number + 1)]
        before = rounds.choose(number, before, model)
        todos.append(RoundTodo(number, (), 0, missing, before.version))
    return todos


def future_rounds(
    workspace: Workspace,
    recipe: str,
    spec: CoresetSpec,
    pool_size: int,
    candidate_ids: pl.DataFrame,
    *,
    warm_up_stays: bool,
) -> list[RoundTodo]:
    """Of all rounds over a pool that there will be.

    pool_size: samples of that pool; candidate_ids: sample_id of those that may be chosen. warm_up_stays: the first
    round's model is taken to be that of its record.
    """
    rows = candidate_ids.height
    if spec.warmup is None:  # the first round reads the target model's scores
        return [
            RoundTodo(1, (), 0, candidate_ids.clear(), exact=False),
            *_not_known(spec, pool_size, rows, 2),
        ]
    first = RoundTodo(1, spec.warmup.samples, rows, None, exact=False)
    try:
        stores = read_record(workspace, recipe, 1).facts["scores"] if warm_up_stays else None
    except DselectError:
        stores = None
    if stores is None:
        return [first, *_not_known(spec, pool_size, rows, 2)]
    missing = candidate_ids.clear()
    for kind, fingerprint in stores.items():
        if kind in forward_kinds(workspace.settings):
            missing = pl.concat([missing, workspace.open_store(kind, fingerprint).missing(candidate_ids)])
    missing = missing.unique().sort("sample_id")
    first = RoundTodo(1, (), missing.height, missing, exact=False)
    return [first, *_not_known(spec, pool_size, rows, 2)]


def _not_known(spec: CoresetSpec, pool_size: int, rows: int, first: int) -> list[RoundTodo]:
    """The rounds from `first` on, as the most that there can be to do."""
    try:
        shares = cumulative_shares(budget_amount(spec, pool_size), spec.round_count)
    except DselectError:
        return []
    return [
        RoundTodo(number, shares[number - 2] if number > 1 else 0, rows, None, exact=False)
        for number in range(first, spec.round_count + 1)
    ]
