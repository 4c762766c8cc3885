"""Orders by one score column: MIWV (arXiv 2511.07074, keep the highest) and the `topk:<column>` baselines."""

import numpy as np

from dselect_core.select.grid import round_scores
from dselect_core.select.pool import Order, Pick, Pool


def ranked_order(pool: Pool, column: str) -> Order:
    """Rows by `column`, highest first, ties to the lowest row; the gain is the value, rounded to the score grid."""
    values = round_scores(pool.scores[column].to_numpy())
    for row in np.argsort(-values, kind="stable").tolist():
        yield Pick(row, float(values[row]), None)
