"""Text that somebody else wrote, shown as text: on a terminal, and in markdown. No other place escapes.

A sample, a file name, a reply or a name in the settings may hold control sequences (clear the screen, set the
clipboard, make a link), marks that reorder a line, markup, or HTML. `visible` is for terminals and logs,
`markdown_code`, `markdown_table` and `html_text` are for pages. Trade-off: in markdown all such text is code, in a
fixed-width face, because only there is nothing markup.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

# C0 without tab and line end, DEL and C1 (which holds an 8-bit escape), marks that are not seen or that reorder what
# is, line and paragraph separators, tags, interlinear marks, halves of pairs. Joiners stay: scripts need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_RUN = re.compile("`+")
_WORD = "[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*"
# Nothing of it is markup anywhere, and no dot makes it a link.
_PLAIN = re.compile(rf"{_WORD}(?:[ :]{_WORD})*%?")


def visible(text: str) -> str:
    r"""The text with every character that acts instead of being shown as its escape: `\x1b`, `\r`, `\u202e`.

    Tabs and line ends stay. A second call changes nothing.
    """
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(text: str) -> str:
    r"""The visible text with its line ends and tabs as `\n` and `\t`."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def markdown_code(text: str) -> str:
    """The text as one code span: no link, picture, heading, table or HTML in it has an effect, in a table neither."""
    text = one_line(text).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in _RUN.findall(text)), default=0))
    # A space at each end is taken away by whoever shows the span; it parts the fence from a backtick of the text.
    padding = " " if not text.strip() or text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table. Numbers, nulls and plain words are shown as they are, everything else as code."""
    lines = [list(columns), ["---"] * len(columns), *([markdown_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def markdown_cell(value: Any) -> str:
    """A number, a null or plain words as they are, everything else as code."""
    if value is None:
        return ""
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if not text or _PLAIN.fullmatch(text) else markdown_code(text)


def html_text(text: str) -> str:
    """The text in an HTML page or in an attribute's quotes: no tag, no entity, and nothing that reorders it."""
    return html.escape(one_line(text))
