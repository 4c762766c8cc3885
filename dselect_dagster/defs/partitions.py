"""The sets of partitions: sources as their owners think of them, recipes (named coresets), and those that are tried.

The tried recipes are a set of their own, or a recipe without `trial: true` would show as one whose trial is missing. So
are those that have a first round, a second, and so on.
"""

from collections.abc import Mapping

import dagster as dg

from dselect_core.rounds.round_record import asset_of_round
from dselect_core.select.recipe import MAX_ROUNDS, CoresetSpec

SOURCE = dg.DynamicPartitionsDefinition(name="source")
RECIPE = dg.DynamicPartitionsDefinition(name="recipe")
TRIAL = dg.DynamicPartitionsDefinition(name="trial")
ROUNDS = tuple(dg.DynamicPartitionsDefinition(name=asset_of_round(n + 1)) for n in range(MAX_ROUNDS))
OF_RECIPES = (RECIPE, TRIAL, *ROUNDS)
"""The sets whose keys are names of recipes: a partition of one reads those of the same key in the other."""


def recipes_of(
    specs: Mapping[str, CoresetSpec],
) -> dict[dg.DynamicPartitionsDefinition, set[str]]:
    """{set of partitions: the recipes that have one there}, of the sets that not every recipe is in."""
    recipes = {TRIAL: {name for name, spec in specs.items() if spec.trial}}
    for number, definition in enumerate(ROUNDS, start=1):
        recipes[definition] = {name for name, spec in specs.items() if spec.has_rounds and number <= spec.round_count}
    return recipes


_Partitions = dg.PartitionsDefinition | None


def may_read(own: _Partitions, key: str | None, upstream: _Partitions, upstream_key: str | None) -> bool:
    """Whether a partition may read one of an asset upstream: of the same keys, only that of its own key; else any."""
    same_keys = own == upstream or (own in OF_RECIPES and upstream in OF_RECIPES)
    return not same_keys or key == upstream_key
