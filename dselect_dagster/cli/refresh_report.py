"""What a refresh came to, as the page of it shows it (dselect_core/reports/refresh_page.py)."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dselect_core.reports.refresh_page import RefreshFacts, write_refresh_report
from dselect_core.settings.workspace import Workspace
from dselect_dagster.cli.console import out
from dselect_dagster.cli.render import asset_partition, made_rows, short_path

if TYPE_CHECKING:
    from dselect_dagster.refresh.refresh import RefreshResult


def report_refresh(workspace: Workspace, result: "RefreshResult", seconds: float) -> None:
    """Write the page and say where it is; nothing where nothing was run."""
    if not result.runs:
        return
    begun_at = datetime.now(UTC) - timedelta(seconds=seconds)
    facts = RefreshFacts(result.refresh_id, begun_at, seconds, list(made_rows(result)), list(_problems(result)))
    # Where it lies, not where it is served: that may be only while the UI is open.
    out.print(f"Page of this refresh: {short_path(str(write_refresh_report(workspace, facts)))}", soft_wrap=True)


def _problems(result: "RefreshResult") -> Iterator[tuple[str, str]]:
    for run in result.failed:
        for step, message in run.errors.items():
            yield f"{asset_partition(step, run.partition)} failed", message
    for stale in result.still_stale:
        yield f"{asset_partition(stale.asset.to_user_string(), stale.partition)} is not made", stale.why
    for (asset, partition), why in result.still_lost.items():
        yield f"{asset_partition(asset.to_user_string(), partition)} is not complete", why
    for recipe, why in result.held_back.items():
        yield f"coreset {recipe} is held back", why
    for source, why in result.left_out.items():
        yield f"source {source} is left out of the pool", why
