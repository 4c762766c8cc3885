"""Each sample's nearest other sample by cosine over prompt embeddings: MIWV's shot (arXiv 2511.07074) [paper].

Nearest is by the dot product of unit vectors rounded to the grid of rounding.py [ours]. That is within 5e-4 of the
cosine for d = 384, and usually within 1e-4. On the grid it is exact, so equal rows tie, and ties go to the lowest
sample id on any machine.

The search is exact (exact_search.py): n²·d/2 multiplications, n·d float32 for the grid and a few MB more. Above the
size that the settings say it is approximate (ivf_search.py): far fewer multiplications, and `recall` measures how many
shots are the true nearest.

An earlier table is patched: rows that are new, and rows whose shot is gone, are compared with all rows, and the same
products show the old rows whether a new one is nearer. m such rows cost m·n·d multiplications. A patched exact table
equals a fresh one. A patched approximate table keeps the earlier shots and can only improve on them.
"""

import numpy as np
import polars as pl

from dselect_core.fingerprint import fingerprint
from dselect_core.neighbors import exact_search, ivf_search
from dselect_core.neighbors.exact_search import NearestRows
from dselect_core.progress import Progress
from dselect_core.select.rounding import round_unit_vectors, usable_vectors
from dselect_core.settings.neighbors_spec import NeighborSpec

REVISION = 2
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "shot_id": pl.String(),
    "similarity": pl.Float32(),
}
RECALL_ROWS = 1000
"""Rows that `recall` is measured on."""

EXACT = NeighborSpec(approximate_above=None)

_SEED = 0
_BLOCK = 8192  # rows at a time where no product is taken


def provenance(spec: NeighborSpec, rows: int, prompt_fingerprints: list[str] | None) -> dict[str, object]:
    """All that a table of `rows` rows depends on except the values of the vectors.

    prompt_fingerprints: of the prompt vectors; None where not known yet.
    """
    nprobe = spec.nprobe_for(rows)
    exact: dict[str, object] = {"revision": REVISION, "prompts": prompt_fingerprints}
    return exact if nprobe is None else exact | {"search": "inverted lists", "nprobe": nprobe}


def patchable_fingerprints(spec: NeighborSpec, rows: int, prompt_fingerprints: list[str] | None) -> set[str]:
    """Fingerprints of the tables that `update_nearest` may start from: made as `spec` asks, or exactly."""
    return {fingerprint(provenance(each, rows, prompt_fingerprints)) for each in (spec, EXACT)}


def nearest(
    ids: pl.Series, vectors: np.ndarray, progress: Progress | None = None, nprobe: int | None = None
) -> pl.DataFrame:
    """The nearest other sample of each: SCHEMA, a row per id.

    ids: ascending. vectors: float32 [n, d], NaN where missing. The shot of i is `argmax_{j≠i} h_i·h_j` over the unit
    vectors h on the grid, the lowest id of equals; with `nprobe`, among those that ivf_search.py compares. Similarity
    is the cosine of the two on the grid, 1 for equal vectors. Both are null for a sample without a usable vector, and
    where no other sample has one.
    """
    return update_nearest(ids, vectors, None, progress, nprobe)


def update_nearest(
    ids: pl.Series,
    vectors: np.ndarray,
    previous: pl.DataFrame | None,
    progress: Progress | None = None,
    nprobe: int | None = None,
) -> pl.DataFrame:
    """The table of `nearest`, patched from an earlier one: SCHEMA, a row per id. Arguments as in `nearest`.

    previous: SCHEMA, of some of the ids and perhaps of ids that are gone by now. It was made from the same vectors of
    the ids that are in both, and exactly unless `nprobe` is given. None: every row is searched.
    """
    rows = _usable_rows(vectors)
    n = len(rows)
    nearest_rows = NearestRows.of(_on_grid(vectors, rows))
    # From a row of the table to its row of the grid; -1 for one without a vector, and for row -1, a missing shot.
    grid_rows = np.full(len(vectors) + 1, -1)
    grid_rows[rows] = np.arange(n)
    shots = grid_rows[_shot_rows(ids, previous)[rows]]
    has_shot = shots >= 0
    nearest_rows.set_nearest(np.flatnonzero(has_shot), shots[has_shot])
    rows_to_search = np.flatnonzero(~has_shot)
    exact_products = len(rows_to_search) * n
    if (
        nprobe is not None
        and len(rows_to_search)
        and (not has_shot.any() or exact_products > ivf_search.comparison_count(n, nprobe))
    ):
        ivf_search.search(nearest_rows, nprobe, progress)
        rows_to_search = np.flatnonzero(nearest_rows.nearest == n)  # the few that were alone in every list they probed
        progress = None
    if len(rows_to_search) and n > 1:
        exact_search.search(nearest_rows, rows_to_search, progress)
    return _as_table(ids, rows, nearest_rows)


