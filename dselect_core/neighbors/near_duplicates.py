"""Samples with nearly the same prompt: of each group the best is kept, and the others are not chosen. [ours]

Samples are taken in the order of preference: by grade, by difficulty (upd), by id, the highest, highest, lowest first,
and what has no score last; or by id alone. One is kept unless a sample that is kept already is as alike to it as the
threshold; then it belongs to the group of the most alike of those, of equals the preferred one. So
  - no two samples that are kept are as alike as the threshold,
  - each of the others is that alike to the one that is kept for it, which is preferred to it.
Joining all that is connected instead would lose samples that are like none that is kept: likeness is not transitive.

Only samples whose nearest other sample is that near can be alike to any, so the neighbours that were searched already
say which ones to compare: m of them with the k that are kept, m·k·d multiplications, in place of n². All is computed
on the grid of rounding.py: equal tables give equal groups on any machine. Where the neighbours are approximate,
a sample whose near-duplicate was missed is compared with none, and both may be kept; all the rest holds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from dselect_core.neighbors.text_signatures import AlikeTexts, buckets, share_a_bucket
from dselect_core.pool.near_duplicates import SCHEMA
from dselect_core.progress import Progress
from dselect_core.select.eligibility import NEAR_DUPLICATE
from dselect_core.select.rounding import NORM_LIMIT, round_scores, round_unit_vectors, usable_vectors
from dselect_core.settings.neighbors_spec import NearDuplicatesSpec

REVISION = 1
"""Goes up when other samples are kept, or another reason is said."""

BEST = ("grade", "upd")
"""The scores that decide which sample is kept, the first one first; the highest wins."""

_BLOCK = 1024
_TILE = 4096


@dataclass(frozen=True)
class Groups:
    """The groups of m samples in the order of preference.

    keeper: int64 [m], the sample that is kept for each; its own number where it is kept itself. similarity: float32
    [m], their cosine on the grid, or where `by_text` (boolean [m]) the share of equal values of their signatures; 1
    with itself.
    """

    keeper: np.ndarray
    similarity: np.ndarray
    by_text: np.ndarray


def find_near_duplicates(
    neighbors: pl.DataFrame,
    vectors: np.ndarray,
    scores: pl.DataFrame | None,
    spec: NearDuplicatesSpec,
    signatures: np.ndarray | None = None,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """The samples that are not chosen: pool.near_duplicates.SCHEMA, ascending by id.

    neighbors: of nearest.py, over the samples that may be chosen. vectors: float32 [n, d], of its rows. scores:
    sample_id and the columns BEST of them; None where `spec` keeps the first. signatures: uint32 [n, VALUES] of their
    texts, where `spec.text` is set.
    """
    lowest = _lowest(spec.threshold, vectors.shape[1])
    is_member = neighbors["similarity"].fill_null(-2).to_numpy() >= lowest
    if spec.text is not None and signatures is not None and len(signatures):
        is_member = is_member | share_a_bucket(buckets(signatures, spec.text))
    rows = np.flatnonzero(is_member)
    members = _by_preference(neighbors[rows].select("sample_id").with_columns(row=pl.Series(rows)), scores)
    if members.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    rows = members["row"].to_numpy()
    has_vector = usable_vectors(vectors[rows])
    grid = np.zeros((len(rows), vectors.shape[1]), np.float32)
    grid[has_vector], _ = round_unit_vectors(vectors[rows[has_vector]])
    texts = None if spec.text is None or signatures is None else AlikeTexts(signatures[rows], spec.text)
    groups = elect(grid, spec.threshold, texts, progress)
    return _as_table(members, groups)


def elect(
    grid: np.ndarray, threshold: float, texts: AlikeTexts | None = None, progress: Progress | None = None
) -> Groups:
    """grid: float32 [m, d], of `round_unit_vectors`, in the order of preference; zeros where there is no vector.

    m·k·d multiplications, k are kept. texts: compared where prompts are not alike.
    """
    count = len(grid)
    limit, squared_lengths = np.float32(threshold), np.einsum("nd,nd->n", grid, grid).astype(np.float64)
    squared_lengths[squared_lengths == 0] = 1
    keeper, similarity, by_text = np.arange(count), np.ones(count, np.float32), np.zeros(count, bool)
    kept = np.empty(0, np.int64)
    for start in range(0, count, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, count))
        nearest, cosine = np.full(len(block), -1), np.full(len(block), -np.inf, np.float32)
        for tile_start in range(0, len(kept), _TILE):
            tile = kept[tile_start : tile_start + _TILE]
            cosines = _cosines(grid, squared_lengths, block, tile)
            best = cosines.argmax(axis=1)
            of_best = cosines[np.arange(len(block)), best]
            better = of_best > cosine  # of equals the first, which is preferred
            nearest[better], cosine[better] = tile[best[better]], of_best[better]
        within = _cosines(grid, squared_lengths, block, block)
        kept_here: list[int] = []
        for i in range(len(block)):
            if kept_here:
                best_here = kept_here[int(within[i, kept_here].argmax())]
                if within[i, best_here] > cosine[i]:
                    nearest[i], cosine[i] = block[best_here], within[i, best_here]
            if cosine[i] >= limit:
                keeper[block[i]], similarity[block[i]] = nearest[i], cosine[i]
            elif texts is not None and (alike := texts.most_alike(start + i)) is not None:
                (keeper[block[i]], similarity[block[i]]), by_text[block[i]] = alike, True
            else:
                kept_here.append(i)
                if texts is not None:
                    texts.keep(start + i)
        kept = np.concatenate([kept, block[kept_here]])
        if progress is not None:
            progress(start + len(block), count)
    return Groups(keeper, similarity, by_text)


def _cosines(grid: np.ndarray, squared_lengths: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32 [rows, others]: exact dot products, rounded once; 1 for equal rows."""
    dots = (grid[rows] @ grid[others].T).astype(np.float64)
    dots /= np.sqrt(np.multiply.outer(squared_lengths[rows], squared_lengths[others]))
    return np.asarray(dots.astype(np.float32))


