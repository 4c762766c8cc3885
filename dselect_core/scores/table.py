"""One score table: rows by sample id under one recipe, kept whole in one Parquet file.

Rows that the table already holds under the same recipe are kept; only the others are computed. The
table's version hashes the recipe, the ids and which of them are null, never the floats: float noise of
another batching moves nothing downstream. Trade-off: the file is rewritten whole, a killed run keeps
nothing of the table it was making, and reuse does not cross sources.
"""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl
from upath import UPath

from dselect_core.fingerprint import digest, fingerprint
from dselect_core.tables import read_with_metadata, write_parquet


@dataclass(frozen=True)
class TableReport:
    """What happened to a table: its rows, and how many were computed and kept."""

    frame: pl.DataFrame
    version: str
    fingerprint: str
    computed: int
    reused: int
    tokens: int | None

    @property
    def value(self) -> pl.Series:
        """The score itself: the first column that is not an id. Null there means the row has no score."""
        return self.frame[_value_column(self.frame)]


def kept_rows(path: UPath, recipe: dict[str, Any], keys: pl.DataFrame) -> pl.DataFrame | None:
    """Rows of the table at `path` that hold under `recipe`, limited to `keys`; None when there are none.

    keys: the id columns that must match (sample_id; and shot_id for MIWV). A row without a value is not
    kept: it is tried again.
    """
    try:
        table, metadata = read_with_metadata(path)
    except FileNotFoundError:
        return None
    if metadata.get("fingerprint") != fingerprint(recipe):
        return None
    held = table.filter(pl.col(_value_column(table)).is_not_null()).join(keys, on=keys.columns, how="semi")
    return held if held.height else None


def write_table(
    path: UPath, held: pl.DataFrame | None, fresh: pl.DataFrame | None, recipe: dict[str, Any]
) -> TableReport:
    """Write kept and computed rows as one table, ascending by sample id, with its recipe and version."""
    parts = [part for part in (held, fresh) if part is not None]
    frame = (
        pl.concat(parts).sort("sample_id") if parts else pl.DataFrame(schema={"sample_id": pl.String, "value": pl.Null})
    )
    null = frame[_value_column(frame)].is_null()
    ids = frame.select(pl.concat_str(pl.selectors.ends_with("_id").fill_null(""), separator="/")).to_series()
    version = digest([fingerprint(recipe), *ids, *null.cast(pl.String)])
    metadata = {"fingerprint": fingerprint(recipe), "version": version, "recipe": json.dumps(recipe, sort_keys=True)}
    write_parquet(frame, path, metadata)
    return TableReport(
        frame,
        version,
        fingerprint(recipe),
        computed=0 if fresh is None else fresh.height,
        reused=0 if held is None else held.height,
        tokens=_tokens(fresh),
    )


def _tokens(fresh: pl.DataFrame | None) -> int | None:
    """Tokens of the computed rows, where the table counts them."""
    if fresh is None or not {"prompt_tokens", "response_tokens"} <= set(fresh.columns):
        return None
    return int(fresh.select(pl.col("prompt_tokens").sum() + pl.col("response_tokens").sum()).item())


def _value_column(frame: pl.DataFrame) -> str:
    return next(name for name in frame.columns if not name.endswith("_id"))
