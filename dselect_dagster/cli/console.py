"""The consoles that the commands print to, and their rules: no text is markup, acts on the terminal, or is secret.

Paths, messages, reasons and texts of samples hold brackets, which rich would read as styles. So markup is off, in
tables too, and a style is given beside its text: `out.print(styled("source ", (name, "bold"), ": new"))`. They also
hold control sequences, addresses with passwords, and characters that the terminal's encoding does not have. All are
dealt with here, at the last moment before they are shown, whoever prints them.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from dselect_core.escape import visible
from dselect_core.redact import redact

# A terminal is as wide as it is; elsewhere lines are as wide as the tables.
_FILE_WIDTH = 160


def shown(text: str) -> str:
    """The text as it may be shown: without secrets, and with escapes in place of characters that act."""
    return visible(redact(text))


class _SafeConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        # Before it is measured and wrapped: a secret that is wrapped would not be found, and an escape has a width.
        return super().render_str(shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        # Texts that came as objects, such as the bars' own.
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class _SafeHandler(logging.Handler):
    """Log lines of this package and of libraries, on the same terms."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            err.print(f"{record.levelname.lower()}: {record.getMessage()}", soft_wrap=True)


def make_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints text as it is: no markup, no emoji codes, no colours for numbers and quotes."""
    return _SafeConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def say_that_it_waits() -> None:
    """Said once, before a command waits for another one that holds the lock."""
    out.print("Another refresh is at work here; this one waits for it.")


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of parts, each plain or (text, style)."""
    safe = [shown(part) if isinstance(part, str) else (shown(part[0]), part[1]) for part in parts]
    return Text.assemble(*safe)


def prepare_terminal() -> None:
    """Show what the terminal's encoding lacks as escapes, and log lines and warnings as all other text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not logging.root.handlers:
        handler = _SafeHandler(logging.WARNING)
        logging.root.addHandler(handler)
    logging.captureWarnings(True)


out = make_console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
err = make_console(stderr=True)
