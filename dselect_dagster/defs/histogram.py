"""The distribution of a score as a picture in Markdown, drawn by hand: every run of every source shows one.

Trade-off: bars, three numbers below them and no more. matplotlib takes 60 ms for as little, and half a second to load.
"""

from collections.abc import Iterable
from html import escape

import dagster as dg
import numpy as np
import polars as pl

from dselect_dagster.defs.inline_picture import inline_picture

BINS = 40
WIDTH, HEIGHT, TOP, SIDE = 368, 176, 26, 12
_FLOOR = HEIGHT - 24
_POOL, _CHOSEN = "#1f77b4", "#ff7f0e"


def histogram(values: pl.Series, title: str, chosen: pl.Series | None = None) -> dg.MetadataValue:
    """An SVG in markdown; with `chosen`, both distributions as shares, to compare a coreset with its pool.

    values, chosen: numbers, of which those that are null or not finite are left out.
    """
    pool = _finite(values)
    edges = _edges(pool)
    if chosen is None:
        counts, _ = np.histogram(pool, bins=edges)
        parts = [
            _bars(counts / max(counts.max(), 1), _POOL),
            _words(WIDTH - SIDE, 16, f"highest bar: {counts.max():,}"),
        ]
    else:
        shares = [np.histogram(each, bins=edges)[0] / max(len(each), 1) for each in (pool, _finite(chosen))]
        highest = max(share.max() for share in shares) or 1
        parts = [_bars(share / highest, color) for share, color in zip(shares, (_POOL, _CHOSEN), strict=True)]
        parts += [_words(WIDTH - SIDE - 60, 16, "pool", _POOL), _words(WIDTH - SIDE, 16, "chosen", _CHOSEN)]
    ends = [_words(at, HEIGHT - 8, f"{edge:.4g}", anchor=anchor) for at, edge, anchor in _ticks(edges)]
    drawing = "".join([_words(SIDE, 16, title, anchor="start"), *parts, *ends])
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{drawing}</svg>'
    )
    return inline_picture(svg.encode(), "image/svg+xml", title)


def _finite(values: pl.Series) -> np.ndarray:
    return values.cast(pl.Float64).filter(values.is_finite()).to_numpy()


def _edges(values: np.ndarray) -> np.ndarray:
    try:
        return np.histogram_bin_edges(values, bins=BINS)
    except ValueError:  # neighbouring floats have nothing between them
        return np.histogram_bin_edges(values, bins=1)


def _bars(heights: np.ndarray, color: str) -> str:
    """One shape: heights are shares of the room."""
    step = (WIDTH - 2 * SIDE) / len(heights)
    tops = [_FLOOR - height * (_FLOOR - TOP) for height in heights.tolist()]
    outline = "".join(f"V{top:.1f}h{step:.2f}" for top in tops)
    return f'<path d="M{SIDE} {_FLOOR}{outline}V{_FLOOR}z" fill="{color}" fill-opacity=".55" stroke="{color}"/>'


def _ticks(edges: np.ndarray) -> Iterable[tuple[float, float, str]]:
    first, last = float(edges[0]), float(edges[-1])
    return [(SIDE, first, "start"), (WIDTH / 2, (first + last) / 2, "middle"), (WIDTH - SIDE, last, "end")]


def _words(x: float, y: float, words: str, color: str = "#333", anchor: str = "end") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'
