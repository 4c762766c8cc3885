"""The corpus index: which samples the complete sources hold, and which tables stand for their scores.

A source is complete when every needed score table covers exactly the samples of its raw table. Others are
left out and listed with the reason: one bad source does not block the corpus. The index is what every
corpus-wide step reads, so they all see one pool.
"""

import json
from dataclasses import dataclass

import numpy as np
import polars as pl

from dselect_core.config import Settings
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.select.pool import Pool
from dselect_core.select.select import needs
from dselect_core.select.strategies import SCORE_COLUMNS
from dselect_core.tables import read_parquet, read_with_metadata, write_parquet
from dselect_core.workspace import Workspace

SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "sources": pl.List(pl.String()),
    "n_rows": pl.UInt32(),
}
# Columns that travel with the scores without being one.
_BESIDE = ("truncated", "shot_id")


def needed_kinds(settings: Settings) -> frozenset[str]:
    """The kinds of score that some recipe reads, with what those rest on. Others need not be computed."""
    needed = {kind for spec in settings.coresets.values() for kind in needs(spec)}
    if "miwv" in needed:
        needed |= {"embeddings", "difficulty"}
    return frozenset(needed)


@dataclass(frozen=True)
class Index:
    """frame: SCHEMA, ascending by id. sources: {name: {kind or "samples": version}}. excluded: {name: reason}.

    fingerprints: {kind: the recipes its tables were made by}; more than one means that they must not be compared.
    """

    frame: pl.DataFrame
    sources: dict[str, dict[str, str]]
    excluded: dict[str, str]
    fingerprints: dict[str, list[str]]

    @property
    def version(self) -> str:
        """Hash of the pool's ids and of the versions of its tables: what the corpus-wide steps depend on."""
        return fingerprint([self.frame["sample_id"].to_list(), self.sources])


def build_index(workspace: Workspace, sources: list[str], kinds: frozenset[str]) -> Index:
    """Look at the tables of `sources` as they are now, and write the index."""
    present: dict[str, dict[str, str]] = {}
    excluded: dict[str, str] = {}
    fingerprints: dict[str, set[str]] = {kind: set() for kind in kinds if kind != "miwv"}
    parts = []
    for name in sorted(sources):
        try:
            samples, landed = read_with_metadata(workspace.samples(name), ["sample_id", "n_rows"])
        except FileNotFoundError:
            excluded[name] = "not landed yet"
            continue
        versions = {"samples": landed.get("version", "")}
        reason = None
        for kind in sorted(fingerprints):
            try:
                table, metadata = read_with_metadata(workspace.scores(kind, name), ["sample_id"])
            except FileNotFoundError:
                reason = f"no {kind} yet"
                break
            if not table["sample_id"].equals(samples["sample_id"]):
                reason = f"{kind} are of an earlier version of the source"
                break
            versions[kind] = metadata["version"]
            if samples.height:
                fingerprints[kind].add(metadata["fingerprint"])
        if reason is not None:
            excluded[name] = reason
            continue
        if samples.is_empty():
            continue  # a source that is gone leaves no trace in the pool
        present[name] = versions
        parts.append(samples.select("sample_id", pl.lit(name).alias("source"), "n_rows"))
    frame = (
        pl.concat(parts)
        .group_by("sample_id")
        .agg(pl.col("source").sort().alias("sources"), pl.col("n_rows").sum())
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


def pool_scores(workspace: Workspace, index: Index, kind: str) -> pl.DataFrame:
    """The score table of a kind over the pool, ascending by id, a row per sample.

    Raises DselectError when a table has changed since the index was built: the index must be built again.
    """
    frames = []
    for name, versions in index.sources.items():
        path = workspace.scores(kind, name)
        frame, metadata = read_with_metadata(path)
        if metadata["version"] != versions[kind]:
            raise DselectError(f"{path}: changed since the corpus index was built; run `dselect refresh` again")
        frames.append(frame)
    return pl.concat(frames).unique("sample_id", keep="first", maintain_order=True).sort("sample_id")


def load_pool(workspace: Workspace, index: Index, kinds: frozenset[str]) -> Pool:
    """What selection reads: every score column of `kinds` beside the ids, vectors and neurons as arrays.

    Raises DselectError when the pool is empty, naming what each source lacks.
    """
    if not index.sources:
        raise DselectError(
            "the pool is empty: no source is complete"
            + "".join(f"; {name}: {reason}" for name, reason in index.excluded.items())
        )
    scores = index.frame.select("sample_id", "sources", "n_rows")
    arrays: dict[str, np.ndarray] = {}
    for kind in sorted(kinds):
        table = read_parquet(workspace.miwv) if kind == "miwv" else pool_scores(workspace, index, kind)
        table = index.frame.select("sample_id").join(table, on="sample_id", how="left", maintain_order="left")
        if kind == "embeddings":
            arrays["embeddings"] = fixed_width(table["embedding"])
        elif kind == "activations":
            arrays["has_neurons"] = table["neurons"].is_not_null().to_numpy()
            arrays["neurons"] = fixed_width(table["neurons"])
        else:
            columns = [c for c in table.columns if SCORE_COLUMNS.get(c) == kind or c in _BESIDE]
            scores = scores.join(table.select("sample_id", *columns), on="sample_id", how="left", maintain_order="left")
    return Pool(scores, **arrays)


def fixed_width(column: pl.Series) -> np.ndarray:
    """An Array column as [n, d]; null rows are NaN in floats, zeros in integers."""
    dtype = column.dtype
    assert isinstance(dtype, pl.Array)
    present = column.is_not_null().to_numpy()
    values = column.drop_nulls().to_numpy().reshape(-1, dtype.size)
    out = np.full((len(column), dtype.size), np.nan if dtype.inner.is_float() else 0, values.dtype)
    out[present] = values
    return out
