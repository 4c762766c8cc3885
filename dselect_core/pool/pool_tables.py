"""Tables over the pool: its samples, its scores, its vectors, and what selection reads of them.

Every reader goes through the corpus index, so all corpus-wide steps see one pool and one provenance a kind.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from dselect_core.corpus.raw_dataset import ORIGINS, read_samples
from dselect_core.errors import DselectError
from dselect_core.kinds import Kind, kind_of
from dselect_core.pool.corpus_index import Index, incomplete, is_over_pool
from dselect_core.pool.near_duplicates import reasons_not_chosen
from dselect_core.pool.store_of_sources import one_store
from dselect_core.select.candidate_pool import Pool, Targets
from dselect_core.select.judges_spec import GRADES, JudgesSpec, kind_of_judge
from dselect_core.select.rounding import usable_vectors
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_parquet, read_with_metadata
from dselect_core.storage.score_store import Store, Vectors


def pool_samples(workspace: Workspace, index: Index, ids: pl.Series | None = None) -> pl.DataFrame:
    """SAMPLES frame of the pool, ascending by id: a sample of several sources once, with all its origins.

    ids: only those samples, so that no text of the others is in memory; None: all.
    """
    return (
        pl.concat([read_samples(workspace, name, ids) for name in index.sources])
        .group_by("sample_id")
        .agg(
            pl.col("messages", "tools").first(),
            pl.col("n_rows").sum(),
            pl.col("origins").list.explode(keep_nulls=False, empty_as_null=False),
        )
        .sort("sample_id")
    )


def pool_origins(workspace: Workspace, index: Index) -> dict[str, str]:
    """{source: version of the files and rows in which its samples stand}; empty text where version 0.2 landed it."""
    return {name: read_metadata(workspace.samples(name)).get(ORIGINS, "") for name in index.sources}


def pool_scores(workspace: Workspace, index: Index, name: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The scores of a kind over the pool, ascending by id, a row per sample; all columns or some.

    Raises DselectError when the pool's scores are of several provenances, or not all there any more.
    """
    kind = kind_of(name)
    if is_over_pool(workspace.settings, kind):
        table = read_parquet(workspace.pool_table(name))
        return table if columns is None else table.select(*kind.keys, *columns)
    store = store_of_pool(workspace, index, name)
    scores = store.read(index.frame, columns)
    _require_all(store, index, name, scores)
    return scores


def pool_vectors(workspace: Workspace, index: Index, name: str) -> Vectors:
    """The vectors of a kind over the pool, in its row order, one copy in memory. Raises as `pool_scores`."""
    store = store_of_pool(workspace, index, name)
    vectors = store.read_array(index.frame)
    _require_all(store, index, name, vectors.keys)
    return vectors


def unit_embeddings(workspace: Workspace, index: Index, ids: pl.Series) -> tuple[pl.Series, np.ndarray] | None:
    """(ids, float32 [n, d] of length 1), ascending, of those among `ids` that have a usable embedding.

    No other vectors of the pool are read. None where the pool has no embeddings of one provenance.
    """
    fingerprints = index.fingerprints.get("embeddings", [])
    if len(fingerprints) != 1:
        return None
    wanted = ids.unique().sort().to_frame("sample_id")
    vectors = workspace.open_store("embeddings", fingerprints[0]).read_array(wanted)
    values = vectors.values.astype(np.float32)
    usable = vectors.present & usable_vectors(values)
    values = values[usable]
    units = np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))
    return vectors.keys["sample_id"].filter(pl.Series(usable, dtype=pl.Boolean)), units


def fingerprint_of_pool(workspace: Workspace, index: Index, kind: Kind) -> str:
    """Fingerprint of the provenance of the pool's scores of a kind; where sources have their own, of all together.

    Raises DselectError where they have several that the settings do not ask for.
    """
    if is_over_pool(workspace.settings, kind):
        return read_metadata(workspace.pool_table(kind.name))["fingerprint"]
    if kind.name in index.stores:
        return store_of_pool(workspace, index, kind.name).fingerprint
    fingerprints = index.fingerprints.get(kind.name, [])
    if not fingerprints:  # the settings ask for it since the index was made
        raise DselectError(f"{kind.name}: the pool has no scores of it yet; run `dselect refresh`")
    if len(fingerprints) != 1:
        raise DselectError(
            f"{kind.name}: scores of {len(fingerprints)} provenances in one pool; run `dselect refresh` again"
        )
    return fingerprints[0]


def version_of_pool(workspace: Workspace, index: Index, kind: Kind) -> str:
    """Version of the pool's scores of a kind: it moves with a sample, a score's presence, or the provenance."""
    if is_over_pool(workspace.settings, kind):
        return read_metadata(workspace.pool_table(kind.name))["version"]
    return index.version_of(frozenset({kind.name}))


