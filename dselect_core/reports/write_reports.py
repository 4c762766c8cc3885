"""The pages of coresets in the storage, one a recipe; with each the index is written (index_page.py).

They are made with what they show: a coreset's with the coreset, its trial's part with the trial. Trade-off: a page that
was lost comes back with the next of these, and not before.
"""

from dselect_core.coreset.coreset import Coreset
from dselect_core.pool.corpus_index import read_index
from dselect_core.reports.coreset_page import coreset_page, with_trial
from dselect_core.reports.index_page import address, write_index
from dselect_core.reports.spread import read_spread
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_bytes, write_text
from dselect_core.trials.standing import standing


def write_coreset_report(workspace: Workspace, recipe: str, made: Coreset) -> str:
    """Write a coreset's page and the index; returns where the page opens."""
    spread = read_spread(workspace, read_index(workspace), made.selection.order["sample_id"])
    page = coreset_page(recipe, made, spread, standing(workspace, recipe))
    write_text(page, workspace.report(recipe))
    write_index(workspace)
    return address(workspace, workspace.report(recipe))


def write_trial_into_report(workspace: Workspace, recipe: str) -> str | None:
    """Put the recipe's trial into its page, and write the index; None where there is no page of the coreset."""
    try:
        page = with_trial(read_bytes(workspace.report(recipe)).decode(), standing(workspace, recipe))
    except FileNotFoundError:
        page = None
    if page is not None:
        write_text(page, workspace.report(recipe))
    write_index(workspace)
    return None if page is None else address(workspace, workspace.report(recipe))
