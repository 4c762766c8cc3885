"""How far judges agree, as `dependability_grades` shows it: a table of all pairs, and a picture of each."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from dselect_core.graders.agreement import LEVELS, Agreement
from dselect_core.scores.compare_grades import Pair
from dselect_dagster.defs.asset_metadata import markdown_table, png

# Of ten judges there are 45 pairs, and an event holds its pictures.
_MOST_PICTURES = 6


def agreement_metadata(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Metadata of one source; empty where there is no pair. Each judge's agreement with itself also as a figure."""
    if not pairs:
        return {}
    rows = [
        (
            _named(pair),
            pair.agreement.rows,
            _rounded(pair.agreement.spearman),
            _rounded(pair.agreement.exact),
            _rounded(pair.agreement.within_one),
            _rounded(pair.agreement.mean_difference),
        )
        for pair in pairs
    ]
    columns = ["judges", "grades of both", "rank correlation", "level equal", "within one level", "second minus first"]
    shown: dict[str, Any] = {"agreement of judges": markdown_table(pl.DataFrame(rows, schema=columns, orient="row"))}
    for pair in pairs:
        if pair.agreement.spearman is not None:  # over time, as a plot
            shown[f"rank correlation, {_named(pair)}"] = pair.agreement.spearman
    return shown | {f"levels, {_named(pair)}": _confusion(pair) for pair in pairs[:_MOST_PICTURES]}


def _named(pair: Pair) -> str:
    return f"{pair.first} with itself" if pair.first == pair.second else f"{pair.first} and {pair.second}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _confusion(pair: Pair) -> dg.MetadataValue:
    """Rows by the levels of both: the darker, the more; on the diagonal they agree."""
    from matplotlib.figure import Figure

    found: Agreement = pair.agreement
    counts = found.confusion.drop("first").to_numpy()
    figure = Figure(figsize=(3.0, 2.6))
    axes = figure.add_axes((0.18, 0.2, 0.74, 0.66))
    axes.imshow(counts, cmap="Blues", origin="lower", extent=(0.5, LEVELS + 0.5, 0.5, LEVELS + 0.5))
    for first in range(LEVELS):
        for second in range(LEVELS):
            if count := int(counts[first, second]):
                color = "white" if 2 * count > counts.max() else "black"
                axes.text(second + 1, first + 1, f"{count:,}", ha="center", va="center", fontsize=7, color=color)
    axes.set_xlabel(f"level by {pair.second}", fontsize=7, parse_math=False)
    axes.set_ylabel(f"level by {pair.first}", fontsize=7, parse_math=False)
    axes.tick_params(labelsize=7)
    title = f"grades of {_named(pair)}"
    axes.set_title(title, fontsize=8, parse_math=False)
    return png(figure, title)
