"""Bring the graph up to date in the foreground: land what changed, then run what is stale, until nothing is.

It runs what the daemon would run, in this process and one run a partition. The daemon's automation conditions are
triggered by events, and a foreground command can lose an event: it was killed, a recipe was out of its scope, the
daemon was quicker. So the state decides and not the event: a partition runs when it is stale or missing by Dagster's
rule and its inputs are ready.
"""

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import dagster as dg

from dselect_core.coreset.manifest import NO_FAULTS, readable_manifest
from dselect_core.errors import UnreachableError, object_store_error
from dselect_core.lineage.quality_checks import held_back
from dselect_core.pool.corpus_index import read_excluded
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped
from dselect_core.storage.files import is_local
from dselect_dagster.dagster_private import (
    NO_CONSOLE_LOG,
    evaluate_conditions,
    fail_run,
    materializations_of,
    replace_specs,
    run_assets,
    run_checks,
    step_errors_of,
)
from dselect_dagster.defs.automation_condition import (
    ALLOW_MISSING_DEPS,
    ALLOW_MISSING_RECIPES,
    NOT_BLOCKED_BY_CORESET,
    inputs_are_ready,
)
from dselect_dagster.defs.changed_inputs import (
    ChangedInputs,
    all_lost,
    find_changed_inputs,
    register_partitions,
)
from dselect_dagster.defs.coreset_checks import due_checks
from dselect_dagster.defs.jobs import REFRESH as REFRESH_JOB
from dselect_dagster.defs.namespace import PLAIN, Namespace
from dselect_dagster.defs.run_errors import clean
from dselect_dagster.defs.run_tags import COMMAND, RECIPE, REFRESH, partition_tags
from dselect_dagster.refresh.asset_graph import AssetGraph, AssetPartition
from dselect_dagster.refresh.hand_over import AutomationSensor
from dselect_dagster.refresh.lost_partitions import LostPartitions
from dselect_dagster.refresh.plan_refresh import Found
from dselect_dagster.refresh.scope import Scope
from dselect_dagster.refresh.staleness import Staleness, StalePartition

_COMMAND_TAG = {COMMAND: "refresh"}
_PROCESS_TAG = "dselect/process"


@dataclass(frozen=True)
class FinishedRun:
    """One run: its assets, its partition (None: unpartitioned), and {step: message} of each step that failed."""

    assets: tuple[dg.AssetKey, ...]
    partition: str | None
    errors: dict[str, str]
    result: dg.ExecuteInProcessResult

    @property
    def materializations(self) -> list[dg.AssetMaterialization]:
        """What the run made, with its figures."""
        return materializations_of(self.result)


