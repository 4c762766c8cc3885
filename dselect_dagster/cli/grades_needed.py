"""What `dselect grades needed` prints."""

from pathlib import Path

from rich import box
from rich.table import Table

from dselect_core.lineage.grades_needed import GradesNeeded
from dselect_dagster.cli.console import out


def print_grades_needed(needed: GradesNeeded, ids_file: Path | None) -> None:
    """The needs of each recipe, then what it comes to; the ids of the next rows go to `ids_file`, a line each."""
    table = Table("coreset", "picks that stand", "needed next", "", box=box.SIMPLE)
    for recipe, each in needed.recipes.items():
        certain = "all" if each.sample_ids.is_empty() else f"{each.certain:,}"
        table.add_row(recipe, certain, f"{len(each.sample_ids):,}", needed.every_row.get(recipe, ""))
    out.print(table)
    failed = f", {needed.failed:,} without success" if needed.failed else ""
    out.print(f"{needed.graded + needed.failed:,} of {needed.rows:,} rows were graded{failed}.", soft_wrap=True)
    if why := needed.every_row.get("near_duplicates"):
        out.print(f"near_duplicates: {why}", soft_wrap=True)
    if needed.every_row:
        out.print(f"So all {needed.ungraded:,} others are needed.")
    elif needed.next_ids.is_empty():
        out.print(f"No more are needed: the {needed.ungraded:,} others cannot be chosen, whatever their grades.")
    else:
        guess = "" if needed.expected is None else f", about {needed.expected:,} if they come as those known,"
        out.print(f"Needed: {len(needed.next_ids):,} now{guess} and {needed.ungraded:,} at most.", soft_wrap=True)
    if ids_file is not None:
        ids_file.write_text("".join(f"{sample_id}\n" for sample_id in needed.next_ids), "utf-8")
        out.print(f"{ids_file} written.", soft_wrap=True)
