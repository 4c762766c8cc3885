"""The samples of the pool that are not chosen because a sample that is kept is alike to them, and why, as a table.

The table is made by neighbors/near_duplicates.py. Where the settings do not ask for it, an older one is not read.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.pool.corpus_index import Index
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet

SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "keeper_id": pl.String(),
    "by": pl.String(),  # cosine, text
    "similarity": pl.Float32(),
    "group_size": pl.UInt32(),  # samples of the group, the keeper among them
    "reason": pl.String(),
}


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """table: SCHEMA, ascending by id: the samples that are not chosen, each with the one that is kept instead."""

    table: pl.DataFrame

    @property
    def version(self) -> str | None:
        """Hash of the samples and their reasons; None where no samples are alike: then nothing differs from `off`."""
        return None if self.table.is_empty() else digest([*self.table["sample_id"], *self.table["reason"]])

    @property
    def groups(self) -> int:
        """How many samples are kept for others."""
        return self.table["keeper_id"].n_unique()

    def record(self, settings: Settings) -> dict[str, Any]:
        """For the manifest: which samples were taken for alike, and how many were."""
        assert settings.near_duplicates is not None
        counts = {"version": self.version, "rows": self.table.height, "groups": self.groups}
        return counts | settings.near_duplicates.model_dump(mode="json")


def read_near_duplicates(workspace: Workspace) -> NearDuplicates:
    """What was found last; empty where the settings do not ask for it. Raises DselectError where it is not made yet."""
    if workspace.settings.near_duplicates is None:
        return NearDuplicates(pl.DataFrame(schema=SCHEMA))
    try:
        return NearDuplicates(read_parquet(workspace.near_duplicates))
    except FileNotFoundError:
        raise DselectError(
            f"{workspace.near_duplicates}: no near-duplicates were looked for yet; run `dselect refresh`"
        ) from None


def near_duplicates_version(workspace: Workspace) -> str | None:
    """The version of what was found last; None also where it is not made yet, or cannot be read."""
    try:
        return read_near_duplicates(workspace).version
    except DselectError:
        return None


def reasons_not_chosen(workspace: Workspace, index: Index) -> pl.DataFrame:
    """sample_id, reason: what of the pool no strategy may choose, whatever its scores. Raises as above."""
    rows = index.held_out.rows
    # A table of an earlier pool may name a sample that is held out by now: one reason is enough.
    near = read_near_duplicates(workspace).table.select("sample_id", "reason")
    return pl.concat([rows, near.join(rows, on="sample_id", how="anti")])
