"""What a change to the data ought to touch, counted from the data itself and not from what the graph says.

A row's content here is its text, read by this file; shots are found by comparing every vector with every other.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dselect_core.corpus.sample import sample_id
from dselect_core.pool.corpus_index import needed_kinds
from dselect_core.select.rounding import round_unit_vectors
from tests.e2e.graph import Graph

Row = dict[str, str]
Pair = tuple[str, str | None]


def id_of(row: Row) -> str:
    turns = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    return sample_id(turns)


def write(path: Path, rows: list[Row]) -> None:
    """JSON lines; compressed if the name says so. The old file goes, so that its time is another."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def ids_in(folder: Path) -> set[str]:
    found = set()
    for path in sorted(folder.rglob("*.jsonl*")):
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        found |= {id_of(json.loads(line)) for line in text.decode().splitlines()}
    return found


def shots(graph: Graph) -> dict[str, str | None]:
    """Each pooled sample's nearest other prompt by brute force, lowest id at a tie."""
    table = graph.scores("prompts")
    ids = table["sample_id"].to_list()
    grid = round_unit_vectors(table["prompt_embedding"].to_numpy())[0].astype(np.float64)
    likeness = grid @ grid.T
    np.fill_diagonal(likeness, -np.inf)
    return {i: ids[int(row.argmax())] if len(ids) > 1 else None for i, row in zip(ids, likeness, strict=True)}


def assert_same(graph: Graph, fresh: Graph) -> None:
    """Every table and coreset equal, ids in order, floats within 1e-5; a shot or a pick may differ at a tie alone."""
    mine, other = graph.pool(), fresh.pool()
    assert mine.equals(other), "the pools differ"
    kinds = ("difficulty", "embeddings", "prompts", "weighted_embeddings", "activations", "grades")
    for kind in [kind for kind in kinds if kind in needed_kinds(graph.workspace.settings)]:
        assert_same_table(graph.scores(kind), fresh.scores(kind), kind)
    a, b = pl.read_parquet(str(graph.workspace.neighbors)), pl.read_parquet(str(fresh.workspace.neighbors))
    assert a["sample_id"].equals(b["sample_id"])
    assert np.abs((a["similarity"] - b["similarity"]).to_numpy()).max() <= 1e-5, "another shot that is no tie"
    a, b = (pl.read_parquet(str(g.workspace.pool_table("miwv"))) for g in (graph, fresh))
    assert a["sample_id"].equals(b["sample_id"])
    same_shot = a["shot_id"].eq_missing(b["shot_id"])
    assert_same_table(a.filter(same_shot), b.filter(same_shot), "miwv")
    for recipe in graph.workspace.settings.coresets:
        assert_same_order(graph.order(recipe), fresh.order(recipe), recipe)


def assert_same_table(a: pl.DataFrame, b: pl.DataFrame, what: str) -> None:
    assert a.columns == b.columns
    for name, dtype in a.schema.items():
        if name in ("graded_at", "shot_similarity"):
            continue
        if dtype == pl.Float32 or dtype == pl.Float64:
            assert a[name].is_null().equals(b[name].is_null()), (what, name)
            difference = (a[name] - b[name]).abs().max()
            assert difference is None or difference <= 1e-5, (what, name, difference)
        elif isinstance(dtype, pl.Array) and dtype.inner.is_float():
            difference = float(np.abs(a[name].to_numpy() - b[name].to_numpy()).max())
            assert difference <= 1e-4, (what, name, difference)  # sums of 32 numbers of size 10, not scores
        else:
            assert a[name].equals(b[name]), (what, name)


def assert_same_order(a: pl.DataFrame, b: pl.DataFrame, recipe: str) -> None:
    if a["sample_id"].equals(b["sample_id"]):
        gains = (a["gain"] - b["gain"]).abs().max()
        assert gains is None or gains <= 1e-4, (recipe, gains)
        return
    assert a.height == b.height, recipe
    # From the first difference on, each pick must tie with the other run's pick at that rank.
    first = int((a["sample_id"] != b["sample_id"]).arg_max() or 0)
    tie = abs(a["gain"][first] - b["gain"][first])
    assert tie <= 3e-5, f"{recipe}: pick {first + 1} differs without a tie: {a.row(first)} and {b.row(first)}"
    assert set(a["sample_id"]) == set(b["sample_id"]) or tie <= 3e-5


def computed(figures: dict[tuple[str, str | None], dict[str, Any]]) -> dict[str, int]:
    """Rows computed, summed over the partitions of each score asset that ran."""
    total: dict[str, int] = {}
    for (asset, _), shown in figures.items():
        if asset in ("difficulty_scores", "embeddings", "activations", "dependability_grades", "miwv_values"):
            total[asset] = total.get(asset, 0) + shown["rows computed"]
    return total
