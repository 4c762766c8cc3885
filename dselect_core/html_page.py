"""Parts of an HTML page that needs nothing else: pictures are inside, no script runs, nothing is fetched.

Names, notes and samples are others' text: each passes through `text`, which escapes it and hides secrets. The page also
forbids itself scripts and the network (Content-Security-Policy), should an escape ever fail.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

from dselect_core.escape import html_text
from dselect_core.redact import redact

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #1c2733; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
th, td { border-bottom: 1px solid #d5dbe1; padding: .25em .7em; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: anywhere; }
.better { color: #12692d; } .worse { color: #a3261c; } .note { color: #8a5a00; }
img { max-width: 100%; } h2 { margin-top: 2em; }
"""


def page(title: str, body: Iterable[str], version: str) -> str:
    """A whole page. title: text; body: HTML; version: of dselect."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style></head><body>\n<h1>{text(title)}</h1>\n"
        f"{''.join(body)}<p>Made by dselect {text(version)}.</p>\n</body></html>\n"
    )


def text(value: object) -> str:
    """Others' text, to be shown as text: escaped, without secrets."""
    return html_text(redact(str(value)))


def link(address: str, words: str) -> str:
    """A link to a page beside this one. address: made here, never others' text but for what `text` lets through."""
    return f'<a href="{text(address)}">{text(words)}</a>'


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of values: numbers to the right, nulls empty, everything else as text; an `Html` as it is."""
    head = "".join(f"<th>{text(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>\n"


class Html(str):
    """A cell that is HTML already."""

    __slots__ = ()


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, Html):
        return f"<td>{value}</td>"
    if isinstance(value, float):
        return f'<td class="n">{value:.4f}</td>' if abs(value) < 1e4 else f'<td class="n">{value:,.0f}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{text(value)}</td>"


def picture(figure: Any, words: str) -> str:
    """A matplotlib figure, inside the page. words: what stands for it where it is not shown."""
    data = base64.b64encode(png(figure)).decode()
    return f'<p><img alt="{text(words)}" src="data:image/png;base64,{data}"></p>\n'


def png(figure: Any, dpi: int = 110) -> bytes:
    """The bytes of a matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
