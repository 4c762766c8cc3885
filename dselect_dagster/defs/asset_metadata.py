"""What an asset shows in the UI: counts, schemas, curves and short tables."""

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

import dagster as dg
import polars as pl

from dselect_core import escape
from dselect_core.html_page import png as png_bytes
from dselect_core.kinds import MAKER, Kind, all_kinds, kind_of
from dselect_core.redact import redact
from dselect_core.scores.score_table import TableReport
from dselect_dagster.defs.histogram import histogram
from dselect_dagster.defs.inline_picture import inline_picture
from dselect_dagster.defs.run_errors import clean

KEYS = {"sample_id": "the sample: 128-bit hash of its messages", "shot_id": "the sample that stands in front of it"}
"""What the keys of a score are, in words."""

# Left, bottom, width, height of the axes. A layout that is computed draws every picture twice.
_WHERE = (0.14, 0.19, 0.83, 0.69)


def curve(values: pl.Series, title: str, x: str) -> dg.MetadataValue:
    """A PNG in markdown: the values in their order, from 1 on. x: label of that axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.2))
    axes = figure.add_axes(_WHERE)
    axes.plot(range(1, len(values) + 1), values.to_list())
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_xlabel(x, fontsize=7, parse_math=False)
    axes.tick_params(labelsize=7)
    return png(figure, title)


def png(figure: Any, title: str) -> dg.MetadataValue:
    """A matplotlib figure as an inline image in markdown, which the UI shows."""
    return inline_picture(png_bytes(figure, dpi=80), "image/png", title)


def markdown_table(frame: pl.DataFrame) -> dg.MetadataValue:
    """At most 50 rows as a markdown table. Texts are shown as they are, cut after 160 characters, and without secrets.

    What a sample says is never markdown here: a picture in it would be fetched by whoever looks at the page.
    """
    return dg.MetadataValue.md(escape.markdown_table(frame.columns, map(_cells, frame.head(50).iter_rows())))


def _cells(row: tuple[Any, ...]) -> list[Any]:
    plain = (int, float, NoneType)
    texts = [value if isinstance(value, plain) else redact(str(value)) for value in row]
    return [value if isinstance(value, plain) or len(value) <= 160 else f"{value[:159]}…" for value in texts]


def path(place: object) -> dg.MetadataValue:
    """A path or URL, without the password that it may hold."""
    return dg.MetadataValue.path(clean(str(place)))


def link(address: str) -> dg.MetadataValue:
    """A page that opens with a click where it has a URL, else the path to copy."""
    return dg.MetadataValue.url(clean(address)) if address.startswith(("http://", "https://")) else path(address)


def column_schema(
    schema: Mapping[str, Any] | pl.Schema, descriptions: Mapping[str, str] | None = None
) -> dg.TableSchema:
    """Columns with types as the UI shows them. descriptions: {column: what it holds}."""
    of_column = descriptions or {}
    return dg.TableSchema([dg.TableColumn(name, str(dtype), of_column.get(name)) for name, dtype in schema.items()])


def columns_of_kinds(kinds: Iterable[Kind], types: Mapping[str, str] | None = None) -> dg.TableSchema:
    """The columns of kinds of score that one asset makes, keys first, each with its type, meaning and unit.

    types: {column: type} where more is known than the kind says, the width of a vector.
    """
    columns: dict[str, dg.TableColumn] = {}
    for kind in kinds:
        for key in kind.keys:
            columns.setdefault(key, dg.TableColumn(key, str(pl.String()), KEYS[key]))
        for column in kind.table_columns:
            dtype = f"Array({column.type})" if column.vector else str(column.type)
            dtype = (types or {}).get(column.name, dtype)
            columns.setdefault(column.name, dg.TableColumn(column.name, dtype, column.described()))
    return dg.TableSchema(list(columns.values()))


def tables_metadata(
    context: dg.AssetExecutionContext, reports: dict[str, TableReport], seconds: float, *, partition: bool = False
) -> dict[str, Any]:
    """The figures every score asset shows, of one table or several. Seconds are those of the whole step.

    reports: by kind of score; a table that holds none (the neighbours) brings its columns itself.
    With several kinds, `rows computed` counts those of the kind that had most to do, and each kind is told apart too.
    """
    for report in reports.values():
        for file, why in report.skipped.items():
            context.log.warning(clean(f"{file}: skipped, {why}; its rows count as missing. Remove the file."))
    rows = max(report.frame.height for report in reports.values())
    computed = max(report.computed for report in reports.values())
    shown: dict[str, Any] = {
        "dagster/partition_row_count" if partition else "dagster/row_count": rows,
        "rows computed": computed,
        "rows reused": rows - computed,
        "nulls": sum(report.value.null_count() for report in reports.values() if report.frame.height),
        "seconds": round(seconds, 2),
    }
    kinds = {name: kind_of(name) for name in reports if name.partition(MAKER)[0] in all_kinds()}
    if kinds:
        types = {name: dtype for report in reports.values() for name, dtype in report.types.items()}
        shown["dagster/column_schema"] = columns_of_kinds(kinds.values(), types)
    for name, report in reports.items():
        if len(reports) > 1:
            shown[f"{name} rows computed"] = report.computed
        reason_column = kinds[name].reason_column if name in kinds else None
        shown |= _of_table(name if len(reports) > 1 else "", report, reason_column, seconds)
    return shown


def _of_table(prefix: str, report: TableReport, reason_column: str | None, seconds: float) -> dict[str, Any]:
    frame = report.frame
    shown: dict[str, Any] = {
        f"{prefix} provenance fingerprint".strip(): report.fingerprint,
        **report.figures,
    }
    if report.tokens is not None:
        shown["tokens"] = report.tokens
        shown["tokens per second"] = round(report.tokens / max(seconds, 1e-9))
    if frame.is_empty():
        return shown
    value = report.value
    if value.null_count() and reason_column is not None:
        shown[f"why {prefix} null".replace("  ", " ")] = markdown_table(
            frame.filter(value.is_null())[reason_column].value_counts(sort=True)
        )
    if value.dtype.is_numeric() and value.drop_nulls().len():
        named = kind_of(prefix).named(value.name) if prefix else value.name
        shown[f"mean {named}"] = value.mean()
        shown[f"distribution of {named}"] = histogram(value, named)
    return shown
