"""A run that has never seen anything before: the functions of dselect_core in their order, without Dagster.

A second opinion on what the graph made step by step, and a fast one. One is made for each state of data and settings.
"""

import json
import shutil
from pathlib import Path

import polars as pl

from dselect_core.coreset.coreset import make_coreset, rounds_of
from dselect_core.coreset.spec import write_spec
from dselect_core.corpus.raw_dataset import land_source
from dselect_core.kinds import all_kinds
from dselect_core.lm.target_model import make_target_model
from dselect_core.neighbors.update_neighbors import update_neighbors
from dselect_core.pool.corpus_index import build_index, needed_kinds
from dselect_core.rounds.make_round import make_round
from dselect_core.scores.update import update_scores
from dselect_core.scores.update_pairs import update_pairs
from dselect_core.settings.workspace import Workspace
from tests.e2e.content import ids_in
from tests.e2e.graph import Graph


class FromScratch:
    """`of(graph)`: the same data (folder/data/<source>/) and settings, made anew in a folder under `place`."""

    def __init__(self, place: Path):
        self.place = place
        self.made: dict[str, Graph] = {}

    def of(self, graph: Graph) -> Graph:
        sources = sorted((graph.folder / "data").iterdir())
        key = json.dumps([graph.config.read_text(), *(sorted(ids_in(source)) for source in sources)])
        if key not in self.made:
            fresh = Graph(self.place / str(len(self.made)))
            shutil.copytree(graph.folder / "data", fresh.folder / "data")
            shutil.copy(graph.config, fresh.config)
            make_everything(fresh.workspace)
            self.made[key] = fresh
        return self.made[key]


def make_everything(workspace: Workspace) -> None:
    sources = sorted(workspace.settings.sources)
    for source in sources:
        land_source(workspace, source)
    make_target_model(workspace, pl.DataFrame)
    for source in sources:
        update_scores(workspace, source, frozenset(kind.name for kind in all_kinds().values() if kind.by_source))
    index = build_index(workspace, sources, needed_kinds(workspace.settings))
    update_neighbors(workspace, index)
    update_pairs(workspace, "miwv", index)
    for recipe in workspace.settings.coresets:
        if write_spec(workspace, recipe)[0].has_rounds:
            rounds = rounds_of(workspace, recipe)
            for number in range(rounds.spec.round_count):
                make_round(rounds, number + 1)
        make_coreset(workspace, recipe)
