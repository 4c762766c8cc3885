"""The record of a round: what it saw, whom it chose and why. One file a round and recipe, written whole.

A row per sample of the pool, by id: the scores that the round saw, then
  reason      why d3 could not choose it in this round; null where it could
  round       in which it was chosen, this one's or an earlier round's number; 0: a warm-up row; null: not chosen yet
  rank, gain  of the coreset so far, as the round that chose it gave them; no gain for warm-up rows
  standing    the gain it would have had as the next pick, or an upper bound of it (`is_bound`); null where chosen

In the metadata, as JSON: the recipe's version, the pool's, the record before, the model and how it was tuned, the
stores of the scores, the share of the budget. Nothing of the day or of what was computed: equal rounds are equal files.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_with_metadata, write_parquet

OWN_COLUMNS: dict[str, pl.DataType] = {
    "reason": pl.String(),
    "round": pl.UInt32(),
    "rank": pl.UInt32(),
    "gain": pl.Float64(),
    "standing": pl.Float64(),
    "is_bound": pl.Boolean(),
}
WARM_UP = 0
"""The round of the warm-up rows."""


def asset_of_round(number: int) -> str:
    """Name of the asset that makes a round, from 1. It is the name of its set of partitions too."""
    return f"d3_round_{number}"


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """facts: recipe, round, rounds, spec, pool, previous, model, tuned_on, tuning, scores, share; JSON values."""

    table: pl.DataFrame = field(repr=False)
    facts: dict[str, Any]

    @property
    def number(self) -> int:
        """Of the round, from 1."""
        return int(self.facts["round"])

    @cached_property
    def chosen(self) -> pl.DataFrame:
        """The rows chosen so far, by rank."""
        return self.table.filter(pl.col("round").is_not_null()).sort("rank")

    @property
    def came_in(self) -> pl.DataFrame:
        """The rows that this round chose, by rank; with the first round, the warm-up rows too."""
        first = WARM_UP if self.number == 1 else self.number
        return self.chosen.filter(pl.col("round").is_between(first, self.number))

    @cached_property
    def version(self) -> str:
        """Moves when another model scores, or other rows are chosen, in this round or one before it."""
        rows = self.chosen.select("sample_id", "round").rows()
        return fingerprint([*(self.facts[key] for key in ("revision", "previous", "model", "scores")), rows])


def write_record(workspace: Workspace, recipe: str, record: RoundRecord) -> None:
    """Keep a round's record."""
    write_parquet(record.table, workspace.round_record(recipe, record.number), {"round": json.dumps(record.facts)})


def read_record(workspace: Workspace, recipe: str, number: int) -> RoundRecord:
    """A round's record. Raises DselectError where it is not made yet, DamagedFileError."""
    path = workspace.round_record(recipe, number)
    try:
        table, metadata = read_with_metadata(path)
    except FileNotFoundError:
        raise DselectError(f"{path}: round {number} of {recipe} is not made yet; run `dselect refresh`") from None
    try:
        return RoundRecord(table, json.loads(metadata["round"]))
    except (KeyError, ValueError):
        raise DamagedFileError(path, "not the record of a round") from None
