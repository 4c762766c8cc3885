"""Tell the daemon's automation sensor what a refresh made, so that the daemon does not ask for it again.

The triggers of the conditions are events, and each is requested once. A refresh that leaves nothing to do puts the
sensor's cursor where the events have come to. Where it leaves something, the sensor stays: it may then ask for what is
made already, and loses nothing.
"""

import dagster as dg

from dselect_dagster.dagster_private import (
    evaluate_conditions,
    last_event_of,
    read_sensor_cursors,
    write_sensor_cursors,
)
from dselect_dagster.defs.namespace import Namespace

_EVALUATIONS = 20
"""More than a change needs to pass through the graph, where each evaluation finds made what the last one asked for."""


class AutomationSensor:
    """The daemon's automation sensors of these definitions, one a code location, as they stood when this was made."""

    def __init__(self, instance: dg.DagsterInstance, namespace: Namespace):
        self._instance = instance
        self._name = namespace.prefixed("automation")
        self._cursors = read_sensor_cursors(instance, self._name, namespace.key("coreset"))

    def hand_over(self, defs: dg.Definitions) -> None:
        """Nothing is left to do: what the conditions ask for is made, and the sensor need not ask for it.

        A sensor that a daemon has moved since keeps its own cursor.
        """
        cursor = max(self._cursors.values(), key=last_event_of, default=None)
        for _ in range(_EVALUATIONS if self._cursors else 0):
            requested, cursor = evaluate_conditions(defs, self._instance, cursor)
            if not requested:
                write_sensor_cursors(self._instance, self._name, self._cursors, cursor)
                return
