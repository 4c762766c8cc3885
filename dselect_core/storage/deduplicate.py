"""One row per key from the rows of several parts: the same row in two parts is harmless, and this says which counts."""

from collections.abc import Sequence

import polars as pl

from dselect_core.storage.store_folder import WRITTEN_AT


def sort_and_deduplicate(
    rows: pl.DataFrame, keys: Sequence[str], retry_column: str | None, sorted_keys: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One row per key, ascending by key.

    Of several rows with a value the oldest counts, because others may have read it. Where all are null in
    `retry_column` (failed attempts), the latest counts. sorted_keys: a frame of keys that has all keys of the rows; if
    it is in order, it saves the sort.
    """
    if sorted_keys is not None and len(keys) == 1 and sorted_keys.to_series().is_sorted():
        distinct_keys = sorted_keys.unique(maintain_order=True) if _has_repeats(sorted_keys, keys) else sorted_keys
        ordered = distinct_keys.join(rows, on=list(keys), how="inner", nulls_equal=True, maintain_order="left")
        ordered = ordered.select(rows.columns)
    else:
        ordered = rows.sort(keys)
    return _deduplicate(rows, keys, retry_column).sort(keys) if _has_repeats(ordered, keys) else ordered


def _has_repeats(ordered: pl.DataFrame, keys: Sequence[str]) -> bool:
    """Whether a key occurs twice, in rows that are in order of their keys."""
    same_as_previous = pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift()) for key in keys)
    return bool(ordered.select(same_as_previous.slice(1).any()).item())


def _deduplicate(rows: pl.DataFrame, keys: Sequence[str], retry_column: str | None) -> pl.DataFrame:
    rows = rows.sort(WRITTEN_AT, maintain_order=True)
    if retry_column:
        is_failed = pl.col(retry_column).is_null()
        rows = pl.concat([rows.filter(~is_failed), rows.filter(is_failed).reverse()])
    return rows.unique(keys, keep="first", maintain_order=True)
