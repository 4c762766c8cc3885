"""What the automation condition asks for, seen from the foreground: edges since a cursor that is kept in the instance.

Whoever drains the graph looks, runs, and then keeps: a process that is killed in between leaves its edges to the next.
What was asked for and is not to be made now (another selection, an upstream to come) is kept beside the cursor.
"""

import json
from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._serdes import deserialize_value, serialize_value

from dselect_dagster.refresh.staleness import Key

_CURSOR, _OWED = "dselect/refresh", "dselect/refresh/owed"


class Edges:
    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance):
        self._defs = defs
        self._instance = instance
        self._seen: AssetDaemonCursor | None = None

    def look(self) -> list[Key]:
        """What is owed, then what the condition asks for since the cursor, upstream first."""
        held = self._instance.daemon_cursor_storage.get_cursor_values({_CURSOR, _OWED})
        cursor = deserialize_value(held[_CURSOR], AssetDaemonCursor) if _CURSOR in held else None
        result = dg.evaluate_automation_conditions(defs=self._defs, instance=self._instance, cursor=cursor)
        self._seen = result.cursor
        owed = [(dg.AssetKey.from_user_string(asset), at) for asset, at in json.loads(held.get(_OWED, "[]"))]
        return list(dict.fromkeys([*owed, *requested(self._defs, result)]))

    def keep(self, owed: Iterable[Key]) -> None:
        """The last look is dealt with, but for what is still `owed`. Nothing where there was no look."""
        if self._seen is not None:
            told = json.dumps([(asset.to_user_string(), partition) for asset, partition in owed])
            values = {_CURSOR: serialize_value(self._seen), _OWED: told}
            self._instance.daemon_cursor_storage.set_cursor_values(values)


def requested(defs: dg.Definitions, result: dg.EvaluateAutomationConditionsResult) -> list[Key]:
    """Upstream first, so that running them in order makes each once."""
    order = defs.resolve_asset_graph().toposorted_asset_keys
    return [
        (key, partition)
        for key in order
        for partition in sorted(result.get_requested_partitions(key), key=lambda p: p or "")
    ]
