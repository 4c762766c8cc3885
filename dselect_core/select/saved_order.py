"""An order that is saved: its picks so far, the state to continue from, and how the other rows stand. One Parquet file.

The file has a row per sample of the pool, those a strategy cannot use among them, and is named by the content hash of
all that the order depends on (order_key.py): whoever has the same inputs and strategy shares it, whatever the budget,
and no stale order can be taken for a current one. Losing the file costs time and nothing else: two recipes that write
at once leave one of their two orders, whole, and the rest is made again when it is needed.

SCHEMA, then the strategy's own score columns as they were in the pool, then its state (`state_<name>`):
  sample_id   ascending
  reason      why the strategy could not use the sample; null where it could
  rank        from 1; null where not picked
  gain, pass  of the pick, as in `Pick`
  standing    the gain the sample would have as the next pick, or an upper bound of it (`SavedOrder.is_bound`); null
              where picked or not defined
"""

import logging
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from upath import UPath

from dselect_core.errors import DselectError
from dselect_core.select.order import Pick
from dselect_core.storage.files import read_metadata, read_with_metadata, write_parquet

SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "reason": pl.String(),
    "rank": pl.UInt32(),
    "gain": pl.Float64(),
    "pass": pl.UInt32(),
    "standing": pl.Float64(),
}
_STATE = "state_"
_SEEN = _STATE + "seen"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SavedOrder:
    """An order as far as it was made. table: as in the file; key: see order_key.py.

    Rows of picks, state and standing are those the strategy sees: the samples without a reason, by id.
    """

    key: str
    table: pl.DataFrame = field(repr=False)

    @classmethod
    def of(
        cls, key: str, samples: pl.DataFrame, picks: list[Pick], state: dict[str, np.ndarray], standing: np.ndarray
    ) -> "SavedOrder":
        """samples: sample_id, reason, score columns; a row per sample of the pool. state, standing: after `picks`."""
        steps = pl.DataFrame(
            {
                "row": pl.Series([pick.row for pick in picks], dtype=pl.UInt32),
                "rank": pl.Series(range(1, len(picks) + 1), dtype=pl.UInt32),
                "gain": pl.Series([pick.gain for pick in picks], dtype=pl.Float64),
                "pass": pl.Series([pick.cover_pass for pick in picks], dtype=pl.UInt32),
            }
        )
        arrays = {_STATE + name: pl.Series(values) for name, values in state.items()}
        ordered = (
            samples.filter(pl.col("reason").is_null())
            .select("sample_id")
            .with_columns(pl.Series("standing", standing, dtype=pl.Float64, nan_to_null=True), **arrays)
            .with_row_index("row")
            .join(steps, on="row", how="left", maintain_order="left")
        )
        table = samples.join(ordered, on="sample_id", how="left", maintain_order="left")
        return cls(key, table.select(*SCHEMA, *samples.columns[2:], *arrays))

    @cached_property
    def picks(self) -> list[Pick]:
        """The picks so far, in their order."""
        picked = self._ordered.with_row_index("row").drop_nulls("rank").sort("rank")
        return [Pick(*step) for step in picked.select("row", "gain", "pass").iter_rows()]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """By name, as `Order.state` gave it."""
        ordered = self._ordered
        return {c.removeprefix(_STATE): ordered[c].to_numpy() for c in ordered.columns if c.startswith(_STATE)}

    @property
    def standing(self) -> np.ndarray:
        """float64 [n], NaN where null, as `Order.standing` gave it."""
        return self._ordered["standing"].fill_null(float("nan")).to_numpy()

    @property
    def is_bound(self) -> pl.Expr:
        """Boolean, of rows of `table`: their standing is an upper bound that may not be reached. Null where picked."""
        if _SEEN not in self.table.columns:
            return pl.lit(False)
        return (pl.col(_SEEN) < len(self.picks)) & (pl.col("standing") > 0)

    @property
    def _ordered(self) -> pl.DataFrame:
        return self.table.filter(pl.col("reason").is_null())


def read_saved_order(upath: UPath, key: str) -> SavedOrder | None:
    """The saved order of that key. None where there is none; with a warning in the log, where it cannot be read."""
    try:
        table, metadata = read_with_metadata(upath)
    except FileNotFoundError:
        return None
    except (DselectError, OSError) as error:
        _log.warning("saved order %s is ignored, the order is made from its start: %s", upath, error)
        return None
    return SavedOrder(key, table) if metadata.get("key") == key else None


def write_saved_order(saved: SavedOrder, upath: UPath) -> None:
    """Write `saved`, unless a longer order of the same key has been written there since it was read."""
    try:
        there = read_metadata(upath)
    except (DselectError, OSError):
        there = {}
    if there.get("key") == saved.key and int(there["picks"]) > len(saved.picks):
        return
    write_parquet(saved.table, upath, {"key": saved.key, "picks": str(len(saved.picks))})
