"""The index of all pages: the coresets side by side, the pool, and the refreshes that were kept.

Written with each page. Trade-off: of two runs at once the later one writes it; both read what is there, so it lacks
nothing that the other finished before.
"""

from urllib.parse import quote

from upath import UPath

from dselect_core import html_page
from dselect_core.coreset.manifest import readable_manifest
from dselect_core.errors import DselectError
from dselect_core.pool.corpus_index import read_index
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import write_text
from dselect_core.storage.folder_listing import list_tree
from dselect_core.trials.compare import against_random_text
from dselect_core.trials.standing import standing
from dselect_core.version import __version__


def write_index(workspace: Workspace) -> None:
    """Write reports/index.html from what is in the storage now."""
    parts = [coresets_part(workspace), *pool_part(workspace)]
    if names := refresh_pages(workspace):
        links = "".join(
            f"<li>{html_page.link(f'refreshes/{name}', name.removesuffix('.html'))}</li>\n" for name in names
        )
        parts += [f"<h2>Refreshes</h2>\n<ul>\n{links}</ul>\n"]
    write_text(html_page.page("Coresets", parts, __version__), workspace.reports / "index.html")


def address(workspace: Workspace, page: UPath) -> str:
    """Where a person opens a page: under `reports_url` where the settings name it, else in the storage."""
    served_at = workspace.settings.reports_url
    return str(page) if served_at is None else f"{served_at.rstrip('/')}/{_within(workspace, page)}"


def _within(workspace: Workspace, page: UPath) -> str:
    """A page from the index."""
    return quote(str(page.path).removeprefix(str(workspace.reports.path)).lstrip("/"))


def refresh_pages(workspace: Workspace) -> list[str]:
    """Names of the pages of refreshes, the latest first."""
    return sorted((name for name in list_tree(workspace.refresh_reports) if name.endswith(".html")), reverse=True)


def coresets_part(workspace: Workspace, root: str = "") -> str:
    """A table of all recipes: what each chose, and how it does against random. root: of the index, from the page."""
    rows = []
    for recipe, spec in workspace.settings.coresets.items():
        manifest = readable_manifest(workspace, recipe)
        tried = standing(workspace, recipe)
        against = tried.why if tried.report is None or tried.why else against_random_text(tried.report)
        name = recipe
        if workspace.report(recipe).exists():
            name = html_page.Html(html_page.link(root + _within(workspace, workspace.report(recipe)), recipe))
        counts = {} if manifest is None else manifest["counts"]
        rows.append([name, spec.strategy, str(spec.budget), counts.get("rows"), counts.get("response_tokens"), against])
    heads = ["coreset", "strategy", "budget", "rows", "response tokens", "better than random by"]
    return html_page.table(heads, rows)


def pool_part(workspace: Workspace) -> list[str]:
    """The pool: how many samples, which sources are in it, and why others are not. Empty where there is none."""
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
