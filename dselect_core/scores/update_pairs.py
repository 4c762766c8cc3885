"""Scores of samples with their shots, over the pool: what is missing (`pair_todo`), and its computation.

A value is computed once for a sample and its shot, and found again when the shot returns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from dselect_core.compute.engine import compute
from dselect_core.compute.shards import Shard
from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import FromPairs, FromScores, Kind, kind_of
from dselect_core.pool.corpus_index import Index
from dselect_core.pool.pool_tables import pool_samples, pool_scores
from dselect_core.progress import Progress
from dselect_core.scores.provenance import store_of
from dselect_core.scores.score_table import TableReport, version_of
from dselect_core.scores.score_work import ModelWork
from dselect_core.scores.update import require_complete, with_reused
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_parquet, write_parquet
from dselect_core.storage.score_store import COMPACT_MIN_PARTS, Store


@dataclass(frozen=True)
class PairTodo:
    """What is to be computed of one kind. pairs: sample_id, shot_id and more, of the pool; missing_pairs: of those."""

    kind: Kind
    pairs: pl.DataFrame
    missing_pairs: pl.DataFrame


def pair_todo(kind: Kind, pairs: pl.DataFrame, store: Store | None) -> PairTodo:
    """The pairs that the store lacks. store: None where the provenance is not known yet, so that all are missing."""
    keys = pairs.select(kind.keys)
    return PairTodo(kind, pairs, keys if store is None else store.missing(keys))


def update_pairs(workspace: Workspace, name: str, index: Index, progress: Progress | None = None) -> TableReport:
    """Compute the missing values of a kind over the pool, and write the pool's table of it.

    Raises DselectError when there is no model yet, or when scores that it starts from are missing.
    """
    kind, store = kind_of(name), store_of(workspace, name)
    pairs = read_parquet(workspace.neighbors).join(index.candidates, on="sample_id", how="semi", maintain_order="left")
    todo = pair_todo(kind, pairs, store)
    tokens = None if todo.missing_pairs.is_empty() else _compute(workspace, todo, store, index, progress)
    values = store.read(pairs)
    require_complete(store, pairs, values)
    table = with_similarity(values, pairs)
    shots = read_metadata(workspace.neighbors)["version"]
    version = fingerprint([version_of(values, kind.value, store.fingerprint), shots])
    write_parquet(table, workspace.pool_table(name), {"fingerprint": store.fingerprint, "version": version})
    computed = todo.missing_pairs.height
    reused = pairs.height - computed
    return TableReport(table, kind.value, version, store.fingerprint, computed, reused, tokens, store.skipped)


def with_inputs(
    computation: FromPairs | FromScores, pairs: pl.DataFrame, read_scores: Callable[[str, str], pl.DataFrame]
) -> pl.DataFrame:
    """The pairs (or rows) with the scores beside them that the computation starts from.

    read_scores: (kind, column) → a frame with sample_id and that column.
    """
    for column, (kind, name) in computation.inputs.items():
        scores = read_scores(kind, name).select("sample_id", pl.col(name).alias(column))
        pairs = pairs.join(scores, on="sample_id", how="left", maintain_order="left")
    return pairs


def with_similarity(values: pl.DataFrame, shots: pl.DataFrame) -> pl.DataFrame:
    """Values of pairs with `shot_similarity`, from a table of shots (neighbors/nearest.py)."""
    similarity = shots.rename({"similarity": "shot_similarity"})
    return values.join(similarity, on=["sample_id", "shot_id"], how="left", nulls_equal=True, maintain_order="left")


def _compute(workspace: Workspace, todo: PairTodo, store: Store, index: Index, progress: Progress | None) -> int:
    """Compute and append the missing pairs; returns the tokens it took."""
    computation = todo.kind.computed_by(workspace.settings)
    assert isinstance(computation, FromPairs)
    pairs = with_inputs(computation, todo.missing_pairs, lambda kind, name: pool_scores(workspace, index, kind, [name]))
    row_progress = with_reused(progress, todo.pairs.height - pairs.height)
    pairs = pairs.sort("shot_id", "sample_id")  # so that in a shard too those with one shot stand side by side
    work = ModelWork(workspace, todo.kind.name, store.fingerprint)
    outcome = compute(workspace.settings, work, Shard(pairs, pool_samples(workspace, index)), row_progress)
    store.compact(COMPACT_MIN_PARTS)
    return outcome.tokens
