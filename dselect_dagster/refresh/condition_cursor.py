"""What the automation conditions requested since the last refresh, and the cursor that remembers how far that is.

A condition's triggers are events, so each is requested once. The cursor is saved after the requested runs have ended:
a process that is killed in between leaves its requests to the next. A request that a refresh does not run (it is out
of its scope, or waits for something upstream) is postponed: it is saved beside the cursor.
"""

import json
from collections.abc import Iterable

import dagster as dg

from dselect_dagster.dagster_private import evaluate_conditions, read_cursors, write_cursors
from dselect_dagster.defs.namespace import Namespace
from dselect_dagster.refresh.asset_graph import AssetGraph, AssetPartition


class ConditionCursor:
    """The cursor that an instance holds for the refreshes of these definitions."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance, namespace: Namespace):
        # Names in the instance's storage: they stay as they are.
        self._cursor = f"dselect/{namespace.stored('refresh')}"
        self._postponed = f"{self._cursor}/owed"
        self._defs = defs
        self._instance = instance
        self._new_cursor: str | None = None

    def read_requests(self) -> list[AssetPartition]:
        """The postponed requests, then what the conditions request since the saved cursor, upstream first."""
        saved = read_cursors(self._instance, {self._cursor, self._postponed})
        requested, self._new_cursor = evaluate_conditions(self._defs, self._instance, saved.get(self._cursor))
        postponed = [
            (dg.AssetKey.from_user_string(asset), partition)
            for asset, partition in json.loads(saved.get(self._postponed, "[]"))
        ]
        return list(dict.fromkeys([*postponed, *AssetGraph(self._defs).sorted(requested)]))

    def save(self, postponed: Iterable[AssetPartition]) -> None:
        """Remember that the requests read last were run, except the `postponed` ones. Nothing where none were read."""
        if self._new_cursor is not None:
            text = json.dumps([(asset.to_user_string(), partition) for asset, partition in postponed])
            write_cursors(self._instance, {self._cursor: self._new_cursor, self._postponed: text})
