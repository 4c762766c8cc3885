"""Whether a recipe's trial speaks of the coreset that stands there now.

A verdict is of the rows that were tuned on. After the coreset changed, and until its own trial ran, there is none.
"""

from dataclasses import dataclass

import polars as pl

from dselect_core.coreset.published import read_version
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.report import TrialReport, read_report


@dataclass(frozen=True)
class Standing:
    """A recipe's trial as it stands. report: None where there is none; why: it says nothing of this coreset, or ""."""

    recipe: str
    report: TrialReport | None
    why: str

    @property
    def holds(self) -> bool:
        """Whether the verdict is one of the present coreset."""
        return self.report is not None and not self.why


def standing(workspace: Workspace, recipe: str) -> Standing:
    """Read the recipe's trial and its coreset, and compare the two. Reads no model and no pool."""
    try:
        report = read_report(workspace, recipe)
    except DselectError:
        return Standing(recipe, None, "its trial cannot be read")
    if report is None:
        return Standing(recipe, None, "not tried yet")
    version = coreset_version(workspace, recipe)
    if version is None:
        return Standing(recipe, report, "its coreset cannot be read")
    return Standing(recipe, report, "" if report.coreset == version else "its coreset changed since it was tried")


def coreset_version(workspace: Workspace, recipe: str) -> str | None:
    """Hash of the chosen ids in order, as `make_coreset` reports it; None where no coreset can be read."""
    try:
        order: pl.DataFrame = read_version(workspace.coreset(recipe), lambda made: made.read_table("order.parquet"))
    except (FileNotFoundError, DselectError):
        return None
    return digest(order["sample_id"])
