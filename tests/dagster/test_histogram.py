"""The pictures of distributions: what they draw, and what they take."""

import base64
import re
from xml.etree import ElementTree

import dagster as dg
import polars as pl
import pytest

from dselect_dagster.defs.histogram import BINS, histogram

_NAMESPACE = "{http://www.w3.org/2000/svg}"


def _drawing(shown: dg.MetadataValue) -> ElementTree.Element:
    found = re.fullmatch(r"!\[[^\]]*\]\(data:image/svg\+xml;base64,([\w+/=]*)\)", str(shown.value))
    assert found is not None
    return ElementTree.fromstring(base64.b64decode(found[1]))


def _heights(bars: ElementTree.Element) -> list[float]:
    """Of each bar, from the floor."""
    start = re.match(r"M[\d.]+ ([\d.]+)", bars.attrib["d"])
    assert start is not None
    return [float(start[1]) - float(top) for top in re.findall(r"V([\d.]+)h", bars.attrib["d"])]


def test_bars_are_as_high_as_their_values_are_many() -> None:
    drawing = _drawing(histogram(pl.Series([0.0] * 30 + [10.0] * 10 + [None, float("nan"), float("inf")]), "upd"))
    (bars,) = drawing.findall(f"{_NAMESPACE}path")
    heights = _heights(bars)
    assert len(heights) == BINS
    assert heights[0] == pytest.approx(3 * heights[-1], abs=0.2) and heights[-1] > 30
    assert set(heights[1:-1]) == {0}
    assert [text.text for text in drawing.findall(f"{_NAMESPACE}text")] == ["upd", "highest bar: 30", "0", "5", "10"]


def test_chosen_and_pool_are_compared_by_shares() -> None:
    pool, chosen = pl.Series([0.0] * 50 + [1.0] * 50), pl.Series([1.0] * 3)
    of_pool, of_chosen = map(_heights, _drawing(histogram(pool, "upd", chosen)).findall(f"{_NAMESPACE}path"))
    assert of_pool[0] == of_pool[-1] == pytest.approx(of_chosen[-1] / 2, abs=0.2)
    assert of_chosen[0] == 0


@pytest.mark.parametrize("values", [[], [None], [2.0], [1.0, 1.0 + 2**-52], [float("nan")], [-1e300, 1e300]])
def test_any_numbers_are_drawn(values: list[float | None]) -> None:
    column = pl.Series(values, dtype=pl.Float64)
    for shown in (histogram(column, "upd"), histogram(column, "upd", column), histogram(column, "upd", column.clear())):
        drawing = _drawing(shown)
        assert "nan" not in ElementTree.tostring(drawing, "unicode")
