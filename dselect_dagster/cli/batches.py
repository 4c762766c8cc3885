"""Open batches of grades: the table of `dselect grades batches`, and what other commands say of them."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import box
from rich.table import Column, Table

from dselect_core.errors import DselectError
from dselect_core.settings.workspace import Workspace
from dselect_dagster.cli.console import out, styled
from dselect_dagster.cli.money import usd_text

if TYPE_CHECKING:
    from dselect_core.graders.batch.shelf import Shelf
    from dselect_core.graders.open_batches import OpenBatch


def print_batches(found: "list[OpenBatch]") -> None:
    """A row for each, the oldest first."""
    if not found:
        out.print("No batch is open.")
        return
    right = (Column(name, justify="right") for name in ("rows", "hours", "reserved"))
    named = any(each.batch.judge is not None for each in found)
    table = Table(
        "batch", "source", *(["grader"] if named else []), Column("state", overflow="fold"), *right, box=box.SIMPLE
    )
    now = datetime.now(UTC)
    for batch, _, state, _ in found:
        hours = (now - batch.begun_at).total_seconds() / 3600
        reserved = usd_text(batch.usd)
        whose = [batch.judge or ""] if named else []
        table.add_row(batch.name, batch.source or "", *whose, state, f"{batch.rows:,}", f"{hours:,.1f}", reserved)
    out.print(table)
    if any(each.has_ended for each in found):
        out.print("`dselect refresh` collects what has ended.")
    if any(not each.in_force for each in found):
        out.print(
            "A batch of another model, rubric or other setting than those in force is collected once they are in force "
            "again.",
            soft_wrap=True,
        )


def print_waiting(workspace: Workspace) -> None:
    """A line for each open batch, and how its grades are had. Asks nobody."""
    if all(grader.model is None for grader in workspace.settings.all_graders.values()):
        return
    from dselect_core.graders.batch.shelf import Shelf

    batches = Shelf(workspace.batches).batches()
    for batch in batches:
        reserved = "" if batch.usd is None else f", {usd_text(batch.usd)} reserved"
        of = ("" if batch.source is None else f" of {batch.source}") + (f" for {batch.judge}" if batch.judge else "")
        told = f": {batch.rows:,} rows{of} are in batch {batch.name} since {batch.since}{reserved}"
        out.print(styled(("waiting", "yellow"), told), soft_wrap=True)
    if batches:
        out.print(
            "`dselect refresh` collects the grades of batches that have ended; in a deployment the sensor "
            "`grading_batches` does. `dselect grades batches` says how far they are.",
            soft_wrap=True,
        )


def forget_batch(shelf: "Shelf", name: str) -> None:
    """Take a batch off the record, by the endpoint's id of it or the beginning of ours. Raises DselectError."""
    with shelf.locked():
        named = [batch for batch in shelf.batches() if batch.batch_id == name or batch.key.startswith(name)]
        if len(named) != 1:
            raise DselectError(f"no batch {name!r} is open; `dselect grades batches` lists those that are")
        shelf.remove(named[0])
    out.print(f"Batch {named[0].name} is forgotten: what it answers is not collected.")
