"""The corpus index: which samples the complete sources hold, and which scores stand for them.

A source is complete when every needed kind of score was made for exactly the samples of its raw table. Others are
left out and listed with the reason: one bad source does not block the corpus. The index is what every
corpus-wide step reads, so they all see one pool.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.scores.provenance import open_store
from dselect_core.scores.score_table import read_head
from dselect_core.select.order import Pool
from dselect_core.select.select import needs
from dselect_core.select.strategies import SCORE_COLUMNS
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet, read_with_metadata, write_parquet
from dselect_core.storage.score_store import Store, Vectors

# Nothing that may change while the version of a source stands, as the count of a sample's rows does.
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "sources": pl.List(pl.String()),
}
# Columns that travel with the scores without being one.
_BESIDE = ("truncated", "shot_id")
# What the difficulty tells of every sample, whatever a recipe ranks by; none of it depends on β.
LENGTHS = ("prompt_tokens", "response_tokens", "truncated")


def needed_kinds(settings: Settings) -> frozenset[str]:
    """The kinds of score that some recipe reads, with what those rest on. Others need not be computed."""
    needed = {kind for spec in settings.coresets.values() for kind in needs(spec)}
    if "miwv" in needed:
        needed |= {"prompts", "difficulty"}
    return frozenset(needed)


@dataclass(frozen=True)
class Index:
    """frame: SCHEMA, ascending by id. sources: {name: {kind or "samples": version}}. excluded: {name: reason}.

    fingerprints: {kind: the recipes its scores were made by}; more than one means that they must not be compared.
    """

    frame: pl.DataFrame
    sources: dict[str, dict[str, str]]
    excluded: dict[str, str]
    fingerprints: dict[str, list[str]]

    @property
    def version(self) -> str:
        """Hash of the pool's samples, their sources and the versions of all scores."""
        return fingerprint([self.frame["sample_id"].to_list(), self.sources])

    def version_of(self, kinds: frozenset[str]) -> str:
        """Hash of the pool's samples, the sources they stand in, and the versions of these kinds of score alone."""
        of_kinds = {
            name: {kind: version for kind, version in versions.items() if kind in kinds | {"samples"}}
            for name, versions in self.sources.items()
        }
        return fingerprint([self.frame["sample_id"].to_list(), of_kinds])


def build_index(workspace: Workspace, sources: list[str], kinds: frozenset[str]) -> Index:
    """Look at the tables of `sources` as they are now, and write the index."""
    present: dict[str, dict[str, str]] = {}
    excluded: dict[str, str] = {}
    fingerprints: dict[str, set[str]] = {kind: set() for kind in kinds if kind != "miwv"}
    parts = []
    for name in sorted(sources):
        try:
            samples, landed = read_with_metadata(workspace.samples(name), ["sample_id"])
        except FileNotFoundError:
            excluded[name] = "not landed yet"
            continue
        versions = {"samples": landed.get("version", "")}
        reason = None
        for kind in sorted(fingerprints):
            head = read_head(workspace.head(kind, name))
            if head is None:
                reason = f"no {kind} yet"
                break
            if head.samples != versions["samples"]:
                reason = f"{kind} are of an earlier version of the source"
                break
            versions[kind] = head.version
            if samples.height:
                fingerprints[kind].add(head.fingerprint)
        if reason is not None:
            excluded[name] = reason
            continue
        if samples.is_empty():
            continue  # a source that is gone leaves no trace in the pool
        present[name] = versions
        parts.append(samples.select("sample_id", pl.lit(name).alias("source")))
    frame = (
        pl.concat(parts)
        .group_by("sample_id")
        .agg(pl.col("source").sort().alias("sources"))
        .sort("sample_id")
        .cast(SCHEMA)  # type: ignore[arg-type]
        if parts
        else pl.DataFrame(schema=SCHEMA)
    )
    index = Index(frame, present, excluded, {kind: sorted(found) for kind, found in fingerprints.items()})
    write_parquet(frame, workspace.index, {"index": json.dumps([present, excluded, index.fingerprints])})
    return index


def read_index(workspace: Workspace) -> Index:
    try:
        frame, metadata = read_with_metadata(workspace.index)
    except FileNotFoundError:
        raise DselectError(f"{workspace.index}: no corpus index yet; run `dselect refresh`") from None
    return Index(frame, *json.loads(metadata["index"]))


def pool_samples(workspace: Workspace, index: Index) -> pl.DataFrame:
    """SAMPLES frame of the pool, ascending by id: a sample of several sources once, with all its origins."""
    return (
        pl.concat([read_parquet(workspace.samples(name)) for name in index.sources])
        .group_by("sample_id")
        .agg(
            pl.col("messages").first(),
            pl.col("n_rows").sum(),
            pl.col("origins").list.explode(keep_nulls=False, empty_as_null=False),
        )
        .sort("sample_id")
    )


def pool_scores(workspace: Workspace, index: Index, kind: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The scores of a kind over the pool, ascending by id, a row per sample; all columns or some.

    Raises DselectError when the pool's scores are of several recipes, or not all there any more.
    """
    store = _store_of_pool(workspace, index, kind)
    frame = store.read(index.frame, columns)
    _all_there(store, index, kind, frame)
    return frame


def pool_vectors(workspace: Workspace, index: Index, kind: str) -> Vectors:
    """The vectors of a kind over the pool, in its row order, one copy in memory. Raises as `pool_scores`."""
    store = _store_of_pool(workspace, index, kind)
    vectors = store.read_array(index.frame)
    _all_there(store, index, kind, vectors.keys)
    return vectors


def _store_of_pool(workspace: Workspace, index: Index, kind: str) -> Store:
    made_by = index.fingerprints[kind]
    if len(made_by) != 1:
        raise DselectError(f"{kind}: scores of {len(made_by)} recipes in one pool; run `dselect refresh` again")
    return open_store(workspace, kind, made_by[0])


def _all_there(store: Store, index: Index, kind: str, found: pl.DataFrame) -> None:
    if found.height < index.frame.height:
        raise DselectError(
            f"{store.folder}: {index.frame.height - found.height} of {index.frame.height} samples have no {kind} "
            "there; run `dselect refresh` again"
        )


def load_pool(workspace: Workspace, index: Index, kinds: frozenset[str]) -> Pool:
    """What selection reads: every score column of `kinds` beside the ids, vectors and neurons as arrays.

    Lengths in tokens come along wherever the pool has them. Raises DselectError when the pool is empty, naming what
    each source lacks.
    """
    if not index.sources:
        raise DselectError(
            "the pool is empty: no source is complete"
            + "".join(f"; {name}: {reason}" for name, reason in index.excluded.items())
        )
    scores = index.frame.select("sample_id", "sources")
    arrays: dict[str, np.ndarray] = {}
    for kind in sorted(kinds | ({"difficulty"} & index.fingerprints.keys())):
        if kind == "embeddings":
            arrays["embeddings"] = pool_vectors(workspace, index, kind).values
            continue
        if kind == "activations":
            _, arrays["neurons"], arrays["has_neurons"] = pool_vectors(workspace, index, kind)
            continue
        table = read_parquet(workspace.miwv) if kind == "miwv" else pool_scores(workspace, index, kind)
        known = LENGTHS if kind not in kinds else (*_BESIDE, *(c for c, of in SCORE_COLUMNS.items() if of == kind))
        columns = [c for c in table.columns if c in known]
        scores = scores.join(table.select("sample_id", *columns), on="sample_id", how="left", maintain_order="left")
    return Pool(scores, **arrays)