def load_pool(workspace: Workspace, index: Index, names: frozenset[str], judges: JudgesSpec | None = None) -> Pool:
    """What selection reads: the columns of the kinds `names` that it sees, beside the ids; vectors as arrays.

    Columns that depend on the text alone (lengths in tokens) come along wherever the pool has them. judges: whose
    grades become the grade, where `names` has named judges'. Where only rows that can still be chosen are graded,
    `Pool.ungraded` says which the others are. Raises DselectError when the pool is empty, naming what each source
    lacks.
    """
    if not index.sources:
        raise DselectError("the pool is empty: " + incomplete(index.excluded))
    scores = index.frame.select("sample_id", "sources")
    arrays: dict[str, Any] = {}
    ungraded = None
    of_text = {name for name in index.fingerprints if kind_of(name).of_text_columns()}
    of_judges = frozenset() if judges is None else judges.kinds & names
    if judges is not None and of_judges:
        tables = [
            _visible(pool_scores(workspace, index, kind_of_judge(judge)), kind_of_judge(judge)) for judge in judges.of
        ]
        scores = scores.join(judges.combined(tables), on="sample_id", how="left", maintain_order="left")
    for name in sorted((names | of_text) - of_judges):
        kind = kind_of(name)
        if kind.pool_field is not None:
            vectors = pool_vectors(workspace, index, name)
            arrays |= pool_arrays(kind.pool_field, vectors.values, vectors.present)
            continue
        table = pool_scores(workspace, index, name)
        if name == GRADES and is_over_pool(workspace.settings, kind):
            asked = table.filter(is_asked(kind))["sample_id"]
            ungraded = ~scores["sample_id"].is_in(asked.implode()).to_numpy()
        table = _visible(table, name, of_text_alone=name not in names)
        scores = scores.join(table, on="sample_id", how="left", maintain_order="left")
    held_out = None
    reasons = reasons_not_chosen(workspace, index)
    if reasons.height:
        held_out = scores.join(reasons, on="sample_id", how="left", maintain_order="left")["reason"]
    return Pool(scores, **arrays, held_out=held_out, ungraded=ungraded)


NOT_GRADED = "not graded: it could not have been chosen, whatever its grade"
"""The reason in the pool's table of grades for a row that was not asked for."""


def is_asked(kind: Kind) -> pl.Expr:
    """Of rows of the pool's table of grades: whether the grader was asked for them, also in vain."""
    return pl.col(kind.reason_column).ne_missing(pl.lit(NOT_GRADED))


def _visible(table: pl.DataFrame, name: str, *, of_text_alone: bool = False) -> pl.DataFrame:
    """What selection sees of the scores of a kind, beside the id."""
    kind = kind_of(name)
    visible = kind.of_text_columns() if of_text_alone else kind.pool_columns()
    return table.select("sample_id", *(column for column in table.columns if column in visible))


def load_targets(workspace: Workspace, index: Index, name: str) -> Targets:
    """The examples of the target sources with their vectors of a kind; a sample of several sources once.

    Raises DselectError where there are none, naming what each target source lacks, or where they are not of the pool's
    provenance.
    """
    if not index.targets:
        excluded = {s: index.excluded[s] for s in workspace.settings.sources_of("target") if s in index.excluded}
        raise DselectError("there are no target examples: " + (incomplete(excluded) if excluded else "add some"))
    store = store_of_pool(workspace, index, name)
    ids = pl.concat([read_with_metadata(workspace.samples(source), ["sample_id"])[0] for source in index.targets])
    vectors = store.read_array(ids.unique().sort("sample_id"))
    return Targets.of(vectors.keys["sample_id"], vectors.values)


def pool_arrays(pool_field: str, values: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Arguments of `Pool` for one array. present: boolean [n]; of integers only it tells which rows hold something."""
    return {pool_field: values} | ({"has_neurons": present} if pool_field == "neurons" else {})


def store_of_pool(workspace: Workspace, index: Index, name: str) -> Store:
    """The store of the pool's scores of a kind made source by source. Raises as `fingerprint_of_pool`."""
    if name in index.stores:
        stores = {source: workspace.open_store(name, made_by) for source, made_by in index.stores[name].items()}
        return one_store(stores, index.frame)
    return workspace.open_store(name, fingerprint_of_pool(workspace, index, kind_of(name)))


def _require_all(store: Store, index: Index, name: str, rows: pl.DataFrame) -> None:
    if rows.height < index.frame.height:
        raise DselectError(
            f"{store.folder}: {index.frame.height - rows.height} of {index.frame.height} samples have no {name} "
            "there; run `dselect refresh` again"
        )
