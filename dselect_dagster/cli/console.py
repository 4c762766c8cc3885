"""The consoles that the commands print to, and the one rule: no text is markup.

Paths, messages, reasons and texts of samples hold brackets, which rich would read as styles. So markup is off, in
tables too, and a style is given beside its text: `out.print(styled("source ", (name, "bold"), ": new"))`.
"""

import sys

from rich.console import Console
from rich.text import Text

# A terminal is as wide as it is; elsewhere lines are as wide as the tables.
_FILE_WIDTH = 160


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints text as it is: no markup, no emoji codes, no colours for numbers and quotes."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of parts, each plain or (text, style)."""
    return Text.assemble(*parts)


out = make_console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
err = make_console(stderr=True)
