"""The records of a recipe's rounds → the selection that its coreset is made of."""

from dataclasses import replace

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.rounds.choose_round import rows_of
from dselect_core.rounds.make_round import Rounds
from dselect_core.rounds.round_record import OWN_COLUMNS, RoundRecord, read_record
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.composition import composition
from dselect_core.select.saved_order import SCHEMA, SavedOrder
from dselect_core.select.select import Selection
from dselect_core.select.strategies import strategy_with_options


def read_rounds(rounds: Rounds) -> list[RoundRecord]:
    """The records of all rounds. Raises DselectError where one is not made, or not of this recipe, pool or round."""
    records = [read_record(rounds.workspace, rounds.recipe, n + 1) for n in range(rounds.spec.round_count)]
    for before, record in zip([None, *records], records, strict=False):
        rounds.require_current(record)
        if record.facts["previous"] != (None if before is None else before.version):
            raise DselectError(
                f"round {record.number} follows another round {record.number - 1} than there is now: materialise "
                f"d3_round_{record.number} first (`dselect refresh` does)"
            )
    return records


def selection_of_rounds(rounds: Rounds, records: list[RoundRecord]) -> tuple[Pool, Selection]:
    """(the pool as the last round saw it, what all rounds chose).

    The order has a column `round` beside those of any order; a chosen row has the scores by which its round saw it, the
    warm-up rows those of the first round. The saved order has the same, and for the other rows what the last round saw.
    """
    last = records[-1]
    scores = [name for name in last.table.columns if name not in OWN_COLUMNS and name != "sample_id"]
    order = pl.concat([record.came_in for record in records]).sort("rank")
    order = order.select("sample_id", "rank", "gain", "round", *scores)
    others = last.table.join(order, on="sample_id", how="anti")
    chosen = order.with_columns(reason=pl.lit(None, pl.String), standing=pl.lit(None, pl.Float64), is_bound=False)
    seen = pl.when(pl.col("is_bound")).then(0).otherwise(order.height).cast(pl.Int32)
    table = pl.concat([chosen, others], how="diagonal").sort("sample_id")
    table = table.with_columns(
        pl.lit(None, pl.UInt32).alias("pass"), state_seen=seen.fill_null(0), state_round=pl.col("round")
    )
    columns = strategy_with_options(rounds.spec.strategy, rounds.spec.options).columns
    mixture, chosen_ids = rounds.mixture(), order["sample_id"].to_list()
    if mixture is not None:
        groups = rounds.selectable.pool.scores.select("sample_id", state_group=pl.lit(pl.Series(mixture.groups)))
        table = table.join(groups, on="sample_id", how="left", maintain_order="left")
    key = fingerprint([last.version, rounds.pool_version, rounds.spec_version])
    tokens = order["response_tokens"] if "response_tokens" in scores else None
    pool = replace(rounds.pool, scores=last.table.select("sample_id", *scores))
    selection = Selection(
        order=order,
        excluded=others.select("sample_id", "reason").drop_nulls("reason").sort("sample_id"),
        pool_size=last.table.height,
        passes=None,
        rows=order.height,
        tokens=None if tokens is None or tokens.null_count() else int(tokens.sum()),
        composition=composition(pool, order),
        mixture=None if mixture is None else mixture.table(rows_of(rounds.selectable.pool, chosen_ids)),
        saved=SavedOrder(key, table.select(*SCHEMA, *columns, pl.col("^state_.*$"))),
        saved_changed=True,
        reused=order.height,
    )
    return pool, selection
