"""What changed outside the graph: sources and recipes that are new, changed or gone, and the runs that land them.

The record of what the graph read last is Dagster's own: the last materialization of each partition. Sources are
compared by size and time or etag of their files, which costs no read of rows. Landing then compares content: rows that
were only written again move nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from dselect_core.coreset.spec import spec_version
from dselect_core.corpus.raw_dataset import TOMBSTONE, source_signature
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.partitions import RECIPE, SOURCE

State = Literal["new", "changed", "gone", "unreadable"]
# The assets that read what is outside the graph, with their partitions.
LANDED_ASSETS = {"raw_dataset": SOURCE, "coreset_spec": RECIPE}


@dataclass(frozen=True)
class ChangedInput:
    """One partition to land. signature: of the input as it is now, so that each state of it is landed once."""

    asset: str
    partition: str
    state: State
    signature: str


@dataclass(frozen=True)
class ChangedInputs:
    """All partitions to land, and the recipes that have a partition but are no longer in dselect.yaml."""

    changes: list[ChangedInput]
    gone_recipes: list[str]

    def states(self, asset: str) -> dict[str, State]:
        """{partition: state} of the changes that one asset lands."""
        return {change.partition: change.state for change in self.changes if change.asset == asset}


def find_changed_inputs(workspace: Workspace, instance: dg.DagsterInstance) -> ChangedInputs:
    """Compare dselect.yaml and the files it names with what the graph read last. Reads no rows.

    A source that cannot be read is a change of state "unreadable": its run fails with the message, in the UI's sight.
    """
    sources = set(instance.get_dynamic_partitions(str(SOURCE.name))) | set(workspace.settings.sources)
    changes = []
    for name in sorted(sources):
        landed = _last_materialization(instance, "raw_dataset", name)
        landed_signature = None if landed is None else landed.metadata.get("signature")
        state: State = "new" if landed_signature is None else "changed"
        try:
            signature = source_signature(workspace, name)
        except DselectError as error:
            signature, state = f"unreadable {fingerprint(str(error))}", "unreadable"
        if signature == TOMBSTONE:
            state = "gone"
        if landed_signature is None or signature != str(landed_signature.value):
            changes.append(ChangedInput("raw_dataset", name, state, signature))
    for name, spec in workspace.settings.coresets.items():
        landed = _last_materialization(instance, "coreset_spec", name)
        landed_version = None if landed is None else (landed.tags or {}).get("dagster/data_version")
        version = spec_version(spec)
        if landed_version != version:
            changes.append(ChangedInput("coreset_spec", name, "new" if landed_version is None else "changed", version))
    gone = sorted(set(instance.get_dynamic_partitions(str(RECIPE.name))) - set(workspace.settings.coresets))
    return ChangedInputs(changes, gone)


def register_partitions(changed_inputs: ChangedInputs, instance: dg.DagsterInstance) -> None:
    """Make the partitions that the changes name; drop those of recipes that are gone (their files stay)."""
    for asset, definition in LANDED_ASSETS.items():
        instance.add_dynamic_partitions(str(definition.name), list(changed_inputs.states(asset)))
    for recipe in changed_inputs.gone_recipes:
        instance.delete_dynamic_partition(str(RECIPE.name), recipe)


def landing_runs(changed_inputs: ChangedInputs, assets: Iterable[str]) -> list[dg.RunRequest]:
    """One run for each change that these assets land. The run key makes Dagster start it once for each signature."""
    return [
        dg.RunRequest(
            run_key=f"{change.asset}:{change.partition}:{change.signature}",
            asset_selection=[dg.AssetKey(change.asset)],
            partition_key=change.partition,
            tags={"dselect/cause": change.state},
        )
        for change in changed_inputs.changes
        if change.asset in assets
    ]


def _last_materialization(instance: dg.DagsterInstance, asset: str, partition: str) -> dg.AssetMaterialization | None:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]), limit=1
    ).records
    return records[0].asset_materialization if records else None
