"""The pages in the storage: one a recipe, and an index of all of them.

They are made with what they show: a coreset's with the coreset, its trial's part with the trial, the index with both.
A page that was lost comes back with the next of these. Trade-off: of two runs at once the later one writes the index;
both read what is there, so it lacks nothing that the other finished before.
"""

from urllib.parse import quote

from dselect_core import html_page
from dselect_core.coreset.coreset import Coreset
from dselect_core.coreset.manifest import readable_manifest
from dselect_core.errors import DselectError
from dselect_core.pool.corpus_index import read_index
from dselect_core.reports.coreset_page import coreset_page, with_trial
from dselect_core.reports.spread import read_spread
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_bytes, write_text
from dselect_core.trials.compare import against_random_text
from dselect_core.trials.standing import standing
from dselect_core.version import __version__


def write_coreset_report(workspace: Workspace, recipe: str, made: Coreset) -> str:
    """Write a coreset's page and the index; returns where the page opens."""
    spread = read_spread(workspace, read_index(workspace), made.selection.order["sample_id"])
    page = coreset_page(recipe, made, spread, standing(workspace, recipe))
    write_text(page, workspace.report(recipe))
    _write_index(workspace)
    return address(workspace, recipe)


def write_trial_into_report(workspace: Workspace, recipe: str) -> str | None:
    """Put the recipe's trial into its page, and write the index; None where there is no page of the coreset."""
    try:
        page = with_trial(read_bytes(workspace.report(recipe)).decode(), standing(workspace, recipe))
    except FileNotFoundError:
        page = None
    if page is not None:
        write_text(page, workspace.report(recipe))
    _write_index(workspace)
    return None if page is None else address(workspace, recipe)


def address(workspace: Workspace, recipe: str) -> str:
    """Where a person opens the page: under `reports_url` where the settings name it, else in the storage."""
    served_at = workspace.settings.reports_url
    return str(workspace.report(recipe)) if served_at is None else f"{served_at.rstrip('/')}/{_within(recipe)}"


def _within(recipe: str) -> str:
    """The page from the index."""
    return f"coresets/{quote(recipe)}.html"


def _write_index(workspace: Workspace) -> None:
    rows = []
    for recipe, spec in workspace.settings.coresets.items():
        manifest = readable_manifest(workspace, recipe)
        tried = standing(workspace, recipe)
        against = tried.why if tried.report is None or tried.why else against_random_text(tried.report)
        name = recipe
        if workspace.report(recipe).exists():
            name = html_page.Html(html_page.link(_within(recipe), recipe))
        counts = {} if manifest is None else manifest["counts"]
        rows.append([name, spec.strategy, str(spec.budget), counts.get("rows"), counts.get("response_tokens"), against])
    heads = ["coreset", "strategy", "budget", "rows", "response tokens", "better than random by"]
    parts = [html_page.table(heads, rows), *_pool(workspace)]
    write_text(html_page.page("Coresets", parts, __version__), workspace.reports / "index.html")


def _pool(workspace: Workspace) -> list[str]:
    try:
        index = read_index(workspace)
    except (DselectError, FileNotFoundError):
        return []
    sources = [[name, "in the pool", ""] for name in index.sources]
    left_out = [[name, "left out", why] for name, why in index.excluded.items()]
    return [
        "<h2>The pool</h2>\n",
        f"<p>{index.frame.height:,} samples, {index.held_out.rows.height:,} of them held out.</p>\n",
        html_page.table(["source", "", "why"], sources + left_out),
    ]
