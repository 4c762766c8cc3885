"""What the automation conditions requested since the last refresh, and the cursor that remembers how far that is.

A condition's triggers are events, so each is requested once. The cursor is saved after the requested runs have ended:
a process that is killed in between leaves its requests to the next. A request that a refresh does not run (it is out
of its scope, or waits for something upstream) is postponed: it is saved beside the cursor.

What the daemon handled, a refresh does not ask for again, and the other way round: a refresh begins at the cursor of
the daemon's sensor where that is further than its own, and one that leaves nothing to do puts the sensor where it has
come to itself. Where it leaves something, the sensor stays: it may then ask for what is made already, and loses
nothing.
"""

import json
from collections.abc import Iterable

import dagster as dg

from dselect_dagster.dagster_private import (
    evaluate_conditions,
    last_event_of,
    read_cursors,
    read_sensor_cursors,
    write_cursors,
    write_sensor_cursors,
)
from dselect_dagster.defs.namespace import Namespace
from dselect_dagster.refresh.asset_graph import AssetGraph, AssetPartition

_EVALUATIONS = 20
"""More than a change needs to pass through the graph, where each evaluation finds made what the last one asked for."""


class ConditionCursor:
    """The cursor that an instance holds for the refreshes of these definitions."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, namespace: Namespace):
        # Names in the instance's storage: they stay as they are.
        self._cursor = f"dselect/{namespace.stored('refresh')}"
        self._postponed = f"{self._cursor}/owed"
        self._defs = defs
        self._instance = instance
        self._new_cursor: str | None = None
        self._requested: set[AssetPartition] = set()
        self._sensor = namespace.prefixed("automation")
        self._of_sensors = read_sensor_cursors(instance, self._sensor, namespace.key("coreset"))

    def read_requests(self) -> list[AssetPartition]:
        """The postponed requests, then what the conditions request since the saved cursor, upstream first."""
        saved = read_cursors(self._instance, {self._cursor, self._postponed})
        known = [*([saved[self._cursor]] if self._cursor in saved else []), *self._of_sensors.values()]
        self._evaluate(max(known, key=last_event_of, default=None))
        postponed = [
            (dg.AssetKey.from_user_string(asset), partition)
            for asset, partition in json.loads(saved.get(self._postponed, "[]"))
        ]
        return list(dict.fromkeys([*postponed, *AssetGraph(self._defs).sorted(self._requested)]))

    def save(self, postponed: Iterable[AssetPartition]) -> None:
        """Remember that the requests read last were run, except the `postponed` ones. Nothing where none were read."""
        if self._new_cursor is not None:
            text = json.dumps([(asset.to_user_string(), partition) for asset, partition in postponed])
            write_cursors(self._instance, {self._cursor: self._new_cursor, self._postponed: text})

    def hand_over(self, not_compared: set[dg.AssetKey]) -> None:
        """Nothing is left to do: what the conditions ask for is made, and the daemon's sensor need not ask for it.

        not_compared: the assets of which nobody but the conditions knows whether they are to be made. Where one is
        asked for, the sensor is left alone.
        """
        for _ in range(_EVALUATIONS if self._of_sensors else 0):
            if self._new_cursor is None or any(asset in not_compared for asset, _ in self._requested):
                return
            if not self._requested:
                self.save(postponed=[])
                write_sensor_cursors(self._instance, self._sensor, self._of_sensors, self._new_cursor)
                return
            self._evaluate(self._new_cursor)

    def _evaluate(self, cursor: str | None) -> None:
        self._requested, self._new_cursor = evaluate_conditions(self._defs, self._instance, cursor)
