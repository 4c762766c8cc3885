"""Under which names one corpus is in the graph: its asset keys, sets of partitions, sensors, schedules and jobs.

Without a name they are the plain ones, as the code location `dselect_dagster.definitions` and the commands have them.
With one, each carries it in front, so that several corpora, and a team's own assets, share an instance: what one has
never lands, tombstones or requests what another has.
"""

from dataclasses import dataclass
from functools import cached_property

import dagster as dg

from dselect_core.rounds.round_record import asset_of_round
from dselect_core.select.recipe import MAX_ROUNDS
from dselect_core.settings.settings import Settings


@dataclass(frozen=True)
class Namespace:
    """The names of one corpus. name: letters, digits and `_`; empty for the plain names."""

    name: str = ""

    def key(self, asset: str) -> dg.AssetKey:
        """The key of an asset of ours."""
        return dg.AssetKey([self.name, asset] if self.name else [asset])

    def keys(self, *assets: str) -> list[dg.AssetKey]:
        """The keys of several, in order."""
        return [self.key(asset) for asset in assets]

    def asset(self, key: dg.AssetKey) -> str:
        """The plain name behind a key. Of an asset that is not ours, the whole key after a slash: no plain name."""
        return key.path[-1] if key == self.key(key.path[-1]) else f"/{key.to_user_string()}"

    def prefixed(self, name: str) -> str:
        """A name for a sensor, schedule, job, op or group, of which Dagster takes no slash."""
        return f"{self.name}_{name}" if self.name else name

    def stored(self, name: str) -> str:
        """A name for a set of partitions, and for what is kept in the instance's storage."""
        return f"{self.name}/{name}" if self.name else name

    @cached_property
    def source(self) -> dg.DynamicPartitionsDefinition:
        """Sources, as their owners think of them."""
        return self._set("source")

    @cached_property
    def recipe(self) -> dg.DynamicPartitionsDefinition:
        """Recipes: named coresets."""
        return self._set("recipe")

    @cached_property
    def trial(self) -> dg.DynamicPartitionsDefinition:
        """The recipes that are tried: of the others no trial is missing."""
        return self._set("trial")

    @cached_property
    def publication(self) -> dg.DynamicPartitionsDefinition:
        """The recipes that are published."""
        return self._set("publication")

    @cached_property
    def rounds(self) -> tuple[dg.DynamicPartitionsDefinition, ...]:
        """The recipes that have a first round, a second, and so on."""
        return tuple(self._set(asset_of_round(n + 1)) for n in range(MAX_ROUNDS))

    @cached_property
    def of_recipes(self) -> tuple[dg.DynamicPartitionsDefinition, ...]:
        """The sets whose keys are names of recipes: a partition of one reads those of the same key in the other."""
        return (self.recipe, self.trial, self.publication, *self.rounds)

    def recipes_of(self, settings: Settings) -> dict[dg.DynamicPartitionsDefinition, set[str]]:
        """{set of partitions: the recipes that have one there}, of the sets that not every recipe is in."""
        specs, publish = settings.coresets, settings.publish
        recipes = {
            self.trial: {name for name, spec in specs.items() if spec.trial},
            self.publication: set() if publish is None else set(publish.recipes_of(specs)),
        }
        for number, definition in enumerate(self.rounds, start=1):
            recipes[definition] = {
                name for name, spec in specs.items() if spec.has_rounds and number <= spec.round_count
            }
        return recipes

    def may_read(
        self,
        own: dg.PartitionsDefinition | None,
        key: str | None,
        upstream: dg.PartitionsDefinition | None,
        upstream_key: str | None,
    ) -> bool:
        """Whether a partition may read one of an asset upstream: of the same keys, only that of its own key."""
        same_keys = own == upstream or (own in self.of_recipes and upstream in self.of_recipes)
        return not same_keys or key == upstream_key

    def _set(self, name: str) -> dg.DynamicPartitionsDefinition:
        return dg.DynamicPartitionsDefinition(name=self.stored(name))


PLAIN = Namespace()
"""The names without a prefix."""
