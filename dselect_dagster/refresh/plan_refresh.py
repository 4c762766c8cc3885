"""The plan of a refresh: what Dagster knows (what is recorded, is stale, took how long) put to dselect_core's planner.

Rates come from the figures that past materializations recorded, so they are of this machine and this data.
"""

from dataclasses import dataclass, replace

import dagster as dg

from dselect_core.lineage.lost_tables import LostTables
from dselect_core.lineage.make_plan import make_plan
from dselect_core.lineage.plan import Plan, Rate
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.changed_inputs import (
    ChangedInputs,
    data_version_of,
    find_changed_inputs,
    find_lost_publications,
    last_record,
)
from dselect_dagster.defs.namespace import PLAIN, Namespace
from dselect_dagster.refresh.scope import Scope
from dselect_dagster.refresh.staleness import Staleness, StalePartition

# Materializations read per asset: enough for a mean, few enough for one query.
RATE_MATERIALIZATIONS = 50


@dataclass(frozen=True)
class Found:
    """What a look at the sources, the storage and Dagster's records found.

    lost: what the plan says so of; stale: before anything lands or runs.
    """

    changed_inputs: ChangedInputs
    lost: LostTables
    stale: list[StalePartition]


def plan_refresh(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    workspace: Workspace,
    *,
    select: dg.AssetSelection | None = None,
    recipe: str | None = None,
    namespace: Namespace = PLAIN,
    save_verified: bool = False,
) -> tuple[Found, Plan]:
    """What `refresh` would do with the same arguments. Runs nothing, and writes nothing but what is verified.

    save_verified: as of `find_changed_inputs`.

    Raises DselectError where the settings name something that cannot be read.
    """
    changed_inputs = find_changed_inputs(workspace, instance, namespace, save_verified=save_verified)
    back = changed_inputs.recipes_back
    recipes = [name for name, state in changed_inputs.states("coreset_spec").items() if state != "lost"]
    stale_partitions = Staleness(defs, instance, namespace).stale_partitions(
        changed_inputs.partitions_to_come, changed_inputs.partitions_to_go
    )
    indexed = last_record(instance, namespace.key("corpus_index"), None)
    plan = make_plan(
        workspace,
        landing=changed_inputs.states("raw_dataset"),
        recipes=[name for name in recipes if name not in back],
        back=back,
        sources=set(instance.get_dynamic_partitions(str(namespace.source.name))) | set(workspace.settings.sources),
        stale={(namespace.asset(stale.asset), stale.partition): stale.why for stale in stale_partitions},
        rates=lambda: read_rates(defs, instance, namespace),
        lost={**changed_inputs.lost, **find_lost_publications(workspace, instance, namespace)},
        landed_versions=changed_inputs.landed_versions,
        index_version=None if indexed is None else data_version_of(indexed.asset_materialization),
    )
    scope = Scope(defs, select, recipe, namespace)
    steps = [step for step in plan.steps if scope.includes(namespace.key(step.asset), step.partition)]
    lost = {key: why for key, why in plan.lost.items() if scope.includes(namespace.key(key[0]), key[1])}
    return Found(changed_inputs, lost, stale_partitions), replace(plan, steps=steps, lost=lost)


def read_rates(defs: dg.Definitions, instance: dg.DagsterInstance, namespace: Namespace) -> dict[str, Rate]:
    """Per asset what its last runs took: seconds per computed row and token, and of a run that computed nothing."""
    rates = {}
    for asset in defs.resolve_all_asset_keys():
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset), limit=RATE_MATERIALIZATIONS
        ).records
        figures = [
            {name: value.value for name, value in record.asset_materialization.metadata.items()}
            for record in records
            if record.asset_materialization is not None
        ]
        if figures:
            rates[namespace.asset(asset)] = Rate.of(figures)
    return rates
