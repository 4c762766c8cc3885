"""Pictures of a coreset: gain, coverage, chosen against pool, and the map.

matplotlib's object interface: pyplot keeps global state, which runs in threads must not share. Names are never read as
formulas. One figure for all columns, for every figure that is saved costs some 50 ms.
"""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from dselect_core.escape import one_line
from dselect_core.redact import redact
from dselect_core.reports.spread import Spread

_OURS, _POOL = "#1b6ca8", "#9aa5b1"
_ACROSS = 3


def curves(gains: pl.Series, spread: Spread | None) -> Any | None:
    """Gain by rank, and the distance of the pool to the nearest chosen row; None where neither is known."""
    from matplotlib.figure import Figure

    panels = [gains.drop_nulls().len() > 0, spread is not None]
    if not any(panels):
        return None
    figure = Figure(figsize=(4.4 * sum(panels), 2.8))
    grid = list(figure.subplots(1, sum(panels), squeeze=False)[0])
    if panels[0]:
        axes = grid.pop(0)
        axes.plot(range(1, len(gains) + 1), gains.to_list(), color=_OURS)
        _label(axes, "gain by rank", "rank")
    if spread is not None:
        axes = grid.pop(0)
        rows, ours, drawn = spread.coverage()
        axes.plot(rows, drawn, color=_POOL, label="a random draw")
        axes.plot(rows, ours, color=_OURS, label="this coreset")
        axes.set_xscale("log")
        # Powers of ten would be formulas, which take longer to draw than all else.
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.legend(fontsize=7)
        _label(axes, "mean cosine distance to the nearest chosen row", "rows chosen")
    _set_margins(figure)
    return figure


def against_pool(pool: pl.DataFrame, chosen: pl.DataFrame, columns: Sequence[str]) -> Any | None:
    """A panel a column: its distribution in the pool and among the chosen, as shares. None without columns."""
    from matplotlib.figure import Figure

    if not columns:
        return None
    down = math.ceil(len(columns) / _ACROSS)
    figure = Figure(figsize=(3.4 * min(_ACROSS, len(columns)), 2.2 * down))
    grid = figure.subplots(down, min(_ACROSS, len(columns)), squeeze=False).flatten()
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    for axes, column in zip(grid, columns, strict=False):
        values, ours = (frame[column].drop_nulls().cast(pl.Float64).to_numpy() for frame in (pool, chosen))
        _, edges, _ = axes.hist(values, bins=30, density=True, alpha=0.6, color=_POOL, label="pool")
        axes.hist(ours, bins=list(edges), density=True, alpha=0.5, color=_OURS, label="chosen")
        _label(axes, column, "")
    grid[0].legend(fontsize=7)
    _set_margins(figure)
    return figure


def map_of(spread: Spread) -> Any:
    """The pool's vectors in two dimensions, with the chosen rows."""
    from matplotlib.figure import Figure

    pool, chosen = spread.map()
    figure = Figure(figsize=(5.2, 4.4))
    axes = figure.subplots()
    axes.scatter(pool[:, 0], pool[:, 1], s=5, color=_POOL, label="pool")
    axes.scatter(chosen[:, 0], chosen[:, 1], s=9, color=_OURS, label="chosen")
    axes.legend(fontsize=7)
    _label(axes, "embeddings, two main directions", "")
    _set_margins(figure)
    return figure


def _set_margins(figure: Any) -> None:
    """Room for titles and labels, in inches: to measure them takes half as long again as to draw the figure."""
    width, height = figure.get_size_inches()
    across, down = figure.axes[0].get_gridspec().ncols, figure.axes[0].get_gridspec().nrows
    figure.subplots_adjust(
        left=0.55 / width,
        right=1 - 0.15 / width,
        bottom=0.42 / height,
        top=1 - 0.28 / height,
        wspace=0.6 / (width / across - 0.6),
        hspace=0.55 / (height / down - 0.55),
    )


def _label(axes: Any, title: str, x: str) -> None:
    axes.set_title(one_line(redact(title)), fontsize=8, parse_math=False)
    axes.set_xlabel(x, fontsize=7, parse_math=False)
    axes.tick_params(labelsize=7)
