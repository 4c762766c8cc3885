"""The plan of a refresh: what Dagster knows (what was seen, is stale, how long it took) put to dselect_core.planner.

Rates come from the figures that past materialisations recorded, so they are of this machine and this data.
"""

from dataclasses import replace

import dagster as dg

from dselect_core.lineage.make_plan import make_plan
from dselect_core.lineage.plan import Plan, Rate
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.changed_inputs import Scan, scan
from dselect_dagster.defs.partitions import RECIPE, SOURCE
from dselect_dagster.refresh.staleness import Staleness

# Materialisations looked at per asset: enough for a mean, few enough to be read at once.
PAST = 50


def plan_refresh(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    workspace: Workspace,
    *,
    select: dg.AssetSelection | None = None,
    recipe: str | None = None,
) -> tuple[Scan, Plan]:
    """What `drain` would do with the same arguments. Runs nothing and writes nothing."""
    found = scan(workspace, instance)
    stale = {(s.asset.to_user_string(), s.partition): s.why for s in Staleness(defs, instance).all()}
    plan = make_plan(
        workspace,
        landing={c.partition: c.state for c in found.changes if c.asset == "raw_dataset"},
        recipes=[c.partition for c in found.changes if c.asset == "coreset_spec"],
        sources=set(instance.get_dynamic_partitions(str(SOURCE.name))) | set(workspace.settings.sources),
        stale=stale,
        rates=rates(defs, instance),
    )
    graph = defs.resolve_asset_graph()
    chosen = {key.to_user_string() for key in (graph.get_all_asset_keys() if select is None else select.resolve(graph))}
    by_recipe = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).partitions_def == RECIPE}
    steps = [
        step
        for step in plan.steps
        if step.asset in chosen and (recipe is None or step.asset not in by_recipe or step.partition == recipe)
    ]
    return found, replace(plan, steps=steps)


def rates(defs: dg.Definitions, instance: dg.DagsterInstance) -> dict[str, Rate]:
    """Per asset what its last runs took: seconds per computed row and token, and of a run that computed nothing."""
    found = {}
    for key in defs.resolve_asset_graph().get_all_asset_keys():
        records = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=key), limit=PAST).records
        figures = [
            {name: value.value for name, value in record.asset_materialization.metadata.items()}
            for record in records
            if record.asset_materialization is not None
        ]
        if figures:
            found[key.to_user_string()] = Rate.of(figures)
    return found
