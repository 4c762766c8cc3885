"""IFD: the rows whose prompt helps the model least, among those that it helps at all (Cherry LLM, arXiv 2308.12032).

Rows at or above 1 are dropped, as in its authors' code: there the response is likelier without its prompt, and the two
may not belong together [paper]. Then the highest are taken. Both compare the ratio on the score grid (rounding.py), so
that one row is on the same side of 1 in every run [ours].
"""

from dataclasses import replace

import numpy as np

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.rounding import round_scores
from dselect_core.select.strategy import Strategy
from dselect_core.select.top_k import top_k

LIMIT = 1.0
"""The ratio from which on the prompt is of no help."""


def _is_no_help(pool: Pool) -> np.ndarray:
    """Boolean [n]: the ratio is at or above the limit; false where there is none."""
    values = pool.scores["ifd"].fill_null(float("nan")).to_numpy()
    return np.asarray(round_scores(values) >= LIMIT)


IFD: Strategy = replace(
    top_k("ifd", "ifd", "ifd", "hard although the prompt helps: highest IFD below 1"),
    requires={"ifd below 1 (its prompt does not help)": _is_no_help},
)
