"""What the commands print: plans, reports of a refresh, coresets, the story of a sample. No decision is made here."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from dselect_core.coreset.manifest import read_manifest
from dselect_core.lineage.plan import Plan, Step
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace

if TYPE_CHECKING:
    from dselect_core.lineage.explain import Score, Story
    from dselect_dagster.defs.changed_inputs import Scan
    from dselect_dagster.refresh.refresh import Drained

# Where there is no terminal to fit, lines are as wide as the tables.
out = Console(width=None if sys.stdout.isatty() else 160)
# More partitions of one asset than this are summed up in one line of a plan.
LISTED = 12


def changes(scan: "Scan") -> None:
    for change in scan.changes:
        kind = "source" if change.asset == "raw_dataset" else "recipe"
        out.print(f"{kind} [bold]{change.partition}[/]: {change.state}")
    for name in scan.gone_recipes:
        out.print(f"recipe [bold]{name}[/]: gone; its files stay where they are")


def plan(found: Plan, settings: Settings) -> None:
    for name, problem in found.problems.items():
        out.print(f"[red]{name}[/]: {problem}", highlight=False, soft_wrap=True)
    if not found.steps and not found.lost:
        out.print("Nothing to do.")
        return
    right = (Column(n, justify="right") for n in ("to compute", "to reuse", "tokens", "seconds"))
    table = Table("would make", "partition", *right, "why", box=box.SIMPLE)
    by_asset: dict[str, list[Step]] = defaultdict(list)
    for step in found.steps:
        by_asset[step.asset].append(step)
    for asset, steps in by_asset.items():
        for step in steps if len(steps) <= LISTED else [_sum(asset, steps)]:
            about = "" if step.exact else "≈"
            computed = "" if step.computed is None else f"{about}{step.computed:,}"
            reused = "" if step.reused is None else f"{about}{step.reused:,}"
            tokens = f"≈{step.tokens:,}" if step.tokens else ""
            seconds = "" if step.seconds is None else f"≈{step.seconds:,.1f}"
            table.add_row(asset, step.partition or "", computed, reused, tokens, seconds, step.why)
    out.print(table)
    out.print(f"{len(found.steps)} asset partitions; {_totals(found, settings)}", highlight=False)


def _sum(asset: str, steps: list[Step]) -> Step:
    def total(name: str) -> Any:
        values = [value for step in steps if (value := getattr(step, name)) is not None]
        return sum(values) if values else None

    return Step(
        asset,
        f"{len(steps)} partitions",
        "; ".join(sorted({step.why for step in steps})),
        total("computed"),
        total("reused"),
        all(step.exact for step in steps),
        total("tokens"),
        seconds=total("seconds"),
    )


def _totals(found: Plan, settings: Settings) -> str:
    told = [f"about {found.tokens:,} tokens through the model" if found.tokens else "no token through the model"]
    prompt, completion = found.judge_tokens
    if prompt:
        usd = found.usd(settings)
        money = "price unknown: set grader.usd_per_million_tokens" if usd is None else f"about ${usd:,.2f}"
        told.append(f"about {prompt:,} + {completion:,} tokens of {settings.grader.model} ({money})")
    seconds = found.seconds
    told.append("seconds unknown: not everything has run here before" if seconds is None else f"about {seconds:,.0f} s")
    return "; ".join(told)


def report(done: "Drained", seconds: float) -> None:
    if not done.runs:
        out.print(f"Nothing to do ({seconds:.1f} s).")
    else:
        right = (Column(n, justify="right") for n in ("rows", "computed", "reused", "nulls", "seconds"))
        made = Table("made", "partition", *right, box=box.SIMPLE)
        for run in done.runs:
            for event in run.result.get_asset_materialization_events():
                m = event.step_materialization_data.materialization
                figures = {name: value.value for name, value in m.metadata.items()}
                rows = figures.get("dagster/partition_row_count", figures.get("dagster/row_count", ""))
                columns = [figures.get(k, "") for k in ("rows computed", "rows reused", "nulls", "seconds")]
                made.add_row(m.asset_key.to_user_string(), m.partition or "", *(_figure(v) for v in (rows, *columns)))
        out.print(made)
        out.print(f"{len(done.runs)} runs in {seconds:.1f} s; `dselect dev` shows them.")
    for run in done.failed:
        for step, message in run.errors.items():
            out.print(f"[red]failed[/] {step}" + (f" [{run.partition}]" if run.partition else ""), highlight=False)
            out.print(message, markup=False, highlight=False, soft_wrap=True)
    for stale in done.still_stale:
        at = f"\\[{stale.partition}]" if stale.partition else ""
        out.print(f"not made: {stale.asset.to_user_string()}{at}: {stale.why}", highlight=False)
    if done.still_stale and not done.failed:
        out.print("Their inputs are not ready, or runs of them are queued or under way elsewhere.")


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def coresets(workspace: Workspace, recipes: list[str]) -> None:
    right = (Column(n, justify="right") for n in ("rows", "of pool", "tokens", "entered", "left"))
    table = Table(
        "coreset", "recipe", *right, Column("path", overflow="fold"), box=box.SIMPLE, show_edge=False, pad_edge=False
    )
    for name in recipes:
        spec, folder = workspace.settings.coresets[name], workspace.coreset(name)
        recipe = f"{spec.strategy}, {spec.budget}"
        manifest = read_manifest(workspace, name)
        if manifest is None:
            table.add_row(name, recipe, "not made")
            continue
        figures = [_figure(manifest["counts"].get(key, "")) for key in ("rows", "pool", "response_tokens")]
        moved = manifest.get("changes", {"entered": {}, "left": {}})
        figures += [_figure(sum(moved[change].values())) for change in ("entered", "left")]
        table.add_row(name, recipe, *figures, short(str(folder)))
    out.print(table)


def short(path: str) -> str:
    """Relative to the working directory where that is shorter."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if "://" not in path and Path(path).is_relative_to(here) else path


