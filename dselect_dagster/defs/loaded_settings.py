"""Settings that were edited after the definitions were loaded: what Dagster does not see of them until it reloads.

Runs and the landing sensor read the settings anew each time: budgets, recipes and sources are followed at once. What
decides whether an asset is made again for its settings alone, its code version, belongs to the definitions that a
running code location holds, and nothing of ours can reload it. So the landing sensor says which assets wait for that.
"""

from collections.abc import Iterable, Mapping

import dagster as dg

Shape = Mapping[str, tuple[object, ...]]
"""{asset or check: what of it a running deployment does not follow}: code version, inputs, partitions, whether it is
requested."""


def shape(assets: Iterable[dg.AssetsDefinition], checks: Iterable[dg.AssetChecksDefinition]) -> Shape:
    """The shape of a graph."""
    of_assets = {
        spec.key.to_user_string(): (
            spec.code_version,
            frozenset(dep.asset_key for dep in spec.deps),
            spec.partitions_def,
            spec.automation_condition is not None,
        )
        for made in assets
        for spec in made.specs
    }
    keys = (key for each in checks for key in each.check_keys)
    return of_assets | {f"the check {key.name} of {key.asset_key.to_user_string()}": () for key in keys}


def wait_for_reload(loaded: Shape, now: Shape) -> str | None:
    """The sentence for the UI; None where the definitions are those of the settings as they are now."""
    moved = sorted(name for name in loaded.keys() | now.keys() if loaded.get(name) != now.get(name))
    if not moved:
        return None
    return (
        f"The settings, or what they name, were edited: {', '.join(moved)} would be made otherwise. That waits until "
        "the definitions are reloaded: Deployment → Code locations → Reload. `dselect refresh` needs no reload."
    )
