"""The sets of partitions: sources as their owners think of them, recipes (named coresets), and those that are tried.

The tried recipes are a set of their own, or a recipe without `trial: true` would show as one whose trial is missing.
"""

import dagster as dg

SOURCE = dg.DynamicPartitionsDefinition(name="source")
RECIPE = dg.DynamicPartitionsDefinition(name="recipe")
TRIAL = dg.DynamicPartitionsDefinition(name="trial")
OF_RECIPES = (RECIPE, TRIAL)
"""The sets whose keys are names of recipes: a partition of one reads those of the same key in the other."""

_Partitions = dg.PartitionsDefinition | None


def may_read(own: _Partitions, key: str | None, upstream: _Partitions, upstream_key: str | None) -> bool:
    """Whether a partition may read one of an asset upstream: of the same keys, only that of its own key; else any."""
    same_keys = own == upstream or (own in OF_RECIPES and upstream in OF_RECIPES)
    return not same_keys or key == upstream_key
