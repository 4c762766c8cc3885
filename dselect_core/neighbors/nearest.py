"""Each sample's nearest other sample by cosine over prompt embeddings: MIWV's shot (arXiv 2511.07074).

Nearest is by the dot product of the unit vectors rounded to the grid of rounding.py: within 5e-4 of the cosine for
d = 384, usually 1e-4. On the grid it is exact, so equals tie and ties go to the lowest sample id, on any machine.

Exact (exact_search.py) by default: n²·d/2 multiplications, the grid (n·d float32) and a few MB. Approximate
(ivf_search.py) where the settings ask for it above a size: far fewer, and `recall` says how many shots are the
nearest there is.

A table that was made before is patched: the rows that are new or whose shot is gone look at all rows, and the same
products tell the old rows whether a new one is nearer. m such rows cost m·n·d, and exact shots stay exact. Patched or
fresh, an exact table is the same; an approximate one can only gain by what was found before.
"""

import numpy as np
import polars as pl

from dselect_core.fingerprint import fingerprint
from dselect_core.neighbors import exact_search as exact
from dselect_core.neighbors import ivf_search as inverted_lists
from dselect_core.neighbors.exact_search import Closest
from dselect_core.progress import Progress
from dselect_core.select.rounding import round_unit_vectors, usable_vectors
from dselect_core.settings.settings import NeighborSpec

REVISION = 2
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "shot_id": pl.String(),
    "similarity": pl.Float32(),
}
RECALL_SAMPLE = 1000
_SEED = 0
_BLOCK = 8192  # rows at a time, wherever no product is taken


def recipe(spec: NeighborSpec, rows: int, prompts: list[str] | None) -> dict[str, object]:
    """All that a table of `rows` rows depends on but the vectors' values. prompts: fingerprints of the vectors."""
    nprobe = spec.nprobe_for(rows)
    held: dict[str, object] = {"revision": REVISION, "prompts": prompts}
    return held if nprobe is None else held | {"search": "inverted lists", "nprobe": nprobe}


def patchable(spec: NeighborSpec, rows: int, prompts: list[str] | None) -> set[str]:
    """Fingerprints of the recipes whose tables `update` may start from: the one in force, and the exact one."""
    return {fingerprint(recipe(s, rows, prompts)) for s in (spec, NeighborSpec())}


def nearest(
    ids: pl.Series, vectors: np.ndarray, progress: Progress | None = None, nprobe: int | None = None
) -> pl.DataFrame:
    """ids ascending, vectors float32 [n, d] (NaN where missing) → SCHEMA, a row per id.

    The nearest of i is argmax_{j≠i} h_i·h_j of the unit vectors h on the grid, lowest id at equals; with `nprobe` among
    those that ivf_search.py compares. Similarity is the cosine of the two on the grid, 1 for equal vectors. Both
    are null for a sample without a vector, and where no other sample has one.
    """
    return update(ids, vectors, None, progress, nprobe)


def update(
    ids: pl.Series,
    vectors: np.ndarray,
    before: pl.DataFrame | None,
    progress: Progress | None = None,
    nprobe: int | None = None,
) -> pl.DataFrame:
    """The same as `nearest`, reached from an earlier result for some of the ids (and others that are gone by now).

    before: SCHEMA, made from the same vectors for the ids that are in both, and exact unless `nprobe` is given;
    None: from nothing.
    """
    rows = _usable_rows(vectors)
    n = len(rows)
    grid = _on_grid(vectors, rows)
    known = Closest.of(grid)
    # Where a row of the table stands in the grid, which lacks those without a vector; -1, also for row -1: nowhere.
    place = np.full(len(vectors) + 1, -1)
    place[rows] = np.arange(n)
    shot = place[_held_shots(ids, before)[rows]]
    held = shot >= 0
    known.hold(np.flatnonzero(held), shot[held])
    anew = np.flatnonzero(~held)
    if nprobe is not None and len(anew) and (not held.any() or len(anew) * n > inverted_lists.comparisons(n, nprobe)):
        inverted_lists.search(known, nprobe, progress)
        anew = np.flatnonzero(known.other == n)  # whoever is alone in the lists: few, and their shot must be found
        progress = None
    if len(anew) and n > 1:
        exact.search(known, anew, progress)
    shot_row, similarity = np.full(len(vectors), -1), np.zeros(len(vectors), np.float32)
    has = known.other < n
    shot_row[rows[has]] = rows[known.other[has]]
    similarity[rows[has]] = known.cosine()[has]
    found = pl.Series(shot_row >= 0)
    return pl.DataFrame(
        {"sample_id": ids, "shot_id": ids.gather(np.maximum(shot_row, 0)), "similarity": similarity}, schema=SCHEMA
    ).with_columns(pl.when(found).then(pl.col("shot_id")), pl.when(found).then(pl.col("similarity")))


def recall(table: pl.DataFrame, vectors: np.ndarray, sample: int = RECALL_SAMPLE) -> tuple[float, int] | None:
    """(recall@1, rows it was measured on): how many of a random sample of rows have a shot as near as the nearest.

    table: of `update`; vectors: the same rows. The sample is seeded, drawn from the rows that have a vector and
    searched exactly, and nothing found here is put into the table: that would make it the better part. None where no
    two rows have vectors.
    """
    rows = _usable_rows(vectors)
    if len(rows) < 2:
        return None
    asked = np.sort(np.random.default_rng(_SEED).choice(rows, min(sample, len(rows)), replace=False))
    own = _on_grid(vectors, asked)
    best = np.full(len(asked), -np.inf, np.float32)
    for start in range(0, len(rows), _BLOCK):
        them = rows[start : start + _BLOCK]
        dot = own @ _on_grid(vectors, them).T
        dot[asked[:, None] == them] = -np.inf
        best = np.maximum(best, dot.max(axis=1))
    shots = _held_shots(table["sample_id"], table)[asked]
    found = np.einsum("nd,nd->n", own, _on_grid(vectors, shots))
    return float((found == best).mean()), len(asked)


def _usable_rows(vectors: np.ndarray) -> np.ndarray:
    parts = [np.flatnonzero(usable_vectors(vectors[s : s + _BLOCK])) + s for s in range(0, len(vectors), _BLOCK)]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _on_grid(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    grid = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), _BLOCK):
        grid[start : start + _BLOCK], _ = round_unit_vectors(vectors[rows[start : start + _BLOCK]])
    return grid


def _held_shots(ids: pl.Series, before: pl.DataFrame | None) -> np.ndarray:
    """Row of each id's earlier shot; -1: none, or gone, or the id is new."""
    if before is None:
        return np.full(len(ids), -1)
    rows = pl.DataFrame({"shot_id": ids, "shot": pl.Series(range(len(ids)), dtype=pl.Int64)})
    held = (
        ids.to_frame("sample_id")
        .join(before.select("sample_id", "shot_id"), on="sample_id", how="left", maintain_order="left")
        .join(rows, on="shot_id", how="left", maintain_order="left")
    )
    return held["shot"].fill_null(-1).to_numpy()
