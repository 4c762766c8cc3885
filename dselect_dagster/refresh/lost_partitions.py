"""What a refresh restores: partitions that Dagster calls made, and whose files the storage lacks.

No data version shows a loss, so staleness does not. What is restored has the version that it had, and nothing follows
from it. Where it has another one (the builtin model, tuned on the pool of today), what follows is stale as ever.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.coreset.manifest import readable_manifest
from dselect_core.coreset.todo import ORIGINS_MOVED, origins_moved
from dselect_core.corpus.raw_dataset import ORIGINS
from dselect_core.errors import DselectError
from dselect_core.kinds import kinds_in
from dselect_core.lineage.lost_tables import LostTables
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata
from dselect_dagster.defs.automation_condition import ALLOW_MISSING_DEPS
from dselect_dagster.defs.changed_inputs import LANDED_ASSETS, all_lost, find_changed_inputs
from dselect_dagster.defs.namespace import Namespace
from dselect_dagster.refresh.asset_graph import AssetGraph, AssetPartition
from dselect_dagster.refresh.scope import Scope


class LostPartitions:
    """What is lost within a scope, during one refresh. found: what was lost when it began, also what has landed since.

    lost: {asset partition: why} of what is lost and was not restored yet, or in vain.
    """

    def __init__(
        self,
        workspace: Workspace,
        instance: dg.DagsterInstance,
        namespace: Namespace,
        scope: Scope,
        graph: AssetGraph,
        found: LostTables,
    ):
        self._workspace = workspace
        self._instance = instance
        self._namespace = namespace
        self._scope = scope
        self._graph = graph
        self._tried = {key for key in self._in_scope(found) if namespace.asset(key[0]) in LANDED_ASSETS}
        self._is_checked = not found
        self.lost = self._in_scope(found)

    def restorable(self, failed: set[AssetPartition]) -> list[AssetPartition]:
        """What is to be made again, upstream first, without what failed or reads something that did."""
        blocked = set(failed)
        restorable = []
        for key in self._graph.sorted(set(self.lost) - self._tried):
            if key in failed or (
                self._namespace.asset(key[0]) not in ALLOW_MISSING_DEPS and self._reads_any(key, blocked)
            ):
                blocked.add(key)
            else:
                restorable.append(key)
        return restorable

    def tried(self, keys: Iterable[AssetPartition]) -> None:
        """Note that these partitions were made, or failed. Attempts that failed in them are for the next refresh."""
        settings = self._workspace.settings
        retrying = {kind.asset for kind in kinds_in(settings).values() if kind.retry(settings)} | {CANDIDATE_GRADES}
        done = {key for key in keys if key in self.lost or self._namespace.asset(key[0]) in retrying}
        self._tried |= done
        self._is_checked = self._is_checked and not done

    def look_again(self, failed: set[AssetPartition]) -> bool:
        """After restoring, see what is lost now; whether there is more to restore that was not tried yet."""
        if self._is_checked:
            return False
        self._is_checked = True
        changed_inputs = find_changed_inputs(self._workspace, self._instance, self._namespace, save_verified=True)
        self.lost = self._in_scope(all_lost(changed_inputs, self._workspace, self._instance))
        return bool(self.restorable(failed))

    def look_at_origins(self, origins: Mapping[str, str], failed: set[AssetPartition]) -> bool:
        """Add the coresets of these very samples that name files and rows in which they do not stand any more.

        They are written again. origins: by source, as it landed last on this instance; the tables decide, for others
        may have landed since. Returns whether there is more to restore.
        """
        made = self._instance.get_materialized_partitions(self._namespace.key("coreset")) if origins else set()
        found: dict[tuple[str, str | None], str] = {}
        for recipe in made & set(self._workspace.settings.coresets):
            manifest = readable_manifest(self._workspace, recipe)
            if manifest is not None and origins_moved(manifest, origins) and self._names_other_files(manifest):
                found["coreset", recipe] = ORIGINS_MOVED
        self.lost |= self._in_scope(found)
        return bool(self.restorable(failed))

    def _in_scope(self, lost: LostTables) -> dict[AssetPartition, str]:
        keyed = {(self._namespace.key(asset), partition): why for (asset, partition), why in lost.items()}
        return {key: why for key, why in keyed.items() if self._scope.includes(*key)}

    def _reads_any(self, key: AssetPartition, others: set[AssetPartition]) -> bool:
        asset, partition = key
        parents, own_partitions = self._graph.parents(asset), self._graph.partitions(asset)
        return any(
            other in parents
            and self._namespace.may_read(own_partitions, partition, self._graph.partitions(other), other_partition)
            for other, other_partition in others
        )

    def _names_other_files(self, manifest: Mapping[str, Any]) -> bool:
        try:
            stored = {source: read_metadata(self._workspace.samples(source)) for source in manifest["sources"]}
        except (FileNotFoundError, DselectError):
            return False
        same_samples = all(stored[name].get("version") == of["samples"] for name, of in manifest["sources"].items())
        return same_samples and origins_moved(manifest, {name: of.get(ORIGINS) for name, of in stored.items()})
