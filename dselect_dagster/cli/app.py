"""`dselect`: refresh, plan, status, why, compare, report, grades, dev, export, init.

Each command reads its options and calls what does it.

Dagster and the model libraries are imported inside the commands, so that `--help` and typing errors answer at once.
"""

import contextlib
import gc
import os
import signal
import sys
import traceback
import warnings
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dselect_core.errors import DselectError
from dselect_core.settings.settings import CONFIG_ENV, Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import Stopped
from dselect_dagster.cli import grades, render
from dselect_dagster.cli.batches import print_waiting
from dselect_dagster.cli.config_option import ConfigOption, NameOption, definitions, load
from dselect_dagster.cli.console import err, out, prepare_terminal, say_that_it_waits, styled
from dselect_dagster.cli.failures import explain
from dselect_dagster.cli.money import print_spend_of_refresh

if TYPE_CHECKING:
    from dselect_dagster.refresh.plan_refresh import Found

STOPPED_EXIT_CODE = 130
STOPPING = (
    "Stopping: what is finished is written, and `dselect refresh` goes on from there. A second signal stops at once."
)
DEBUG = "--debug"


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Stopped:
            raise typer.Exit(STOPPED_EXIT_CODE) from None
        except KeyboardInterrupt:
            err.print("Stopped; no run was under way.")
            raise typer.Exit(STOPPED_EXIT_CODE) from None


app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(grades.app, name="grades")


@app.callback()
def _of_all_commands(
    debug: Annotated[bool, typer.Option(DEBUG, help="show the traceback of an error; goes with every command")] = False,
) -> None:
    """Choose the best small part of a corpus, and keep it fresh."""


SelectOption = Annotated[str | None, typer.Option(help="only these assets, in Dagster's selection syntax")]
RecipeOption = Annotated[str | None, typer.Option(help="only this coreset")]


def _check_recipe(settings: Settings, path: Path, recipe: str | None) -> None:
    if recipe is not None and recipe not in settings.coresets:
        raise DselectError(
            f"no recipe {recipe!r} under `coresets` in {path}; there are: {', '.join(settings.coresets)}"
        )


@app.command()
def refresh(
    config: ConfigOption = None,
    select: SelectOption = None,
    recipe: RecipeOption = None,
    name: NameOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop, as `dselect plan`")] = False,
) -> None:
    """Make what changes in sources and recipes touch, after a plan of it. Exits with 1 if anything failed."""
    settings, path = load(config)
    _check_recipe(settings, path, recipe)
    import dagster as dg

    from dselect_dagster.cli.progress_bars import ProgressBars
    from dselect_dagster.cli.refresh_report import report_refresh
    from dselect_dagster.dagster_private import step_tracebacks_of
    from dselect_dagster.defs.namespace import Namespace
    from dselect_dagster.refresh.instance import hold_refresh_lock, open_instance
    from dselect_dagster.refresh.plan_refresh import plan_refresh
    from dselect_dagster.refresh.refresh import RefreshResult
    from dselect_dagster.refresh.refresh import refresh as refresh_graph
    from dselect_dagster.refresh.stop_signals import run_stoppable

    workspace = Workspace(settings)
    selection = None if select is None else dg.AssetSelection.from_string(select)
    defs, namespace = definitions(settings, path, name), Namespace(name)
    with open_instance(path) as instance, contextlib.ExitStack() as locks:
        if not dry_run:
            locks.enter_context(hold_refresh_lock(path, instance, say_that_it_waits))
        found: Found | None = None
        try:
            found, plan = plan_refresh(
                defs,
                instance,
                workspace,
                select=selection,
                recipe=recipe,
                namespace=namespace,
                save_verified=not dry_run,
            )
        except DselectError as error:
            if dry_run:
                raise
            # What cannot be planned fails in its run, with this message; what does not depend on it is made.
            out.print(styled(("no plan", "yellow"), f": {error}"), soft_wrap=True)
        else:
            render.print_changed_inputs(found.changed_inputs)
            if dry_run or plan.steps:
                render.print_plan(plan, settings)
        if dry_run:
            return
        with ProgressBars() as bars:

            def work() -> RefreshResult:
                return refresh_graph(
                    defs,
                    instance,
                    workspace,
                    select=selection,
                    recipe=recipe,
                    namespace=namespace,
                    found=found,
                    on_run=bars.start_run,
                )

            def say_that_it_stops() -> None:
                bars.stop()
                err.print(STOPPING, soft_wrap=True)

            result = run_stoppable(work, say_that_it_stops)
            seconds = bars.seconds
    render.print_result(result, seconds)
    if DEBUG in sys.argv:
        for run in result.failed:
            for step_traceback in step_tracebacks_of(run.result):
                err.print(step_traceback, soft_wrap=True)
    if result.broken_off is not None:
        raise typer.Exit(1)  # all below reads the storage
    print_spend_of_refresh(workspace, result.refresh_id)
    print_waiting(workspace)
    render.print_coresets(workspace, [recipe] if recipe else list(settings.coresets))
    report_refresh(workspace, result, seconds)
    if not result.is_whole:
        raise typer.Exit(1)


