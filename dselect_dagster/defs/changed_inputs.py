"""What changed outside the graph: sources and recipes that are new, changed or gone.

The record of what was seen before is Dagster's own: the last materialisation of each partition.
"""

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


@dataclass(frozen=True)
class Change:
    """One partition to land. `key` is what was seen, so that one sight asks for one run."""

    asset: str
    partition: str
    state: State
    key: str


@dataclass(frozen=True)
class Scan:
    changes: list[Change]
    gone_recipes: list[str]


def scan(workspace: Workspace, instance: dg.DagsterInstance) -> Scan:
    """Compare dselect.yaml and the files it names with what the graph last saw. Reads no rows."""
    known = set(instance.get_dynamic_partitions(str(SOURCE.name)))
    changes = []
    for name in sorted(known | set(workspace.settings.sources)):
        seen = _last(instance, "raw_dataset", name, "signature")
        state: State = "new" if seen is None else "changed"
        try:
            signature = source_signature(workspace, name)
        except DselectError as error:
            # Its run fails with the same message, where people look for it.
            signature, state = f"unreadable {fingerprint(str(error))}", "unreadable"
        if signature == TOMBSTONE:
            state = "gone"
        if signature != seen:
            changes.append(Change("raw_dataset", name, state, signature))
    for name, spec in workspace.settings.coresets.items():
        seen = _last(instance, "coreset_spec", name, None)
        if seen != spec_version(spec):
            changes.append(Change("coreset_spec", name, "new" if seen is None else "changed", spec_version(spec)))
    gone = sorted(set(instance.get_dynamic_partitions(str(RECIPE.name))) - set(workspace.settings.coresets))
    return Scan(changes, gone)


def register(found: Scan, instance: dg.DagsterInstance) -> None:
    """Make the partitions that the changes name; drop those of recipes that are gone (their files stay)."""
    for definition, asset in ((SOURCE, "raw_dataset"), (RECIPE, "coreset_spec")):
        instance.add_dynamic_partitions(str(definition.name), [c.partition for c in found.changes if c.asset == asset])
    for recipe in found.gone_recipes:
        instance.delete_dynamic_partition(str(RECIPE.name), recipe)


def _last(instance: dg.DagsterInstance, asset: str, partition: str, metadata: str | None) -> str | None:
    """A metadata value of the partition's last materialisation, or its data version; None if there is none."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]), limit=1
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    materialization = records[0].asset_materialization
    if metadata is None:
        return (materialization.tags or {}).get("dagster/data_version")
    value = materialization.metadata.get(metadata)
    return None if value is None else str(value.value)
