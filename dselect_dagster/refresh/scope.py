"""What a command is about: a selection of assets, and the partitions of one recipe or of all."""

import dagster as dg

from dselect_dagster.dagster_private import select_assets
from dselect_dagster.defs.namespace import Namespace
from dselect_dagster.refresh.asset_graph import AssetGraph


class Scope:
    """Which asset partitions a refresh may make.

    select: only these assets; recipe: only this recipe's coreset and trial, and all of what they rest on. None: all.
    """

    def __init__(
        self, defs: dg.Definitions, select: dg.AssetSelection | None, recipe: str | None, namespace: Namespace
    ):
        self._graph = AssetGraph(defs)
        self.namespace, self.recipe = namespace, recipe
        self._assets = set(self._graph) if select is None else select_assets(defs, select)

    def includes(self, asset: dg.AssetKey, partition: str | None) -> bool:
        """Whether the command may make this partition."""
        if asset not in self._assets:
            return False
        of_recipes = self.namespace.of_recipes
        return self.recipe is None or self._graph.partitions(asset) not in of_recipes or partition == self.recipe