@app.command()
def plan(
    config: ConfigOption = None, select: SelectOption = None, recipe: RecipeOption = None, name: NameOption = ""
) -> None:
    """Say what a refresh would make, compute, reuse and cost. Runs nothing, writes nothing."""
    refresh(config, select, recipe, name, dry_run=True)


@app.command()
def why(
    sample: Annotated[str, typer.Argument(help="a sample id, or the beginning of one")], config: ConfigOption = None
) -> None:
    """Tell one sample's whole story: its rows, its scores and what made them, and what each recipe did with it."""
    settings, _ = load(config)
    from dselect_core.lineage.explain import story

    render.print_story(story(Workspace(settings), sample, list(settings.sources)))


@app.command()
def status(config: ConfigOption = None, name: NameOption = "") -> None:
    """Say what is stale and why, in words. Runs nothing."""
    settings, path = load(config)
    from dselect_core.kinds import TO_REPEAT, TRIED_AGAIN
    from dselect_core.lineage.lost_tables import given_up_rows
    from dselect_core.lineage.publishable import refused_publications
    from dselect_core.lineage.quality_checks import held_back
    from dselect_core.pool.corpus_index import grades_candidates_only
    from dselect_dagster.defs.changed_inputs import all_lost, find_changed_inputs
    from dselect_dagster.defs.namespace import Namespace
    from dselect_dagster.refresh.instance import open_instance
    from dselect_dagster.refresh.staleness import Staleness

    workspace, namespace = Workspace(settings), Namespace(name)
    with open_instance(path) as instance:
        changed_inputs = find_changed_inputs(workspace, instance, namespace)
        lost = all_lost(changed_inputs, workspace, instance)
        staleness = Staleness(definitions(settings, path, name), instance, namespace)
        coming = {of: keys for of, keys in changed_inputs.partitions_to_come.items() if of != namespace.recipe.name}
        stale_partitions = staleness.stale_partitions(coming, changed_inputs.partitions_to_go)
        for change in changed_inputs.changes:
            name = f"{render.kind_of_input(change)} {change.partition}"
            out.print(f"{name} is {change.state}: `dselect refresh` lands it and makes what follows")
            if reason := lost.pop((change.asset, change.partition), None):
                out.print(f"  {reason}", soft_wrap=True)
        for recipe in changed_inputs.gone_recipes:
            out.print(f"recipe {recipe} is gone from {path.name}")
        for stale in stale_partitions:
            name = render.asset_partition(stale.asset.to_user_string(), stale.partition)
            out.print(f"{name} is {'missing' if stale.missing else 'stale'}: {stale.why}")
        for (asset_name, partition), reason in lost.items():
            state = "not complete" if reason.endswith((TRIED_AGAIN, TO_REPEAT)) else "lost"
            out.print(f"{render.asset_partition(asset_name, partition)} is {state}: {reason}", soft_wrap=True)
        for place, kind, rows in given_up_rows(workspace, list(settings.sources)):
            name, by = render.asset_partition(*place), f" with {kind.maker}" if kind.maker else ""
            attempts = f"failed {kind.give_up_after(settings)} times{by}"
            out.print(f"{name}: {rows:,} rows {attempts} and are not tried again")
        print_waiting(workspace)
        held = held_back(workspace)
        for name, why in held.items():
            out.print(f"{render.asset_partition('coreset', name)} is held back: {why}", soft_wrap=True)
        refused = refused_publications(workspace)
        for name, why in refused.items():
            out.print(f"{render.asset_partition('publication', name)} is refused: {why}", soft_wrap=True)
        for asset in staleness.unused_assets():
            is_replaced = asset.to_user_string() == "dependability_grades" and grades_candidates_only(settings)
            why = "candidate_grades is, of what can still be chosen" if is_replaced else "no recipe reads it"
            out.print(f"{asset.to_user_string()} is not computed: {why}")
        if not (changed_inputs.changes or changed_inputs.gone_recipes or stale_partitions or lost or held or refused):
            out.print("Everything is up to date.")


@app.command()
def compare(
    config: ConfigOption = None,
    name: NameOption = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="also write one HTML file that needs nothing else")
    ] = None,
) -> None:
    """Set all tried coresets side by side: against random draws of their size, on held-out rows. Runs nothing."""
    settings, path = load(config)
    from dselect_core.trials.compare import compare as compare_trials
    from dselect_core.trials.compare_page import comparison_page
    from dselect_core.version import __version__
    from dselect_dagster.defs.namespace import Namespace
    from dselect_dagster.refresh.instance import open_instance
    from dselect_dagster.refresh.staleness import stale_trials

    with open_instance(path) as instance:
        stale = stale_trials(definitions(settings, path, name), instance, Namespace(name))
    compared = compare_trials(Workspace(settings), stale)
    render.print_comparison(compared)
    if html is not None:
        html.write_text(comparison_page(compared, settings.trials, __version__), "utf-8")
        out.print(f"{html} written.", soft_wrap=True)


