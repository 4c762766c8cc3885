"""What `dselect grades compare` prints."""

from rich import box
from rich.table import Column, Table

from dselect_core.corpus.sample import message_text
from dselect_core.graders.agreement import LEVELS, Agreement
from dselect_core.graders.judge_reply import shorten
from dselect_core.scores.compare_grades import Compared
from dselect_dagster.cli.console import out, styled

_WIDTH = 60  # characters of a text in a table


def print_compared(first: str, second: str, compared: Compared) -> None:
    """How far two judges agree, how their grades fall together, and the rows that they grade most differently."""
    found = compared.agreement
    only = f"{compared.only_first:,} by {first} alone, {compared.only_second:,} by {second} alone"
    title, rows = f"{first} and {second}", f"{compared.rows:,} rows graded by both ({only})"
    if first == second:
        title, rows = f"{first} with itself", f"{found.rows:,} pairs of grades of {compared.rows:,} rows"
    out.print(styled((title, "bold"), f": {rows}"), soft_wrap=True)
    out.print(agreement_text(found, second, first), soft_wrap=True)
    _print_confusion(first, second, found)
    if compared.apart.is_empty():
        return
    right = (Column(name, justify="right") for name in (first, second))
    table = Table("source", "sample", *right, f"why {first}", f"why {second}", "prompt", box=box.SIMPLE)
    for row in compared.apart.iter_rows(named=True):
        asked = next((turn for turn in row["messages"] if turn["role"] == "user"), row["messages"][0])
        texts = (row["first_reason"] or "", row["second_reason"] or "", message_text(asked))
        grades = (f"{row[name]:.2f}" for name in ("first", "second"))
        table.add_row(row["source"], row["sample_id"][:12], *grades, *(shorten(text, _WIDTH) for text in texts))
    out.print(styled(("graded most differently", "bold")))
    out.print(table)


def agreement_text(found: Agreement, second: str, first: str) -> str:
    """The figures of an agreement in a line."""
    rank = "unknown (one of them gave all rows one grade)" if found.spearman is None else f"{found.spearman:.3f}"
    shares = f"level equal in {found.exact or 0:.1%}, within one in {found.within_one or 0:.1%}"
    return f"rank correlation (Spearman) {rank}; {shares}; {second} minus {first} {found.mean_difference or 0:+.3f}"


def _print_confusion(first: str, second: str, found: Agreement) -> None:
    """Rows by level; a level is the nearest rating."""
    right = (Column(f"{second} {level}", justify="right") for level in range(1, LEVELS + 1))
    table = Table("rows by rating", *right, box=box.SIMPLE)
    for level, *counts in found.confusion.iter_rows():
        table.add_row(f"{first} {level}", *(f"{count:,}" for count in counts))
    out.print(table)
