"""`dselect`: refresh, status, dev, export, init. All of it is the Dagster graph; this file only asks and prints."""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from dselect_core.config import CONFIG_ENV, Settings, config_path, load_settings
from dselect_core.errors import DselectError
from dselect_core.workspace import Workspace

if TYPE_CHECKING:
    import dagster as dg

    from dselect_dagster.drain import Drained

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Choose the best small part of a corpus, and keep it fresh."
)
# Where there is no terminal to fit, lines are as wide as the tables.
out = Console(width=None if sys.stdout.isatty() else 140)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar=CONFIG_ENV, help="dselect.yaml [default: ./dselect.yaml]")
]


def _settings(config: Path | None) -> tuple[Settings, Path]:
    path = (config or config_path()).resolve()
    return load_settings(path), path


def _definitions(settings: Settings, path: Path) -> "dg.Definitions":
    from dselect_dagster.build import build_definitions

    return build_definitions(settings, str(path))


@app.command()
def refresh(
    config: ConfigOption = None,
    select: Annotated[str | None, typer.Option(help="only these assets, in Dagster's selection syntax")] = None,
    recipe: Annotated[str | None, typer.Option(help="only this coreset")] = None,
) -> None:
    """See what changed in sources and recipes, and make what that touches. Exits with 1 if anything failed."""
    settings, path = _settings(config)
    if recipe is not None and recipe not in settings.coresets:
        raise DselectError(
            f"no recipe {recipe!r} under `coresets` in {path}; there are: {', '.join(settings.coresets)}"
        )
    import dagster as dg

    from dselect_dagster.bars import Bars
    from dselect_dagster.drain import drain
    from dselect_dagster.instance import open_instance

    workspace = Workspace(settings)
    selection = None if select is None else dg.AssetSelection.from_string(select)
    with open_instance(path) as instance, Bars() as bars:
        done = drain(
            _definitions(settings, path), instance, workspace, select=selection, recipe=recipe, on_run=bars.run
        )
        seconds = bars.seconds
    _report(done, seconds)
    _coresets(workspace, [recipe] if recipe else list(settings.coresets))
    if done.failed:
        raise typer.Exit(1)


def _report(done: "Drained", seconds: float) -> None:
    for change in done.scan.changes:
        kind = "source" if change.asset == "raw_dataset" else "recipe"
        out.print(f"{kind} [bold]{change.partition}[/]: {change.state}")
    for name in done.scan.gone_recipes:
        out.print(f"recipe [bold]{name}[/]: gone; its files stay where they are")
    if not done.runs:
        out.print(f"Nothing to do ({seconds:.1f} s).")
    else:
        made = Table(
            "asset",
            "partition",
            *(Column(n, justify="right") for n in ("rows", "computed", "reused", "nulls", "seconds")),
            box=box.SIMPLE,
        )
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
        out.print("Their inputs are not ready, or runs of them are queued or under way in `dselect dev`.")


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _coresets(workspace: Workspace, recipes: list[str]) -> None:
    right = (Column(n, justify="right") for n in ("rows", "of pool", "tokens"))
    table = Table(
        "coreset", "recipe", *right, Column("path", overflow="fold"), box=box.SIMPLE, show_edge=False, pad_edge=False
    )
    for name in recipes:
        spec, folder = workspace.settings.coresets[name], workspace.coreset(name)
        recipe = f"{spec.strategy}, {spec.budget}"
        try:
            counts = json.loads((folder / "manifest.json").read_text())["counts"]
        except FileNotFoundError:
            table.add_row(name, recipe, "not made")
            continue
        figures = (_figure(counts.get(key, "")) for key in ("rows", "pool", "response_tokens"))
        table.add_row(name, recipe, *figures, _short(str(folder)))
    out.print(table)


def _short(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if "://" not in path and Path(path).is_relative_to(here) else path


@app.command()
def status(config: ConfigOption = None) -> None:
    """Say what is stale and why, in words. Runs nothing."""
    settings, path = _settings(config)
    from dselect_dagster.instance import open_instance
    from dselect_dagster.scan import scan
    from dselect_dagster.stale import Staleness

    with open_instance(path) as instance:
        found = scan(Workspace(settings), instance)
        staleness = Staleness(_definitions(settings, path), instance)
        stale = staleness.all()
        for change in found.changes:
            kind = "source" if change.asset == "raw_dataset" else "recipe"
            out.print(f"{kind} {change.partition} is {change.state}: `dselect refresh` lands it and makes what follows")
        for name in found.gone_recipes:
            out.print(f"recipe {name} is gone from {path.name}")
        for item in stale:
            at = f"[{item.partition}]" if item.partition else ""
            out.print(
                f"{item.asset.to_user_string()}{at} is {'missing' if item.missing else 'stale'}: {item.why}",
                markup=False,
            )
        for key in staleness.idle():
            out.print(f"{key.to_user_string()} is not computed: no recipe reads it")
        if not (found.changes or found.gone_recipes or stale):
            out.print("Everything is up to date.")


@app.command()
def dev(
    config: ConfigOption = None,
    port: Annotated[int, typer.Option(help="port of the UI")] = 3000,
    host: Annotated[str, typer.Option(help="address the UI listens on")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI on this graph, with the runs that `refresh` made. Ctrl-C stops it."""
    import os
    import subprocess

    from dselect_dagster.instance import open_instance

    _, path = _settings(config)
    with open_instance(path):
        pass  # one process makes the instance's tables, before the several that follow
    os.environ[CONFIG_ENV] = str(path)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "dselect_dagster.definitions", "-p", str(port), "-h", host]
    raise typer.Exit(subprocess.call(command))


@app.command()
def export(
    recipe: Annotated[str, typer.Argument(help="a coreset of dselect.yaml")],
    target: Annotated[str, typer.Argument(help="folder or s3:// prefix to copy it to")],
    config: ConfigOption = None,
    format: Annotated[
        str, typer.Option(help="all, messages (JSONL), parquet, alpaca (JSON) or dataset (folder for load_dataset)")
    ] = "all",
) -> None:
    """Copy a made coreset somewhere else, whole or in one format."""
    from dselect_core.export import export_coreset

    settings, _ = _settings(config)
    if recipe not in settings.coresets:
        raise DselectError(f"no recipe {recipe!r}; there are: {', '.join(settings.coresets)}")
    for place in export_coreset(Workspace(settings).coreset(recipe), target, format):
        out.print(_short(str(place)), highlight=False)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder of data files, or one file")],
    config: Annotated[Path, typer.Option("--config", "-c", help="file to write")] = Path("dselect.yaml"),
) -> None:
    """Write a commented dselect.yaml for a folder of files: one source a file or sub-folder."""
    from dselect_core.init import starting_config

    if config.exists():
        raise DselectError(f"{config} is there already; give another name with --config, or remove it")
    text, sources = starting_config(folder, config.resolve().parent)
    config.write_text(text, "utf-8")
    for name, told in sources.items():
        out.print(f"source [bold]{name}[/]: {told}")
    out.print(f"{config} written; `dselect refresh` makes its coresets.")


def main() -> None:
    """Entry point: the errors a person can mend are printed without a traceback."""
    warnings.filterwarnings("ignore", module=r"dagster\..*")
    try:
        app(standalone_mode=False)
    except DselectError as error:
        Console(stderr=True).print(f"[red]error[/] {error}", markup=True, highlight=False, soft_wrap=True)
        sys.exit(2)
    except typer.Exit as done:
        sys.exit(done.exit_code)
