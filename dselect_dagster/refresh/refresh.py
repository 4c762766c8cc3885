"""Drain the graph in the foreground: land what changed, then run what the automation condition asks for, to quiet.

What runs, in this process and one run a partition, is what the daemon's condition would ask for. Its triggers
are edges, and a foreground command can lose one (it was killed, it was told to leave a recipe out, the daemon
was quicker), so what decides is the level behind them: partitions that Dagster calls stale or missing and whose
inputs are ready. Only where Dagster is blind to staleness is the condition itself evaluated, before each level.
"""

import contextlib
import functools
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import dagster as dg

from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.automation_condition import ALLOW_MISSING_DEPS, ready
from dselect_dagster.defs.changed_inputs import Scan, register, scan
from dselect_dagster.defs.partitions import RECIPE
from dselect_dagster.refresh.condition_cursor import Edges, requested
from dselect_dagster.refresh.staleness import Key, Stale, Staleness

_REFRESH = {"dselect/command": "refresh"}
_PROCESS = "dselect/process"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Ran:
    """One run: its assets, its partition (None: unpartitioned), and the error of each step that failed."""

    assets: tuple[dg.AssetKey, ...]
    partition: str | None
    errors: dict[str, str]
    result: dg.ExecuteInProcessResult


@dataclass
class Drained:
    scan: Scan
    runs: list[Ran] = field(default_factory=list)
    still_stale: list[Stale] = field(default_factory=list)

    @property
    def failed(self) -> list[Ran]:
        return [run for run in self.runs if run.errors]


def drain(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    workspace: Workspace,
    *,
    select: dg.AssetSelection | None = None,
    recipe: str | None = None,
    lost: Iterable[tuple[str, str]] = (),
    on_run: Callable[[str], None] = lambda _: None,
) -> Drained:
    """Bring the graph up to date.

    select: only these assets; recipe: only this recipe's coreset (what it rests on is made for all).
    lost: asset and partition of scores that are gone from the store, which no data version tells (plan.py finds them).
    on_run: told of each run as it starts.
    """
    graph = defs.resolve_asset_graph()
    chosen = graph.get_all_asset_keys() if select is None else select.resolve(graph)
    _close_dead_runs(instance)
    found = scan(workspace, instance)
    register(found, instance)
    done = Drained(found)

    def wanted(asset: dg.AssetKey, partition: str | None) -> bool:
        of_recipe = graph.get(asset).partitions_def == RECIPE
        return asset in chosen and (recipe is None or not of_recipe or partition == recipe)

    landing = [(dg.AssetKey(c.asset), c.partition) for c in found.changes if wanted(dg.AssetKey(c.asset), c.partition)]
    _run(defs, instance, landing, done, on_run)

    levels, edges = _levels(defs), Edges(defs, instance)
    to_restore = {(dg.AssetKey(asset), partition) for asset, partition in lost}
    while True:
        with _partitions_read_once(instance):
            staleness = Staleness(defs, instance)
            blind = {key for key in graph.get_all_asset_keys() if staleness.is_blind_to(key)}
            stale = staleness.all()
            failed = {(asset, run.partition) for run in done.failed for asset in run.assets}
            # Nothing runs again in one refresh after it failed: its message has been given.
            due = {(s.asset, s.partition) for s in stale} - failed
            level = dg.evaluate_automation_conditions(defs=levels, instance=instance) if due else None
            able = [key for key in requested(levels, level) if key in due] if level else []
            asked = [key for key in edges.look() if key[0] in blind and key not in failed] if blind else []
            # First what is to be restored: no staleness tells that what reads it waits for it.
            keys = [key for key in (*sorted(to_restore), *asked, *able) if not staleness.waits(key, able)]
            keys = [key for key in dict.fromkeys(keys) if wanted(*key)]
            to_restore -= set(keys)
            if not keys and not blind:
                # All edges so far are dealt with: the day that a hundredth source blinds Dagster, only new ones count.
                edges.look()
        _run(defs, instance, keys, done, on_run)
        edges.keep(owed=[key for key in asked if key not in keys])
        if not keys:
            done.still_stale = [s for s in stale if wanted(s.asset, s.partition)]
            return done


def _close_dead_runs(instance: dg.DagsterInstance) -> None:
    """Fail the runs of a refresh whose process is gone: as started, they would hold their partitions for ever."""
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED], tags=_REFRESH)
    for run in instance.get_runs(unfinished):
        host, _, pid = run.tags.get(_PROCESS, "").rpartition(":")
        if host == socket.gethostname() and not _alive(int(pid)):
            instance.report_run_failed(run, f"process {pid} of `dselect refresh` is gone")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, so alive
    return True


@contextlib.contextmanager
def _partitions_read_once(instance: dg.DagsterInstance) -> Iterator[None]:
    """An evaluation asks the database for the partitions over a thousand times; inside one they do not change."""
    instance.get_dynamic_partitions = functools.cache(instance.get_dynamic_partitions)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del instance.get_dynamic_partitions


def _levels(defs: dg.Definitions) -> dg.Definitions:
    """The same graph with the level behind each condition's edges: inputs are there and passed their checks."""

    def level(spec: dg.AssetSpec) -> dg.AssetSpec:
        condition = ready(allow_missing_deps=spec.key in ALLOW_MISSING_DEPS)
        return spec.replace_attributes(automation_condition=condition if spec.automation_condition else None)

    return defs.permissive_map_resolved_asset_specs(func=level, selection=None)


def _run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: Iterable[Key],
    done: Drained,
    on_run: Callable[[str], None],
) -> None:
    """Run the keys, one run a partition: a run over several partitions records one data version for all of them."""
    graph = defs.resolve_asset_graph()
    groups: dict[tuple[str | None, str | None], list[dg.AssetKey]] = defaultdict(list)
    for asset, partition in keys:
        definition = graph.get(asset).partitions_def
        name = definition.name if isinstance(definition, dg.DynamicPartitionsDefinition) else None
        groups[name, partition].append(asset)
    job = defs.resolve_implicit_global_asset_job_def()
    for (_, partition), assets in groups.items():
        on_run(", ".join(a.to_user_string() for a in assets) + (f" [{partition}]" if partition else ""))
        result = job.execute_in_process(
            instance=instance,
            partition_key=partition,
            asset_selection=assets,
            raise_on_error=False,
            run_config=_QUIET,
            tags=_REFRESH | {_PROCESS: f"{socket.gethostname()}:{os.getpid()}"},
        )
        done.runs.append(Ran(tuple(assets), partition, _errors(result), result))


def _errors(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Message of each failed step: of its root cause, or what the blocking check found."""
    found = {c.check_name: c.description or "" for c in result.get_asset_check_evaluations() if not c.passed}
    errors = {}
    for event in result.filter_events(lambda e: e.is_step_failure):
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        step = event.step_key or ""
        told = [f"{name}: {description}" for name, description in found.items() if step.endswith(name)]
        errors[step] = "; ".join(told) or (error.message.strip() if error is not None else "failed")
    return errors
