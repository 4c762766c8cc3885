"""`dselect grades`: what paid graders cost, a few grades on trial, which are needed, how far two agree, open batches.

Each command reads its options and calls what does it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer
from rich import box
from rich.table import Column, Table

from dselect_core.corpus.sample import message_text
from dselect_core.errors import DselectError
from dselect_core.graders.judge_reply import shorten
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.cli.config_option import ConfigOption, definitions, load
from dselect_dagster.cli.console import out, say_that_it_waits, styled
from dselect_dagster.cli.money import price_note, print_not_told, usd_text

if TYPE_CHECKING:
    from dselect_core.lineage.plan import Plan
    from dselect_core.scores.try_grades import Tried

app = typer.Typer(help="What grades cost, a few of them on trial, which are needed, and how far graders agree.")

# Runs that are listed, the latest ones.
_LISTED_RUNS = 10
# Characters of a text in a table.
_WIDTH = 60


@app.command()
def cost(config: ConfigOption = None) -> None:
    """Say what the paid grader has cost: by month, by source, and of the latest refreshes. Runs nothing."""
    settings, _ = load(config)
    from dselect_core.graders.spend import MONTH, Ledger

    calls = Ledger.of(Workspace(settings)).calls(price=settings.prices)
    if calls.is_empty():
        out.print("No call to a paid grader is on record in this storage.")
        return
    _print_costs("month", calls.with_columns(month=MONTH), "month", last=None)
    _print_costs("source", calls.with_columns(pl.col("source").fill_null("(no source)")), "source", last=None)
    if settings.graders or calls["judge"].count():
        _print_costs("judge", calls.with_columns(pl.col("judge").fill_null("(no name)")), "judge", last=None)
    begun = pl.col("begun_at").min().over("run").dt.strftime("%Y-%m-%d %H:%M:%S UTC")
    _print_costs("refresh begun at", calls.with_columns(begun=begun), "begun", last=_LISTED_RUNS)
    print_not_told(calls)
    _print_caps(settings, calls)


@app.command()
def needed(
    config: ConfigOption = None,
    ids: Annotated[Path | None, typer.Option(help="also write the ids that are needed next, a line each")] = None,
) -> None:
    """Say which rows can still be chosen and are not graded yet. Asks nobody; the other scores must be there."""
    settings, _ = load(config)
    from dselect_core.lineage.grades_needed import grades_needed
    from dselect_dagster.cli.grades_needed import print_grades_needed

    recipes = [spec for spec in settings.coresets.values() if spec.reads_grades]
    panels = list(dict.fromkeys(spec.grade for spec in recipes)) or [None]
    if len(panels) > 1 and ids is not None:
        raise DselectError("--ids: the recipes read grades of different graders, whose needs are not the same rows")
    for judges in panels:
        if judges is not None:
            out.print(styled((f"Of {', '.join(judges.of)}:", "bold")))
        print_grades_needed(grades_needed(Workspace(settings), judges), ids)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="a grader under `graders`")],
    second: Annotated[str, typer.Argument(help="another one, or the same, with `repeat`")],
    rows: Annotated[int, typer.Option(min=0, help="rows to show that they grade most differently")] = 10,
    config: ConfigOption = None,
) -> None:
    """Say how far two graders agree on the rows that both graded, and where they do not. Asks nobody."""
    settings, _ = load(config)
    from dselect_core.scores.compare_grades import compare_grades
    from dselect_dagster.cli.compare_grades import print_compared

    print_compared(first, second, compare_grades(Workspace(settings), first, second, rows))


@app.command()
def batches(
    config: ConfigOption = None,
    forget: Annotated[
        str | None, typer.Option(help="take a batch off the record: its rows are asked again, its money stays booked")
    ] = None,
) -> None:
    """List the batches that are not collected yet: state, age, rows and reserved money. Asks the endpoint."""
    settings, _ = load(config)
    from dselect_core.graders.batch.shelf import Shelf
    from dselect_core.graders.open_batches import open_batches
    from dselect_dagster.cli.batches import forget_batch, print_batches

    workspace = Workspace(settings)
    if forget is not None:
        forget_batch(Shelf(workspace.batches), forget)
    print_batches(open_batches(workspace))


@app.command("try")
def try_(
    rows: Annotated[int, typer.Argument(min=1, help="how many rows to grade")] = 20,
    grader: Annotated[str | None, typer.Option(help="which of several `graders`")] = None,
    config: ConfigOption = None,
) -> None:
    """Grade a few rows, show them with their cost, and say what all others would cost. The grades are kept."""
    settings, path = load(config)
    import dagster as dg

    from dselect_core.scores.try_grades import try_grades
    from dselect_dagster.refresh.instance import hold_refresh_lock, open_instance
    from dselect_dagster.refresh.plan_refresh import plan_refresh
    from dselect_dagster.refresh.refresh import refresh

    workspace, defs, spec = Workspace(settings), definitions(settings, path), _one_grader(settings, grader)
    with (
        open_instance(path) as instance,
        hold_refresh_lock(path, instance, say_that_it_waits),
    ):
        landed = refresh(defs, instance, workspace, select=dg.AssetSelection.assets("raw_dataset"))
        for run in landed.failed:
            for message in run.errors.values():
                out.print(message, soft_wrap=True)
        tried = try_grades(workspace, rows, spec.name)
        if tried.frame.is_empty():
            out.print("Every row has its grade; there is nothing to try.")
            return
        _, plan = plan_refresh(defs, instance, workspace)
    _print_tried(tried, spec)
    _print_rest(plan, spec, settings)
    if tried.frame["grade"].null_count() == tried.frame.height:
        raise DselectError(f"{spec.key}: none of these rows got a grade; see why above, before more are asked for")


def _one_grader(settings: Settings, name: str | None) -> GraderSpec:
    """The grader of that name. Raises DselectError where there is none, or none is named and there are several."""
    if name is None and len(settings.graders) > 1:
        raise DselectError(f"several graders are named ({', '.join(settings.graders)}): say which, by --grader")
    return settings.grader_of(name if name is not None else next(iter(settings.all_graders)))


def _print_costs(title: str, calls: pl.DataFrame, by: str, last: int | None) -> None:
    right = (Column(name, justify="right") for name in ("calls", "prompt tokens", "completion tokens", "USD"))
    table = Table(title, *right, box=box.SIMPLE)
    summed = calls.group_by(by).agg(
        pl.len().alias("calls"),
        pl.col("prompt_tokens", "completion_tokens").sum(),
        pl.when(pl.col("usd").count() > 0).then(pl.col("usd").sum()).alias("usd"),
    )
    summed = summed.sort(by)
    for name, count, prompt, completion, usd in (summed if last is None else summed.tail(last)).iter_rows():
        table.add_row(str(name), f"{count:,}", f"{prompt:,}", f"{completion:,}", usd_text(usd))
    out.print(table)


def _print_caps(settings: Settings, calls: pl.DataFrame) -> None:
    from datetime import UTC, datetime

    from dselect_core.graders.spend import in_month, month_of

    month = month_of(datetime.now(UTC))
    for name, spec in settings.all_graders.items():
        if spec.max_usd_per_month is not None:
            counted = calls if name is None else calls.filter(pl.col("judge").is_null() | (pl.col("judge") == name))
            spent = float(counted.filter(in_month(month))["usd_at_most"].sum())
            out.print(f"{usd_text(spent)} of {spec.key}.max_usd_per_month ${spec.max_usd_per_month:g} in {month}")
        if note := price_note(spec):
            out.print(note, soft_wrap=True)


def _print_tried(tried: "Tried", spec: GraderSpec) -> None:
    from dselect_core.graders.spend import usd_of

    right = (Column(name, justify="right") for name in ("grade", "prompt", "completion"))
    table = Table("source", "sample", *right, "reason", "prompt of the sample", box=box.SIMPLE)
    for row in tried.frame.iter_rows(named=True):
        grade = "" if row["grade"] is None else f"{row['grade']:.2f}"
        counts = ["" if row[name] is None else f"{row[name]:,}" for name in ("prompt_tokens", "completion_tokens")]
        reason = shorten((row["rationale"] if row["error"] is None else row["error"]) or "", _WIDTH)
        table.add_row(row["source"], row["sample_id"][:8], grade, *counts, reason, _prompt_of(row))
    out.print(table)
    if spec.model is None:
        return
    calls = tried.calls
    for source in tried.frame["source"].unique().sort() if spec.rubrics else ():
        out.print(f"{source}: graded by {spec.rubric_of(source)}", soft_wrap=True)
    tokens = f"{int(calls['prompt_tokens'].sum()):,} + {int(calls['completion_tokens'].sum()):,} tokens"
    out.print(
        styled((f"{tried.frame.height:,} rows", "bold"), f": {tokens}, {usd_text(usd_of(calls))}. They are kept.")
    )
    print_not_told(calls)


def _print_rest(plan: "Plan", spec: GraderSpec, settings: Settings) -> None:
    if spec.model is None:
        return
    rest = plan.bought.get(spec.name)
    if rest is None or not rest.rows:  # all that is left may be in batches
        out.print("`dselect refresh` would buy no other grade.")
        return
    price = usd_text(plan.usd_of(spec.name, settings))
    about = "" if all(step.exact for step in plan.steps if spec.name in step.bought) else "about "
    tokens = f"{rest.prompt_tokens:,} + {rest.completion_tokens:,} tokens"
    told = f"`dselect refresh` would buy {about}{rest.rows:,} more: about {tokens}, about {price}."
    out.print(told, soft_wrap=True)
    if note := price_note(spec):
        out.print(note, soft_wrap=True)


def _prompt_of(row: dict[str, Any]) -> str:
    first = next((m for m in row["messages"] if m["role"] == "user"), row["messages"][0])
    return shorten(message_text(first), _WIDTH)