@dataclass
class RefreshResult:
    """What a refresh landed, ran, and could not make.

    still_lost: {asset partition: why} of what the storage lacked, and lacks after the refresh. left_out: {source: why}
    of the sources in the settings that the pool does not hold, or that a coreset lost since it was made last.
    held_back: {recipe: why} of the coresets of which something is required that does not hold. broken_off: why it ended
    before all was tried, where the storage did not answer any more. refresh_id: what its runs are tagged with.
    """

    changed_inputs: ChangedInputs
    runs: list[FinishedRun] = field(default_factory=list)
    still_stale: list[StalePartition] = field(default_factory=list)
    still_lost: dict[AssetPartition, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    held_back: dict[str, str] = field(default_factory=dict)
    broken_off: str | None = None
    refresh_id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def failed(self) -> list[FinishedRun]:
        """The runs with errors."""
        return [run for run in self.runs if run.errors]

    @property
    def failed_partitions(self) -> set[AssetPartition]:
        """The asset partitions of those runs."""
        return {(asset, run.partition) for run in self.failed for asset in run.assets}

    @property
    def is_whole(self) -> bool:
        """Whether all was tried, nothing failed, and nothing that was made is lost, left out or held back."""
        return not (self.failed or self.still_lost or self.left_out or self.held_back or self.broken_off)


def refresh(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    workspace: Workspace,
    *,
    select: dg.AssetSelection | None = None,
    recipe: str | None = None,
    namespace: Namespace = PLAIN,
    found: Found | None = None,
    on_run: Callable[[str], None] = lambda _: None,
) -> RefreshResult:
    """Bring the graph up to date.

    select: only these assets; recipe: only this recipe's coreset (what it rests on is made for all). namespace: the
    names that the definitions carry.
    found: by `plan_refresh`, a moment ago; None: it is looked for here.
    on_run: called with the name of each run as it starts.

    A run that fails raises nothing: its errors are in the result, and so is that the storage does not answer any more,
    which ends the refresh: each try would take as long as the file system is patient. Raises Stopped when somebody asks
    to stop (dselect_core/stop.py): what the run in hand finished is kept, and no other starts.
    """
    scope = Scope(defs, select, recipe, namespace)
    _fail_abandoned_runs(instance)
    if found is None:
        changed_inputs = find_changed_inputs(workspace, instance, namespace, save_verified=True)
    else:
        changed_inputs = found.changed_inputs
    register_partitions(changed_inputs, instance)
    result = RefreshResult(changed_inputs)
    with _broken_off_where_unreachable(result):
        _make_what_is_stale(defs, instance, workspace, scope, result, found, on_run)
    return result


@contextlib.contextmanager
def _broken_off_where_unreachable(result: RefreshResult) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        of_store = object_store_error(error)
        if not isinstance(of_store, UnreachableError):
            raise
        result.broken_off = clean(str(of_store))


def _make_what_is_stale(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    workspace: Workspace,
    scope: Scope,
    result: RefreshResult,
    found: Found | None,
    on_run: Callable[[str], None],
) -> None:
    """Land, and run what is stale or lost until nothing is; fills the result."""
    changed_inputs, namespace = result.changed_inputs, scope.namespace

    def run(keys: list[AssetPartition]) -> None:
        for done in _run(defs, instance, keys, result, on_run):
            if done.errors and not is_local(workspace.root):
                # One look at the storage, which raises where it does not answer.
                workspace.root.fs.invalidate_cache()
                workspace.root.exists()

    landing = [(namespace.key(change.asset), change.partition) for change in changed_inputs.changes]
    run([key for key in landing if scope.includes(*key)])

    graph, readiness = AssetGraph(defs), _with_readiness_conditions(defs, namespace)
    sensor = AutomationSensor(instance, namespace)
    lost = all_lost(changed_inputs, workspace, instance) if found is None else {**changed_inputs.lost, **found.lost}
    restoring = LostPartitions(workspace, instance, namespace, scope, graph, lost)
    known_stale = None if found is None or changed_inputs.moves_partitions else found.stale
    while True:
        staleness = Staleness(defs, instance, namespace)
        stale_partitions = staleness.stale_partitions() if known_stale is None else known_stale
        known_stale = None
        # Nothing runs again in one refresh after it failed: its message is already in the result.
        failed = result.failed_partitions
        due = {(stale.asset, stale.partition) for stale in stale_partitions} - failed
        with_ready_inputs: set[AssetPartition] = set()
        if due:
            with_ready_inputs, _ = evaluate_conditions(readiness, instance, assets={asset for asset, _ in due})
        runnable = graph.sorted(due & with_ready_inputs)
        # What reads a lost table waits for it, although its data version does not move.
        to_restore = restoring.restorable(failed)
        upcoming = list(dict.fromkeys([*to_restore, *runnable]))
        keys = [key for key in upcoming if scope.includes(*key) and not staleness.waits_for_any(key, upcoming)]
        run(keys)
        restoring.tried(keys)
        # Coresets that were made meanwhile name the files of now.
        origins, failed = {**changed_inputs.origins, **_origins_of(result, namespace)}, result.failed_partitions
        if not keys and not restoring.look_again(failed) and not restoring.look_at_origins(origins, failed):
            _evaluate_checks(defs, instance, workspace, namespace, result)
            result.still_lost, result.left_out = restoring.lost, _left_out(workspace, scope.recipe)
            result.held_back = held_back(workspace, [scope.recipe] if scope.recipe else None)
            result.still_stale = [stale for stale in stale_partitions if scope.includes(stale.asset, stale.partition)]
            if not stale_partitions:
                sensor.hand_over(defs)
            return


def _origins_of(result: RefreshResult, namespace: Namespace) -> dict[str, str]:
    """{source: version of where its samples stand} of the sources that the refresh landed."""
    raw_dataset = namespace.key("raw_dataset")
    landed = [m for run in result.runs for m in run.materializations if m.asset_key == raw_dataset]
    return {str(m.partition): str(m.metadata["origins"].value) for m in landed}


def _left_out(workspace: Workspace, recipe: str | None) -> dict[str, str]:
    """The sources of the settings that the index leaves out, or that a coreset (all, or one recipe's) misses."""
    left = read_excluded(workspace)
    for name in workspace.settings.coresets if recipe is None else [recipe]:
        left |= (readable_manifest(workspace, name) or {}).get("sources_left", {})
    known = workspace.settings.sources
    return {source: why for source, why in sorted(left.items()) if source in known and why not in NO_FAULTS}


def _evaluate_checks(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    workspace: Workspace,
    namespace: Namespace,
    result: RefreshResult,
) -> None:
    """Those that no run of this refresh evaluated, and that say something else by now."""
    checks: dict[str, list[dg.AssetCheckKey]] = defaultdict(list)
    for due in due_checks(workspace, instance, namespace):
        checks[due.recipe].append(due.check)
    for recipe, keys in checks.items():
        run_checks(defs, instance, keys, recipe, _tags(result) | {RECIPE: recipe})


def _fail_abandoned_runs(instance: dg.DagsterInstance) -> None:
    """Fail the runs of a refresh whose process is gone: as started, they would hold their partitions for ever."""
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]
    for record in instance.get_run_records(dg.RunsFilter(statuses=statuses, tags=_COMMAND_TAG)):
        run = record.dagster_run
        host, _, pid = run.tags.get(_PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            fail_run(instance, run, f"process {pid} of `dselect refresh` is gone")


def _tags(result: RefreshResult) -> dict[str, str]:
    """Of the runs of this process."""
    process = {_PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}
    return _COMMAND_TAG | process | {REFRESH: result.refresh_id}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's process, so alive
    return True


def _with_readiness_conditions(defs: dg.Definitions, namespace: Namespace) -> dg.Definitions:
    """The same graph with conditions without triggers: the inputs are there and passed their checks."""

    def set_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        asset = namespace.asset(spec.key)
        condition = inputs_are_ready(
            namespace,
            allow_missing_deps=asset in ALLOW_MISSING_DEPS,
            blocked_by_coreset=asset not in NOT_BLOCKED_BY_CORESET,
            allow_missing_recipes=asset in ALLOW_MISSING_RECIPES,
        )
        return spec.replace_attributes(automation_condition=condition if spec.automation_condition else None)

    return replace_specs(defs, set_condition)


def _run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: Iterable[AssetPartition],
    result: RefreshResult,
    on_run: Callable[[str], None],
) -> Iterator[FinishedRun]:
    """Run the keys, one run a partition: a run over several partitions records one data version for all of them.

    Each is added to the result, and yielded before the next one starts.
    """
    graph, namespace = AssetGraph(defs), result.changed_inputs.namespace
    assets_by_run: dict[tuple[dg.PartitionsDefinition | None, str | None], list[dg.AssetKey]] = defaultdict(list)
    for asset, partition in keys:
        assets_by_run[graph.partitions(asset), partition].append(asset)
    for (partitions, partition), assets in assets_by_run.items():
        raise_if_stopped()
        on_run(", ".join(asset.to_user_string() for asset in assets) + (f" [{partition}]" if partition else ""))
        run_result = run_assets(
            defs,
            instance,
            assets,
            partition,
            raise_on_error=False,
            run_config=NO_CONSOLE_LOG,
            tags=_tags(result) | partition_tags(namespace, partitions, partition),
            job=namespace.prefixed(REFRESH_JOB),
        )
        # Dagster counts a run that was stopped as one that failed, and would have the others go on.
        raise_if_stopped()
        result.runs.append(FinishedRun(tuple(assets), partition, step_errors_of(run_result), run_result))
        yield result.runs[-1]
