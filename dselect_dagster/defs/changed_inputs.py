"""What changed outside the graph: sources and recipes that are new, changed or gone, and tables that are lost.

The record of what the graph read and made last is Dagster's own: the last materialization of each partition. Sources
are compared by size and time or etag of their files, which costs no read of rows. Landing then compares content: rows
that were only written again move nothing. What Dagster calls made is held to what lies in the storage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import dagster as dg

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.coreset.spec import spec_version
from dselect_core.corpus.raw_dataset import TOMBSTONE, source_signature
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import kinds_by_asset
from dselect_core.lineage.lost_tables import AssetPartition, LostTables, lost_scores, lost_tables
from dselect_core.lineage.plan_publication import PUBLICATION
from dselect_core.publish.lost_versions import lost_publications
from dselect_core.rounds.round_record import asset_of_round
from dselect_core.select.recipe import MAX_ROUNDS
from dselect_core.settings.workspace import Workspace
from dselect_dagster.dagster_private_staleness import latest_materializations
from dselect_dagster.defs.namespace import PLAIN, Namespace
from dselect_dagster.defs.run_tags import CAUSE, RECIPE, SOURCE

State = Literal["new", "changed", "gone", "unreadable", "lost"]
"""`lost`: unchanged, but what was landed of it is gone from the storage. A recipe that comes back is `new`."""

# The assets that read what is outside the graph.
LANDED_ASSETS = ("raw_dataset", "coreset_spec")
_TAG_OF_LANDED = {"raw_dataset": SOURCE, "coreset_spec": RECIPE}
# All assets that hold scores of sources, and of the pool.
_SCORES, _PAIR_SCORES = "scores of sources", "scores of the pool"


@dataclass(frozen=True)
class ChangedInput:
    """One partition to land.

    signature: of the input as it is now, so that each state of it is landed once. landed_version: the data version that
    was landed last; None where none was.
    """

    asset: str
    partition: str
    state: State
    signature: str
    landed_version: str | None = None


@dataclass(frozen=True)
class ChangedInputs:
    """All partitions to land, and those to drop: of recipes that are no longer in dselect.yaml, and unknown sources.

    unknown_sources: that have a partition, never landed and are not in dselect.yaml: somebody only added them.
    lost: {(asset, partition): why} of all that Dagster calls made and the storage lacks, also what lands. origins:
    {source: version of the files and rows in which its samples stood when it landed last}. recipes_on, recipes_off:
    {set of partitions: recipes that have one there from now on, and that have none any more}, of trials and rounds.
    namespace: under which names all of this is in the graph.
    """

    changes: list[ChangedInput]
    gone_recipes: list[str]
    lost: LostTables
    origins: Mapping[str, str]
    recipes_on: Mapping[dg.DynamicPartitionsDefinition, list[str]]
    recipes_off: Mapping[dg.DynamicPartitionsDefinition, list[str]]
    namespace: Namespace
    unknown_sources: list[str]

    def states(self, asset: str) -> dict[str, State]:
        """{partition: state} of the changes that one asset lands."""
        return {change.partition: change.state for change in self.changes if change.asset == asset}

    @property
    def recipes_back(self) -> list[str]:
        """Recipes that were gone, and are back as they were."""
        of_recipes = [change for change in self.changes if change.asset == "coreset_spec" and change.state == "new"]
        return [change.partition for change in of_recipes if change.landed_version is not None]

    @property
    def partitions_to_come(self) -> dict[str, list[str]]:
        """{set of partitions: keys that it lacks, and that are made before anything runs}, but for new recipes."""
        return {str(self.namespace.recipe.name): self.recipes_back, **_by_name(self.recipes_on)}

    @property
    def partitions_to_go(self) -> dict[str, list[str]]:
        """{set of partitions: keys that it has, and that are dropped before anything runs}."""
        names = self.namespace
        own = {str(names.source.name): self.unknown_sources, str(names.recipe.name): self.gone_recipes}
        return own | _by_name(self.recipes_off)

    @property
    def moves_partitions(self) -> bool:
        """Whether something lands, or a set of partitions gains or loses keys."""
        return bool(self.changes) or any(self.partitions_to_come.values()) or any(self.partitions_to_go.values())

    @property
    def landed_versions(self) -> dict[str, str]:
        """{source: data version that was landed last} of the sources that are to land."""
        of_sources = [change for change in self.changes if change.asset == "raw_dataset"]
        return {change.partition: version for change in of_sources if (version := change.landed_version) is not None}


def _by_name(recipes: Mapping[dg.DynamicPartitionsDefinition, list[str]]) -> dict[str, list[str]]:
    return {str(definition.name): names for definition, names in recipes.items()}


def find_changed_inputs(
    workspace: Workspace, instance: dg.DagsterInstance, namespace: Namespace = PLAIN, *, save_verified: bool = False
) -> ChangedInputs:
    """Compare dselect.yaml, the files it names and the storage with what the graph read and made last. Reads no rows.

    save_verified: keep on record which files of the storage are good, so that they are not read again.

    A source that cannot be read is a change of state "unreadable": its run fails with the message, in the UI's sight.
    """
    sources = set(instance.get_dynamic_partitions(str(namespace.source.name))) | set(workspace.settings.sources)
    recipes = set(instance.get_dynamic_partitions(str(namespace.recipe.name)))
    not_stored = lost_tables(workspace, sources, workspace.settings.coresets, save=save_verified)
    lost = _of_made(instance, not_stored, namespace)
    of_sources = latest_materializations(instance, namespace.key("raw_dataset"))
    landed = {name: of_sources.get(name) for name in sorted(sources)}
    unknown = [name for name, record in landed.items() if record is None and name not in workspace.settings.sources]
    changes = [_changed_source(workspace, name, record, lost) for name, record in landed.items() if name not in unknown]
    of_recipes = latest_materializations(instance, namespace.key("coreset_spec"))
    recorded = {name: of_recipes.get(name) for name in workspace.settings.coresets}
    changes += [_changed_recipe(workspace, name, record, lost, recipes) for name, record in recorded.items()]
    gone = sorted(recipes - set(workspace.settings.coresets))
    of_landed = {name: record.asset_materialization for name, record in landed.items() if record is not None}
    origins = {
        name: str(landing.metadata["origins"].value)
        for name, landing in of_landed.items()
        if landing is not None and "origins" in landing.metadata
    }
    wanted = namespace.recipes_of(workspace.settings)
    present = {definition: set(instance.get_dynamic_partitions(str(definition.name))) for definition in wanted}
    return ChangedInputs(
        [change for change in changes if change is not None],
        gone,
        lost,
        origins,
        recipes_on={definition: sorted(names - present[definition]) for definition, names in wanted.items()},
        recipes_off={definition: sorted(present[definition] - names) for definition, names in wanted.items()},
        namespace=namespace,
        unknown_sources=unknown,
    )


def find_lost_scores(
    workspace: Workspace, instance: dg.DagsterInstance, namespace: Namespace = PLAIN
) -> dict[AssetPartition, str]:
    """The scores that Dagster calls made and the stores have no more. Reads the keys of the stores."""
    sources = set(instance.get_dynamic_partitions(str(namespace.source.name))) & set(workspace.settings.sources)
    return _of_made(instance, lost_scores(workspace, sources), namespace)


def find_lost_publications(
    workspace: Workspace, instance: dg.DagsterInstance, namespace: Namespace = PLAIN, *, of_hub: bool = True
) -> dict[AssetPartition, str]:
    """What Dagster calls published, and the place outside has no more. of_hub: ask the hub too. Lists that place."""
    lost = lost_publications(workspace, of_hub=of_hub)
    return _of_made(instance, {(PUBLICATION, recipe): why for recipe, why in lost.items()}, namespace)


def all_lost(
    changed_inputs: ChangedInputs, workspace: Workspace, instance: dg.DagsterInstance
) -> dict[AssetPartition, str]:
    """What is lost of tables, of rows of the stores, and where it was published: {(asset, partition): why}."""
    namespace = changed_inputs.namespace
    return {
        **changed_inputs.lost,
        **find_lost_scores(workspace, instance, namespace),
        **find_lost_publications(workspace, instance, namespace),
    }


def _of_made(instance: dg.DagsterInstance, lost: LostTables, namespace: Namespace) -> dict[AssetPartition, str]:
    """Of what is lost, what Dagster calls made. The rest it calls missing."""

    @cache
    def made_partitions(asset: str) -> set[str]:
        return instance.get_materialized_partitions(namespace.key(asset))

    @cache
    def is_made(asset: str) -> bool:
        return instance.get_latest_materialization_event(namespace.key(asset)) is not None

    return {
        (asset, partition): why
        for (asset, partition), why in lost.items()
        if (is_made(asset) if partition is None else partition in made_partitions(asset))
    }


def _changed_source(
    workspace: Workspace, name: str, record: dg.EventLogRecord | None, lost: LostTables
) -> ChangedInput | None:
    landed = None if record is None else record.asset_materialization
    landed_signature = None if landed is None else landed.metadata.get("signature")
    state: State = "new" if landed_signature is None else "changed"
    try:
        signature = source_signature(workspace, name)
    except DselectError as error:
        signature, state = f"unreadable {fingerprint(str(error))}", "unreadable"
    if signature == TOMBSTONE:
        state = "gone"
    version = data_version_of(landed)
    if landed_signature is None or signature != str(landed_signature.value):
        return ChangedInput("raw_dataset", name, state, signature, version)
    if ("raw_dataset", name) in lost and record is not None:
        # Each loss comes after another landing, so each is landed once.
        return ChangedInput("raw_dataset", name, "lost", f"{signature} lost after {record.storage_id}", version)
    return None


def _changed_recipe(
    workspace: Workspace, name: str, record: dg.EventLogRecord | None, lost: LostTables, partitions: set[str]
) -> ChangedInput | None:
    landed_version = None if record is None else data_version_of(record.asset_materialization)
    version = spec_version(workspace.settings.coresets[name])
    if record is None or landed_version != version:
        state: State = "new" if landed_version is None else "changed"
        return ChangedInput("coreset_spec", name, state, version, landed_version)
    again = f"{version} again after {record.storage_id}"
    if name not in partitions:
        return ChangedInput("coreset_spec", name, "new", again, landed_version)
    if ("coreset_spec", name) in lost:
        return ChangedInput("coreset_spec", name, "lost", again, landed_version)
    return None


def register_partitions(changed_inputs: ChangedInputs, instance: dg.DagsterInstance) -> None:
    """Make the partitions that the changes name; drop those of recipes that are gone or not tried. Their files stay."""
    for request in partition_requests(changed_inputs):
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition(request.partitions_def_name, key)


def partition_requests(
    changed_inputs: ChangedInputs,
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    """The same as requests, which a sensor returns."""
    namespace = changed_inputs.namespace
    new = {
        namespace.source: list(changed_inputs.states("raw_dataset")),
        namespace.recipe: list(changed_inputs.states("coreset_spec")),
        **changed_inputs.recipes_on,
    }
    old = {
        namespace.source: changed_inputs.unknown_sources,
        namespace.recipe: changed_inputs.gone_recipes,
        **changed_inputs.recipes_off,
    }
    return [
        *(definition.build_add_request(keys) for definition, keys in new.items() if keys),
        *(definition.build_delete_request(keys) for definition, keys in old.items() if keys),
    ]


def landing_runs(changed_inputs: ChangedInputs, assets: Iterable[str]) -> list[dg.RunRequest]:
    """One run for each change that these assets land. The run key makes Dagster start it once for each signature."""
    return [
        dg.RunRequest(
            run_key=f"{change.asset}:{change.partition}:{change.signature}",
            asset_selection=[changed_inputs.namespace.key(change.asset)],
            partition_key=change.partition,
            tags={CAUSE: change.state, _TAG_OF_LANDED[change.asset]: change.partition},
        )
        for change in changed_inputs.changes
        if change.asset in assets
    ]


def restoring_runs(
    changed_inputs: ChangedInputs, instance: dg.DagsterInstance, published: LostTables
) -> list[dg.RunRequest]:
    """One run for each lost partition that reads no other lost one, beside those that land; what reads them is next.

    published: what is lost where it was published (`find_lost_publications`). The run key makes Dagster start it once
    for each loss.
    """
    lost = [key for key in (*changed_inputs.lost, *published) if key[0] not in LANDED_ASSETS]
    lands = any(change.asset == "raw_dataset" for change in changed_inputs.changes)
    if lands or not lost:
        return []
    over_rows = ["warmup_model", _SCORES, "corpus_index", "neighbors", "near_duplicates", _PAIR_SCORES]
    namespace = changed_inputs.namespace
    rounds = [asset_of_round(number + 1) for number in range(MAX_ROUNDS)]
    order = [*LANDED_ASSETS, *over_rows, CANDIDATE_GRADES, *rounds, "coreset", "held_out", "trial", PUBLICATION]
    by_source, over_pool = kinds_by_asset(by_source=True), kinds_by_asset(by_source=False)

    def place(asset: str) -> int:
        return order.index(_SCORES if asset in by_source else _PAIR_SCORES if asset in over_pool else asset)

    first = min(place(asset) for asset, _ in lost)
    return [
        dg.RunRequest(
            run_key=f"{asset}:{partition}:lost after {_last_record_id(instance, namespace.key(asset), partition)}",
            asset_selection=[namespace.key(asset)],
            partition_key=partition,
            tags={CAUSE: "lost"},
        )
        for asset, partition in lost
        if place(asset) == first
    ]


def _last_record_id(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None) -> int | None:
    record = last_record(instance, asset, partition)
    return None if record is None else record.storage_id


def last_record(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None) -> dg.EventLogRecord | None:
    """The last materialization of an asset, or of one of its partitions; None where it was never made."""
    partitions = None if partition is None else [partition]
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=partitions), limit=1
    ).records
    return records[0] if records else None


def data_version_of(materialization: dg.AssetMaterialization | None) -> str | None:
    """The data version that a materialization recorded; None where there is none."""
    return None if materialization is None else (materialization.tags or {}).get("dagster/data_version")
