"""The real graph on a folder: files in, `refresh` as `dselect refresh` calls it, and what ran."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from upath import UPath

from dselect_core.lineage.plan import Plan
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.pool_tables import pool_scores
from dselect_core.settings.settings import Settings, load_settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.refresh.instance import open_instance
from dselect_dagster.refresh.plan_refresh import plan_refresh
from dselect_dagster.refresh.refresh import RefreshResult
from dselect_dagster.refresh.refresh import refresh as refresh_graph

# A model too small to be any good, made in a second: what is tested is the graph.
TINY = {"steps": 3, "samples": 40, "hidden_size": 32, "layers": 2, "heads": 2, "vocab_size": 400, "window": 256}
SCORES = {"embeddings", "difficulty_scores", "activations", "dependability_grades"}
CORPUS_WIDE = {("corpus_index", None), ("neighbors", None), ("miwv_values", None)}


def alpaca(words: list[str], offset: int = 0) -> list[dict[str, str]]:
    return [
        {"instruction": f"Say {w} {i + offset} times", "input": "", "output": f"{w} " * (i % 5 + 1) + f"is {i}."}
        for i, w in enumerate(words)
    ]


class Graph:
    """One project folder: dselect.yaml, data, storage and Dagster home, or an instance given instead of that home."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance | None = None):
        self.folder = folder
        self.config = folder / "dselect.yaml"
        self._given = instance

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        if self._given is not None:
            yield self._given
            return
        os.environ.pop("DAGSTER_HOME", None)
        with open_instance(self.config) as instance:
            yield instance

    def put_back(self, kept: Path) -> "Graph":
        """The folder as a copy of it was kept: in its place, for a source in another folder is one that changed."""
        shutil.rmtree(self.folder)
        shutil.copytree(kept, self.folder, symlinks=True)
        return self

    def settings(self, **top: Any) -> None:
        """Write dselect.yaml; a key given here replaces what was there."""
        held = yaml.safe_load(self.config.read_text()) if self.config.exists() else {"warmup": TINY}
        self.config.write_text(yaml.safe_dump(held | top))

    def source(self, name: str, rows: list[dict[str, Any]]) -> None:
        path = self.folder / "data" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text(json.dumps(rows))
        # A file is seen to change by size or time, and a test is faster than a clock's tick.
        os.utime(path, ns=(before + 10**9, max(before + 10**9, path.stat().st_mtime_ns)))

    def sources(self, names: str) -> None:
        """The settings name these sources, a letter each, and no other."""
        self.settings(sources={name: {"path": f"data/{name}.json"} for name in names})

    def refresh(self, **options: Any) -> RefreshResult:
        settings = load_settings(self.config)
        with self.instance() as instance:
            defs = build_definitions(settings, str(self.config))
            return refresh_graph(defs, instance, Workspace(settings), **options)

    def refresh_killed(self, at: str) -> None:
        """A refresh whose process ends as a run that names this asset starts."""

        class Killed(BaseException):
            pass

        def killed(run: str) -> None:
            if at in run:
                raise Killed

        with pytest.raises(Killed):
            self.refresh(on_run=killed)

    @property
    def workspace(self) -> Workspace:
        return Workspace(load_settings(self.config))

    def plan(self) -> Plan:
        settings = load_settings(self.config)
        with self.instance() as instance:
            return plan_refresh(build_definitions(settings, str(self.config)), instance, Workspace(settings))[1]

    def pool(self) -> pl.DataFrame:
        return read_index(self.workspace).frame

    def scores(self, kind: str) -> pl.DataFrame:
        """The scores of a kind over the pool as it stands in the index."""
        return pool_scores(self.workspace, read_index(self.workspace), kind)

    def order(self, recipe: str) -> pl.DataFrame:
        return pl.read_parquet(str(self._coreset(recipe) / "order.parquet"))

    def manifest(self, recipe: str) -> dict[str, Any]:
        return json.loads((self._coreset(recipe) / "manifest.json").read_text())

    def _coreset(self, recipe: str) -> UPath:
        """Its folder, by the file alone: the settings may name a kind of a package that this process has not."""
        storage = yaml.safe_load(self.config.read_text()).get("storage", ".dselect")
        root = UPath(storage) if "://" in storage else UPath(self.folder / storage)
        return root / "coresets" / recipe


def settings_of(graph: Graph) -> Settings:
    return load_settings(graph.config)


def made(done: RefreshResult) -> set[tuple[str, str | None]]:
    """The asset partitions that were materialised, and that no run failed."""
    assert not done.failed, [run.errors for run in done.failed]
    return set(materialised(done))


def materialised(done: RefreshResult) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Asset partition → the figures it reported. Fails the test when one was made twice."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for run in done.runs:
        for event in run.result.get_asset_materialization_events():
            m = event.step_materialization_data.materialization
            key = (m.asset_key.to_user_string(), m.partition)
            assert key not in found, f"{key} was made twice in one refresh"
            found[key] = {name: value.value for name, value in m.metadata.items()}
    return found


def assert_as_planned(plan: Plan, done: RefreshResult) -> int:
    """What the plan said against what ran: the same partitions, and the same rows wherever the plan does not mark ≈.

    Returns how many figures were compared.
    """
    figures = materialised(done)
    assert {(step.asset, step.partition) for step in plan.steps} == set(figures)
    compared = 0
    for step in plan.steps:
        shown = figures[step.asset, step.partition]
        if step.exact and step.computed is not None and "rows computed" in shown:
            assert step.computed == shown["rows computed"], step
            assert step.reused == shown["rows reused"], step
            compared += 1
    return compared


def errors(done: RefreshResult) -> str:
    return "\n".join(message for run in done.failed for message in run.errors.values())
