"""The daemon on a graph, tick by tick: what its sensors ask for is run in this process, one run a request."""

from collections import Counter
from collections.abc import Iterable

import dagster as dg

from dselect_core.settings.settings import load_settings
from dselect_dagster.dagster_private import materializations_of, run_assets, runs_of_conditions
from dselect_dagster.defs.graph import build_definitions
from tests.dagster.dagster_private import SensorState
from tests.e2e.graph import Graph

Keys = Counter[tuple[str, str | None]]


class Daemon:
    """Both sensors of a graph. How far its conditions were evaluated is kept where the daemon keeps it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._state = SensorState()

    @property
    def cursor(self) -> str | None:
        """How far the conditions were evaluated; None: never."""
        with self.graph.instance() as instance:
            return self._state.read(instance)

    def run_until_quiet(self) -> Keys:
        """Tick until nothing is asked for; how often each partition was made."""
        made: Keys = Counter()
        for _ in range(20):
            of_tick = self.tick()
            if not of_tick:
                return made
            made += of_tick
        raise AssertionError(f"never quiet: {made}")

    def tick(self) -> Keys:
        """One evaluation of each sensor, and the runs that they ask for; what was made."""
        defs = build_definitions(load_settings(self.graph.config), str(self.graph.config))
        with self.graph.instance() as instance:
            landing = defs.resolve_sensor_def("sources_and_recipes")(dg.build_sensor_context(instance=instance))
            assert isinstance(landing, dg.SensorResult)
            for request in landing.dynamic_partitions_requests or []:
                assert isinstance(request, dg.AddDynamicPartitionsRequest)
                instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
            made = self._run(defs, instance, landing.run_requests or [])
            runs, cursor = runs_of_conditions(defs, instance, self._state.read(instance))
            self._state.write(instance, cursor)
            return made + self._run(defs, instance, runs)

    def _run(self, defs: dg.Definitions, instance: dg.DagsterInstance, runs: Iterable[dg.RunRequest]) -> Keys:
        made: Keys = Counter()
        for run in runs:
            assets = list(run.asset_selection or [])
            done = run_assets(defs, instance, assets, run.partition_key, tags=run.tags, raise_on_error=False)
            made.update((m.asset_key.to_user_string(), run.partition_key) for m in materializations_of(done))
        return made
