"""The option `per: token`: each pick gains most for a response token, and not most in itself. [ours]

A budget in tokens that is spent by gain buys the longest responses first where they gain most; the greedy by gain over
cost is what the knapsack form of such a problem uses (Khuller, Moss and Naor 1999, for coverage). Gains are divided by
the number of tokens in float64: one division, which IEEE 754 rounds the same on any machine; ties go to the lowest row.
"""

from typing import Literal

import numpy as np
import polars as pl

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.strategy import Option

PER_TOKEN = Option(
    Literal["token"],
    None,
    "d3, facility-location: the next pick is the one that gains most for each of its response tokens; by default for "
    "itself",
    columns=("response_tokens",),
    in_records_at_default=False,
)


def response_tokens(pool: Pool) -> np.ndarray:
    """int64 [n], at least 1. The pool must have them."""
    return np.asarray(np.maximum(pool.scores["response_tokens"].cast(pl.Int64).to_numpy(), 1))