def recall(table: pl.DataFrame, vectors: np.ndarray, sample_count: int = RECALL_ROWS) -> tuple[float, int] | None:
    """(recall@1, rows it was measured on): the share of a random sample of rows whose shot is as near as the nearest.

    table: of `update_nearest`; vectors: float32 [n, d], of its rows. The sample is seeded, drawn from the rows that
    have a vector and searched exactly. What this finds is not put into the table: the measured rows would then be
    better than the others. None where no two rows have vectors.
    """
    rows = _usable_rows(vectors)
    if len(rows) < 2:
        return None
    measured_rows = np.sort(np.random.default_rng(_SEED).choice(rows, min(sample_count, len(rows)), replace=False))
    grid = _on_grid(vectors, measured_rows)
    largest = np.full(len(measured_rows), -np.inf, np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        dots = grid @ _on_grid(vectors, block).T
        dots[measured_rows[:, None] == block] = -np.inf
        largest = np.maximum(largest, dots.max(axis=1))
    shots = _shot_rows(table["sample_id"], table)[measured_rows]
    dots_with_shots = np.einsum("nd,nd->n", grid, _on_grid(vectors, shots))
    return float((dots_with_shots == largest).mean()), len(measured_rows)


def _as_table(ids: pl.Series, rows: np.ndarray, nearest_rows: NearestRows) -> pl.DataFrame:
    """SCHEMA. rows: int64 [n], of each row of the grid its row among `ids`."""
    shot_rows, similarity = np.full(len(ids), -1), np.zeros(len(ids), np.float32)
    has_shot = nearest_rows.nearest < len(rows)
    shot_rows[rows[has_shot]] = rows[nearest_rows.nearest[has_shot]]
    similarity[rows[has_shot]] = nearest_rows.cosine()[has_shot]
    present = pl.Series(shot_rows >= 0)
    return pl.DataFrame(
        {"sample_id": ids, "shot_id": ids.gather(np.maximum(shot_rows, 0)), "similarity": similarity}, schema=SCHEMA
    ).with_columns(pl.when(present).then(pl.col("shot_id")), pl.when(present).then(pl.col("similarity")))


def _usable_rows(vectors: np.ndarray) -> np.ndarray:
    blocks = [np.flatnonzero(usable_vectors(vectors[s : s + _BLOCK])) + s for s in range(0, len(vectors), _BLOCK)]
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


def _on_grid(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    grid = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), _BLOCK):
        grid[start : start + _BLOCK], _ = round_unit_vectors(vectors[rows[start : start + _BLOCK]])
    return grid


def _shot_rows(ids: pl.Series, table: pl.DataFrame | None) -> np.ndarray:
    """int64 [n]: of each id the row, among `ids`, of its shot in `table`; -1 where the id or its shot is not there."""
    if table is None:
        return np.full(len(ids), -1)
    rows = pl.DataFrame({"shot_id": ids, "shot_row": pl.Series(range(len(ids)), dtype=pl.Int64)})
    shots = (
        ids.to_frame("sample_id")
        .join(table.select("sample_id", "shot_id"), on="sample_id", how="left", maintain_order="left")
        .join(rows, on="shot_id", how="left", maintain_order="left")
    )
    return shots["shot_row"].fill_null(-1).to_numpy()