def story(found: "Story") -> None:
    out.print(f"sample [bold]{found.sample_id}[/]")
    for message in found.messages:
        text = " ".join(message["content"].split())
        out.print(f"  {message['role']}: {text if len(text) <= 300 else text[:299] + '…'}", markup=False)
    out.print("[bold]stands in[/]")
    for origin in found.origins:
        out.print(f"  {origin['source']}: {origin['file']}, row {origin['row']}", markup=False, highlight=False)
    if found.shot is not None and found.shot["shot_id"] is not None:
        out.print(f"[bold]its shot[/] {found.shot['shot_id']}, similarity {found.shot['similarity']:.6f}")
    out.print("[bold]scores[/]")
    for score in sorted(found.scores, key=lambda s: (s.kind, not s.in_force, s.written)):
        _score(score)
    out.print("[bold]coresets[/]")
    for choice in found.choices:
        state = "[green]in[/]" if choice.rank is not None else "out"
        gain = "" if choice.gain is None or choice.rank is None else f", gain {choice.gain:.6g}"
        out.print(
            f"  {choice.recipe} ({choice.strategy}, {choice.budget}): {state}: {choice.why}{gain}", soft_wrap=True
        )


def _score(score: "Score") -> None:
    held = "" if score.in_force else " [dim](of an earlier recipe or shot; not used now)[/]"
    out.print(f"  [bold]{score.kind}[/], written {score.written:%Y-%m-%d %H:%M:%S} UTC{held}", highlight=False)
    values = ", ".join(f"{name} {_value(value)}" for name, value in score.values.items())
    out.print(f"    {values}", markup=False, highlight=False, soft_wrap=True)
    recipe = {k: v for k, v in score.provenance.items() if k != "rubric"}
    out.print(f"    recipe {score.fingerprint}: {json.dumps(recipe)}", markup=False, highlight=False, soft_wrap=True)
    if "rubric" in score.provenance:
        for line in score.provenance["rubric"].splitlines():
            out.print(f"    | {line}", markup=False, highlight=False, soft_wrap=True)


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
