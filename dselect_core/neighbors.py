"""Each sample's nearest other sample by cosine over prompt embeddings: MIWV's shot (arXiv 2511.07074).

Exact: a faiss flat index finds the few nearest in float32, and their similarities are computed again in
float64 and rounded to 2⁻²⁰, so that prompts that are the same up to float noise tie, and ties go to the
lowest sample id. O(n²·d) time, O(n·d) memory; fine to about 100,000 rows.

A table that was made before is patched, to what a fresh run gives: a new row looks at all rows, an old one at the new
rows only, and an old one whose shot is gone at all rows again. m new rows cost O(m·n·d).
"""

import numpy as np
import polars as pl

from dselect_core.progress import Progress
from dselect_core.select.grid import usable_vectors

REVISION = 1
SIMILARITY_STEP = 2.0**-20
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "shot_id": pl.String(),
    "similarity": pl.Float32(),  # holds every multiple of SIMILARITY_STEP in [-1, 1] exactly
}
# Nearest rows asked of faiss: the sample itself, its neighbour, and room to see ties.
_SEARCH = 8
_BLOCK = 4096


def nearest(ids: pl.Series, vectors: np.ndarray, progress: Progress | None = None) -> pl.DataFrame:
    """ids ascending, vectors float32 [n, d] (NaN where missing) → SCHEMA, a row per id.

    The nearest of i is argmax_{j≠i} cos(h_i, h_j), lowest id at equal similarity. Shot and similarity are
    null for a sample without a vector, and where no other sample has one.
    """
    return update(ids, vectors, None, progress)


def update(
    ids: pl.Series, vectors: np.ndarray, before: pl.DataFrame | None, progress: Progress | None = None
) -> pl.DataFrame:
    """The same as `nearest`, reached from an earlier result for some of the ids (and others that are gone by now).

    before: SCHEMA, made from the same vectors for the ids that are in both; None: from nothing.
    """
    usable = usable_vectors(vectors)
    shot, similarity, known = _still_holding(ids, before)
    old = np.flatnonzero(usable & known & (shot >= 0))
    anew = np.flatnonzero(usable & ~(known & (shot >= 0)))
    new = np.flatnonzero(usable & ~known)
    shot[~usable], similarity[~usable] = -1, np.nan
    unit = vectors.astype(np.float64)
    unit[usable] /= np.linalg.norm(unit[usable], axis=1, keepdims=True)
    if len(new) and len(old):
        found, likeness = _best_among(new, old, unit)
        closer = (likeness > similarity[old]) | ((likeness == similarity[old]) & (found < shot[old]))
        shot[old[closer]], similarity[old[closer]] = found[closer], likeness[closer]
    if len(anew) and usable.sum() > 1:
        shot[anew], similarity[anew] = _best_among(np.flatnonzero(usable), anew, unit, progress)
    has = pl.Series(shot >= 0)
    return pl.DataFrame(
        {"sample_id": ids, "shot_id": ids.gather(np.maximum(shot, 0)), "similarity": similarity}, schema=SCHEMA
    ).with_columns(pl.when(has).then(pl.col("shot_id")), pl.when(has).then(pl.col("similarity")))


def _still_holding(ids: pl.Series, before: pl.DataFrame | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row of each id's earlier shot (-1: none, or gone), its similarity, and whether the id was there at all."""
    n = len(ids)
    if before is None:
        return np.full(n, -1, np.int64), np.full(n, np.nan), np.zeros(n, dtype=bool)
    rows = pl.DataFrame({"shot_id": ids, "shot": pl.Series(range(n), dtype=pl.Int64)})
    held = (
        ids.to_frame("sample_id")
        .join(before.with_columns(known=True), on="sample_id", how="left", maintain_order="left")
        .join(rows, on="shot_id", how="left", maintain_order="left")
    )
    return (
        held["shot"].fill_null(-1).to_numpy().copy(),
        held["similarity"].cast(pl.Float64).fill_null(np.nan).to_numpy().copy(),
        held["known"].fill_null(False).to_numpy(),
    )


def _best_among(
    base: np.ndarray, queries: np.ndarray, unit: np.ndarray, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each row in `queries` the row of `base` (ascending) nearest to it but not itself, and their similarity."""
    import faiss

    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit[base].astype(np.float32))
    shot, similarity = np.empty(len(queries), np.int64), np.empty(len(queries))
    asked = min(_SEARCH, len(base))
    for start in range(0, len(queries), _BLOCK):
        own = queries[start : start + _BLOCK]
        _, positions = index.search(unit[own].astype(np.float32), asked)
        rows = base[positions]
        exact = _rounded(np.einsum("nd,nkd->nk", unit[own], unit[rows]))
        exact[rows == own[:, None]] = -np.inf
        best = exact.max(1)
        shot[start : start + len(own)] = np.where(exact == best[:, None], rows, len(unit)).min(1)
        similarity[start : start + len(own)] = best
        # More rows may tie than were asked for, or lie within float32's error: then, and only then, look at all.
        close = (exact >= best[:, None] - 2 * SIMILARITY_STEP).sum(1)
        for at in np.flatnonzero(close >= asked - 1) if asked < len(base) else ():
            whole = _rounded(unit[base] @ unit[own[at]])
            whole[base == own[at]] = -np.inf
            shot[start + at], similarity[start + at] = base[int(whole.argmax())], whole.max()
        if progress is not None:
            progress(start + len(own), len(queries))
    return shot, similarity


def _rounded(similarity: np.ndarray) -> np.ndarray:
    return np.rint(similarity / SIMILARITY_STEP) * SIMILARITY_STEP
