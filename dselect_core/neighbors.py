"""Each sample's nearest other sample by cosine over prompt embeddings: MIWV's shot (arXiv 2511.07074).

Exact: a faiss flat index finds the few nearest in float32, and their similarities are computed again in
float64 and rounded to 2⁻²⁰, so that prompts that are the same up to float noise tie, and ties go to the
lowest sample id. O(n²·d) time, O(n·d) memory; fine to about 100,000 rows.
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
    "similarity": pl.Float32(),
}
# Nearest rows asked of faiss: the sample itself, its neighbour, and room to see ties.
_SEARCH = 8
_BLOCK = 4096


def nearest(ids: pl.Series, vectors: np.ndarray, progress: Progress | None = None) -> pl.DataFrame:
    """ids ascending, vectors float32 [n, d] (NaN where missing) → SCHEMA, a row per id.

    The nearest of i is argmax_{j≠i} cos(h_i, h_j), lowest id at equal similarity. Shot and similarity are
    null for a sample without a vector, and where no other sample has one.
    """
    usable = np.flatnonzero(usable_vectors(vectors))
    shot = np.full(len(ids), -1, np.int64)
    similarity = np.full(len(ids), np.nan)
    if len(usable) > 1:
        found, shot_similarity = _nearest(vectors[usable], progress)
        shot[usable], similarity[usable] = usable[found], shot_similarity
    has = pl.Series(shot >= 0)
    return pl.DataFrame(
        {"sample_id": ids, "shot_id": ids.gather(np.maximum(shot, 0)), "similarity": similarity}, schema=SCHEMA
    ).with_columns(pl.when(has).then(pl.col("shot_id")), pl.when(has).then(pl.col("similarity")))


def _nearest(vectors: np.ndarray, progress: Progress | None) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    n = len(vectors)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit.astype(np.float32))
    shot, similarity = np.empty(n, np.int64), np.empty(n)
    for start in range(0, n, _BLOCK):
        own = np.arange(start, min(start + _BLOCK, n))
        _, rows = index.search(unit[own].astype(np.float32), min(_SEARCH, n))
        exact = _rounded(np.einsum("nd,nkd->nk", unit[own], unit[rows]))
        exact[rows == own[:, None]] = -np.inf
        best = exact.max(1)
        shot[own] = np.where(exact == best[:, None], rows, n).min(1)
        similarity[own] = best
        # More rows may tie than were asked for: then, and only then, look at all of them.
        for i in own[(exact >= best[:, None]).sum(1) >= min(_SEARCH, n) - 1]:
            whole = _rounded(unit @ unit[i])
            whole[i] = -np.inf
            shot[i], similarity[i] = int(whole.argmax()), whole.max()
        if progress is not None:
            progress(int(own[-1]) + 1, n)
    return shot, similarity


def _rounded(similarity: np.ndarray) -> np.ndarray:
    return np.rint(similarity / SIMILARITY_STEP) * SIMILARITY_STEP
