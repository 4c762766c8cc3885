"""An order that is saved: picks, the state to continue from, and the standing of the other rows.

The file has a row per sample of the pool, also for those the strategy cannot use. It is named by the order's key, a
hash of all that the order depends on (order_key.py): recipes with the same inputs and strategy share it, whatever their
budgets, and no stale order can be taken for a current one. Losing the file costs only time. Of two recipes that write
at once, one order stays, whole; the other is made again when it is needed.

SCHEMA, then the strategy's own score columns as they were in the pool, then its state (`state_<name>`):
  sample_id   ascending
  reason      why the strategy could not use the sample; null where it could
  rank        from 1; null where not picked
  gain, pass  of the pick, as in `Pick`
  standing    the gain the sample would have as the next pick, or an upper bound of it (`SavedOrder.is_bound`); null
              where picked or not defined
"""

import json
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
    """An order as far as it was made. key: of order_key.py; table: as in the file; facts: as `Order.facts`.

    Row numbers of picks, state and standing count the samples that the strategy can use (no reason), by id.
    """

    key: str
    table: pl.DataFrame = field(repr=False)
    facts: dict[str, str | int | float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        key: str,
        samples: pl.DataFrame,
        picks: list[Pick],
        state: dict[str, np.ndarray],
        standing: np.ndarray,
        facts: dict[str, str | int | float] | None = None,
    ) -> "SavedOrder":
        """The order after `picks`, with its `state`, `standing` and `facts` at that point.

        samples: sample_id, reason, then the strategy's score columns; a row per sample of the pool, by id.
        """
        picked = pl.DataFrame(
            {
                "row": pl.Series([pick.row for pick in picks], dtype=pl.UInt32),
                "rank": pl.Series(range(1, len(picks) + 1), dtype=pl.UInt32),
                "gain": pl.Series([pick.gain for pick in picks], dtype=pl.Float64),
                "pass": pl.Series([pick.cover_pass for pick in picks], dtype=pl.UInt32),
            }
        )
        arrays = {_STATE + name: pl.Series(values) for name, values in state.items()}
        usable = (
            samples.filter(pl.col("reason").is_null())
            .select("sample_id")
            .with_columns(pl.Series("standing", standing, dtype=pl.Float64, nan_to_null=True), **arrays)
            .with_row_index("row")
            .join(picked, on="row", how="left", maintain_order="left")
        )
        table = samples.join(usable, on="sample_id", how="left", maintain_order="left")
        return cls(key, table.select(*SCHEMA, *samples.columns[2:], *arrays), facts or {})

    @cached_property
    def picks(self) -> list[Pick]:
        """The picks so far, in their order."""
        picked = self._usable.with_row_index("row").drop_nulls("rank").sort("rank")
        return [Pick(*pick) for pick in picked.select("row", "gain", "pass").iter_rows()]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """{name: one value per row}, as `Order.state` gave it."""
        usable = self._usable
        return {c.removeprefix(_STATE): usable[c].to_numpy() for c in usable.columns if c.startswith(_STATE)}

    @property
    def standing(self) -> np.ndarray:
        """float64 [n], NaN where null, as `Order.standing` gave it."""
        return self._usable["standing"].fill_null(float("nan")).to_numpy()

    @property
    def is_bound(self) -> pl.Expr:
        """Boolean, over `table`: whether the standing is an upper bound that may not be reached. Null where picked.

        It is one too where a row has no grade yet, and stands by the most that it can be.
        """
        columns = self.table.columns
        scores = [name for name in columns if name not in SCHEMA and not name.startswith(_STATE)]
        by_bound = pl.col("reason").is_null() & pl.any_horizontal(pl.lit(False), *(pl.col(c).is_null() for c in scores))
        is_behind = pl.col(_SEEN) < len(self.picks) if _SEEN in columns else pl.lit(False)
        return (is_behind | by_bound) & (pl.col("standing") > 0)

    @property
    def _usable(self) -> pl.DataFrame:
        return self.table.filter(pl.col("reason").is_null())


def read_saved_order(upath: UPath, key: str) -> SavedOrder | None:
    """The saved order of that key. None where there is none, or where it cannot be read: then the log has a warning."""
    try:
        table, metadata = read_with_metadata(upath)
    except FileNotFoundError:
        return None
    except (DselectError, OSError) as error:
        _log.warning("saved order %s is ignored, the order is made from its start: %s", upath, error)
        return None
    return SavedOrder(key, table, json.loads(metadata.get("facts", "{}"))) if metadata.get("key") == key else None


def count_saved_picks(upath: UPath) -> int:
    """Picks of the saved order in that file; 0 where there is none, or where it cannot be read."""
    try:
        return int(read_metadata(upath)["picks"])
    except (DselectError, OSError, KeyError):
        return 0


def write_saved_order(saved: SavedOrder, upath: UPath) -> None:
    """Write `saved`, unless a longer order of the same key has been written there since it was read."""
    try:
        metadata = read_metadata(upath)
    except (DselectError, FileNotFoundError):
        metadata = {}
    if metadata.get("key") == saved.key and int(metadata["picks"]) > len(saved.picks):
        return
    facts = {"facts": json.dumps(saved.facts)} if saved.facts else {}
    write_parquet(saved.table, upath, {"key": saved.key, "picks": str(len(saved.picks)), **facts})
