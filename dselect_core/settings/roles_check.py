"""What recipes ask of the sources beside their pool: rows to measure on, and examples to be near to."""

from collections.abc import Collection, Mapping

from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.strategies import strategy


def check_roles(coresets: Mapping[str, CoresetSpec], roles: Collection[str]) -> None:
    """roles: of all sources. Raises ValueError naming the recipe, and the role that a source must be given."""
    for name, spec in coresets.items():
        if spec.trial and "eval" not in roles:
            raise ValueError(
                f"coresets.{name}.trial: a trial measures on held-out rows, and no source has any. Add a source "
                "with `role: eval` under `sources`"
            )
        if strategy(spec.strategy).target_kind is not None and "target" not in roles:
            raise ValueError(
                f"coresets.{name}.strategy: `{spec.strategy}` chooses by similarity to target examples, and no source "
                "has any. Add a source with `role: target` under `sources`"
            )