def _lowest(threshold: float, width: int) -> float:
    """A similarity that the nearest of each sample with a near-duplicate has at least.

    Nearest is by dot product, and lengths on the grid lie between NORM_LIMIT - √d - 1 and NORM_LIMIT; so the nearest
    may have a lower cosine than another sample, by that factor.
    """
    return threshold * (1 - (math.sqrt(width) + 1) / NORM_LIMIT) - 1e-6


def _by_preference(members: pl.DataFrame, scores: pl.DataFrame | None) -> pl.DataFrame:
    """members: sample_id, row. The preferred first; where they count, with the columns BEST, as `by_<name>` rounded."""
    if scores is None:
        return members.sort("sample_id")
    members = members.join(scores.select("sample_id", *BEST), on="sample_id", how="left")
    rounded = {f"by_{name}": _rounded(members[name]) for name in BEST}
    descending = [True] * len(BEST) + [False]
    return members.with_columns(**rounded).sort(*rounded, "sample_id", descending=descending, nulls_last=True)


def _rounded(values: pl.Series) -> pl.Series:
    """On the grid that selection compares scores on; null where there is none."""
    values = values.cast(pl.Float64)
    rounded = pl.Series(round_scores(values.fill_null(0).to_numpy()))
    return pl.select(pl.when(pl.lit(values.is_finite())).then(pl.lit(rounded))).to_series()


def _as_table(members: pl.DataFrame, groups: Groups) -> pl.DataFrame:
    removed = np.flatnonzero(groups.keeper != np.arange(len(groups.keeper)))
    keepers = groups.keeper[removed]
    sizes = np.bincount(groups.keeper, minlength=len(groups.keeper))[keepers]
    own, kept = members[removed], members[keepers]
    similarity = groups.similarity[removed]
    by = ["text" if by_text else "cosine" for by_text in groups.by_text[removed]]
    why = [_why_preferred(*rows) for rows in zip(kept.iter_rows(named=True), own.iter_rows(named=True), strict=True)]
    return pl.DataFrame(
        {
            "sample_id": own["sample_id"],
            "keeper_id": kept["sample_id"],
            "by": by,
            "similarity": similarity,
            "group_size": sizes,
            "reason": [
                f"{NEAR_DUPLICATE} ({sample_id[:12]}: {way} {value:.3f}, {reason})"
                for sample_id, way, value, reason in zip(kept["sample_id"], by, similarity, why, strict=True)
            ],
        },
        schema=SCHEMA,
    ).sort("sample_id")


def _why_preferred(kept: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first score that tells the two apart."""
    for name in BEST:
        if kept.get(f"by_{name}") != other.get(f"by_{name}"):
            return f"{name} {_figure(kept[name])} against {_figure(other[name])}"
    return "the lower id"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
