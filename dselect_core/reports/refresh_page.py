"""A refresh as one HTML page: what it made, what it could not make and why, what it spent, how the coresets stand then.

Written when it has ended, as a record that stays when later ones overwrite the coresets' pages. Trade-off: the last
KEPT pages stand, and older ones are removed, for each refresh of a schedule makes one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from upath import UPath

from dselect_core import html_page
from dselect_core.graders.spend import Ledger, usd_of
from dselect_core.reports.index_page import coresets_part, pool_part, refresh_pages, write_index
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import write_text
from dselect_core.version import __version__

KEPT = 30
"""Pages of refreshes."""

HEADS = ("made", "partition", "rows", "computed", "reused", "nulls", "seconds")


@dataclass(frozen=True)
class RefreshFacts:
    """made: rows of HEADS, nulls where an asset counts no such thing. problems: (what, why) of all that is not done."""

    refresh_id: str
    begun_at: datetime
    seconds: float
    made: Sequence[Sequence[Any]]
    problems: Sequence[tuple[str, str]]


def write_refresh_report(workspace: Workspace, facts: RefreshFacts) -> UPath:
    """Write the page of a refresh that has ended, and the index; returns where it lies."""
    name = f"{facts.begun_at:%Y%m%dT%H%M%SZ}-{facts.refresh_id[:8]}.html"
    page: UPath = workspace.refresh_reports / name
    write_text(
        html_page.page(f"Refresh of {facts.begun_at:%Y-%m-%d %H:%M} UTC", _parts(workspace, facts), __version__), page
    )
    for old in refresh_pages(workspace)[KEPT:]:
        (workspace.refresh_reports / old).unlink(missing_ok=True)
    write_index(workspace)
    return page


def _parts(workspace: Workspace, facts: RefreshFacts) -> list[str]:
    said = f"{len(facts.made):,} tables in {facts.seconds:,.1f} s; refresh {facts.refresh_id}."
    return [
        f"<p>{html_page.text(said)}</p>\n",
        *_problems(facts),
        "<h2>What it made</h2>\n",
        html_page.table(HEADS, facts.made),
        *_spent(workspace, facts.refresh_id),
        "<h2>The coresets</h2>\n",
        coresets_part(workspace, "../"),
        *pool_part(workspace),
    ]


def _problems(facts: RefreshFacts) -> list[str]:
    if not facts.problems:
        return ['<p class="better">All was done.</p>\n']
    return ['<h2 class="worse">What is not done</h2>\n', html_page.table(["what", "why"], facts.problems)]


def _spent(workspace: Workspace, refresh_id: str) -> list[str]:
    calls = Ledger.of(workspace).calls(price=workspace.settings.prices).filter(run=refresh_id)
    if calls.is_empty():
        return []
    rows = [
        [judge, source, of.height, of["prompt_tokens"].sum(), of["completion_tokens"].sum(), usd_of(of)]
        for (judge, source), of in calls.group_by("model", "source", maintain_order=True)
    ]
    heads = ["judge", "source", "calls", "prompt tokens", "completion tokens", "USD"]
    return ["<h2>What it spent</h2>\n", html_page.table(heads, rows)]
