"""A score without what the length of the response explains of it: the option `length_corrected`. [ours]

    corrected = y - (a_s + b_s · ln T) + mean(y)

The line is fitted by least squares within the source s of a row, so that neither long answers nor a source of long
answers win by length alone. A source with too few rows takes the line of all rows. A sample of several sources is of
the first by name. Scores count as rounded to the score grid, so noise below it moves no line, and all sums are exactly
rounded: the same rows give the same values in any order and on any machine.

What this trades off: one new row of a source moves the corrected score of all of its rows, so an order is made anew.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from dselect_core.kinds import all_kinds, rankable_columns
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.composition import first_source
from dselect_core.select.rounding import round_scores
from dselect_core.select.strategy import Option

FEWEST_ROWS = 10
"""Smaller sources take the line of all rows."""

LENGTH = "response_tokens"


def without_length(values: np.ndarray, tokens: np.ndarray, sources: Sequence[str | None]) -> np.ndarray:
    """The corrected values, float64 [n]. values: finite float [n]; tokens: int [n]; sources: of each row."""
    if not len(values):
        return np.empty(0)
    rounded, logs = round_scores(values), _logarithms(tokens)
    slope, mean_log, mean = _line(logs, rounded)
    residuals = rounded - mean - slope * (logs - mean_log)
    rows_of: dict[str | None, list[int]] = {}
    for row, source in enumerate(sources):
        rows_of.setdefault(source, []).append(row)
    for rows in rows_of.values():
        if len(rows) >= FEWEST_ROWS:
            own_slope, own_log, own_mean = _line(logs[rows], rounded[rows])
            residuals[rows] = rounded[rows] - own_mean - own_slope * (logs[rows] - own_log)
    return np.asarray(residuals + mean)


def _logarithms(tokens: np.ndarray) -> np.ndarray:
    """ln T of each row; a response without a token counts as one of one."""
    lengths, at = np.unique(np.maximum(tokens, 1), return_inverse=True)
    return np.array([math.log(length) for length in lengths.tolist()])[at]


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(slope, mean of x, mean of y) by least squares; slope 0 where all x are equal."""
    mean_x, mean_y = (math.fsum(values.tolist()) / len(values) for values in (x, y))
    from_mean = x - mean_x
    square = math.fsum((from_mean * from_mean).tolist())
    if (x == x[0]).all():
        return 0.0, mean_x, mean_y
    return math.fsum((from_mean * (y - mean_y)).tolist()) / square, mean_x, mean_y


def correct_for_length(pool: Pool, column: str) -> Pool:
    """The pool with `column` corrected, and kept within what the column can be. Its rows must have it, and lengths."""
    scores = pool.scores
    if "sources" in scores.columns:
        sources = scores.select(source=first_source())["source"].to_list()
    else:
        sources = [None] * len(pool)
    corrected = without_length(scores[column].cast(pl.Float64).to_numpy(), scores[LENGTH].to_numpy(), sources)
    kind = all_kinds()[rankable_columns()[column]]
    bounds = next(each.value_range for each in kind.table_columns if each.name == column)
    if bounds is not None:
        corrected = np.clip(corrected, *bounds)
    return replace(pool, scores=scores.with_columns(pl.Series(column, corrected, dtype=pl.Float64)))


LENGTH_CORRECTED = Option(
    bool,
    False,
    "d3, deita, miwv, ifd, topk: the score (d3 and deita: upd) counts without what the logarithm of the response's "
    "length explains of it within its source",
    columns=(LENGTH,),
    in_records_at_default=False,
    reads_sources=True,
    prepares=correct_for_length,
)