@app.command()
def report(
    recipe: Annotated[str | None, typer.Argument(help="a coreset of dselect.yaml; without: all of them")] = None,
    config: ConfigOption = None,
    show: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
) -> None:
    """Name the page of a coreset: its trial, who came and left, its first rows, and how it lies in its pool."""
    from dselect_core.storage.files import is_local

    settings, path = load(config)
    workspace = Workspace(settings)
    if recipe is not None:
        _check_recipe(settings, path, recipe)
    page = workspace.reports / "index.html" if recipe is None else workspace.report(recipe)
    if not page.exists():
        raise DselectError(f"{page}: not there; it is written with its coreset, by `dselect refresh`")
    out.print(str(page), soft_wrap=True)
    if show:
        if not is_local(page):
            raise DselectError(
                f"{page}: a browser cannot open it there; serve the folder, and name it as `reports_url`"
            )
        webbrowser.open(Path(page.path).resolve().as_uri())


@app.command()
def dev(
    config: ConfigOption = None,
    port: Annotated[int, typer.Option(help="port of the UI")] = 3000,
    host: Annotated[str, typer.Option(help="address the UI listens on")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI on this graph, with the runs that `refresh` made, and the reports. Ctrl-C stops it."""
    from dselect_dagster.cli.report_server import start_report_server
    from dselect_dagster.refresh.instance import open_instance

    settings, path = load(config)
    with open_instance(path):
        pass  # one process makes the instance's tables, before the several that follow
    if settings.reports_url and start_report_server(settings.reports_url, path):
        out.print(f"Pages of the coresets: {settings.reports_url}")
    os.environ[CONFIG_ENV] = str(path)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "dselect_dagster.definitions", "-p", str(port), "-h", host]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # the signals are Dagster's own, which ends the processes that it started


@app.command()
def export(
    recipe: Annotated[str, typer.Argument(help="a coreset of dselect.yaml")],
    target: Annotated[str, typer.Argument(help="folder or s3:// prefix to copy it to")],
    config: ConfigOption = None,
    format: Annotated[
        str, typer.Option(help="all, messages (JSONL), parquet, alpaca (JSON) or dataset (folder for load_dataset)")
    ] = "all",
    trainer: Annotated[
        str | None, typer.Option("--for", help="trl, axolotl or llamafactory: with the description that it needs")
    ] = None,
) -> None:
    """Copy a made coreset somewhere else: whole, in one format, or for a trainer."""
    from dselect_core.coreset.export import export_coreset
    from dselect_core.coreset.for_trainers import export_for

    settings, config_file = load(config)
    _check_recipe(settings, config_file, recipe)
    if trainer is not None:
        written, left_out = export_for(Workspace(settings).coreset(recipe), target, trainer)
        for path in written:
            out.print(render.short_path(str(path)))
        if left_out:
            out.print(f"{left_out} rows are left out: {trainer} has no form for their tool calls")
        return
    for path in export_coreset(Workspace(settings).coreset(recipe), target, format):
        out.print(render.short_path(str(path)))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="folder of data files, or one file")],
    config: Annotated[Path, typer.Option("--config", "-c", help="file to write")] = Path("dselect.yaml"),
) -> None:
    """Write a commented dselect.yaml for a folder of files: one source a file or sub-folder."""
    from dselect_core.corpus.starter_config import make_starter_config

    if config.exists():
        raise DselectError(f"{config} is there already; give another name with --config, or remove it")
    text, sources, not_read = make_starter_config(folder, config.resolve().parent)
    config.write_text(text, "utf-8")
    for name, contents in sources.items():
        out.print(styled("source ", (name, "bold"), f": {contents}"))
    for line in not_read:
        out.print(styled((line, "yellow")), soft_wrap=True)
    out.print(f"{config} written; `dselect refresh` makes its coresets.")


def main() -> None:
    """Entry point. An error is one line with its remedy, never a traceback: `--debug`, anywhere in the line, shows it.

    Exits with 2 for what a person can mend in files and options, 130 when stopped by a signal, 1 for all else.
    """
    prepare_terminal()
    warnings.filterwarnings("ignore", module=r"dagster\..*")
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    try:
        code = app(arguments or ["--help"], standalone_mode=False)
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            _leave_closed_pipe()
        if DEBUG in sys.argv:
            err.print("".join(traceback.format_exception(error)), soft_wrap=True)
        message, code = explain(error)
        err.print(styled(("error", "red"), f" {message}"), soft_wrap=True)
    if code == STOPPED_EXIT_CODE:
        # What had to be written is. Python would take another second to take torch down.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    gc.freeze()  # else Python looks through all that was loaded once more before it ends
    sys.exit(code)


def _leave_closed_pipe() -> None:
    """Whoever read the output has gone (`| head`), and needs no message."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


if __name__ == "__main__":
    main()
