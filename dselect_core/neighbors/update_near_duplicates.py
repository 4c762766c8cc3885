"""The table of near-duplicates of the pool: made from the neighbours and scores that there are, and told by examples.

All of it is made again when any of these moves, which costs little beside the search of the neighbours: only samples
that have a near-duplicate are compared. So a table never depends on an earlier one. A plan asks `near_duplicates_of`
before the run, where all that it reads is there already.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from dselect_core.corpus.sample import message_text
from dselect_core.errors import DselectError
from dselect_core.kinds import kind_of
from dselect_core.neighbors.near_duplicates import BEST, find_near_duplicates
from dselect_core.neighbors.text_signatures import kept_signatures, update_signatures
from dselect_core.pool.corpus_index import Index
from dselect_core.pool.held_out import landed_texts
from dselect_core.pool.near_duplicates import NearDuplicates
from dselect_core.pool.pool_tables import store_of_pool
from dselect_core.progress import Progress
from dselect_core.select.judges_spec import GRADE, kind_of_judge
from dselect_core.settings.neighbors_spec import NearDuplicatesSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet, write_parquet
from dselect_core.storage.score_store import Store


@dataclass(frozen=True)
class Report:
    """found: what is not chosen. rows: samples of the pool. examples: of the largest groups, with their prompts."""

    found: NearDuplicates
    rows: int
    examples: pl.DataFrame


def update_near_duplicates(workspace: Workspace, index: Index, progress: Progress | None = None) -> Report:
    """Find the near-duplicates of the pool, and write their table. Raises DselectError where no setting asks for it."""
    spec = _spec(workspace)
    stores = {name: store_of_pool(workspace, index, name) for name in spec.kinds}
    neighbors = read_parquet(workspace.neighbors)
    if spec.text is not None:
        _update_signatures(workspace, index, neighbors)
    found = near_duplicates_of(workspace, neighbors, stores, progress)
    write_parquet(found.table, workspace.near_duplicates)
    return Report(found, index.frame.height, _examples(workspace, index, found.table))


def near_duplicates_of(
    workspace: Workspace, neighbors: pl.DataFrame, stores: Mapping[str, Store], progress: Progress | None = None
) -> NearDuplicates:
    """What of the samples of `neighbors` is not chosen (nearest.SCHEMA; the samples of the pool that are not held out).

    stores: of the kinds that the settings' `near_duplicates` reads, by name.
    """
    spec = _spec(workspace)
    ids = neighbors.select("sample_id")
    scores = ids
    of_judges = frozenset() if spec.grade is None else spec.grade.kinds & spec.kinds
    if spec.grade is not None and of_judges:
        tables = [stores[kind_of_judge(judge)].read(ids, [GRADE]).select("sample_id", GRADE) for judge in spec.grade.of]
        scores = scores.join(spec.grade.combined(tables), on="sample_id", how="left")
    for name in sorted(spec.kinds - {"prompts"} - of_judges):
        columns = [column.name for column in kind_of(name).columns if column.name in BEST]
        table = stores[name].read(ids, columns)
        scores = scores.join(table.select("sample_id", *columns), on="sample_id", how="left")
    store = stores["prompts"]
    vectors = store.read_array(ids).values
    if len(vectors) < ids.height:
        raise DselectError(
            f"{store.folder}: {ids.height - len(vectors)} of {ids.height} samples have no prompts there; run "
            "`dselect refresh` again"
        )
    signatures = None
    if spec.text is not None:
        table = kept_signatures(workspace.text_signatures).join(ids, on="sample_id", how="semi")
        if table.height < ids.height:
            raise DselectError(f"{workspace.text_signatures}: samples lack a signature; run `dselect refresh` again")
        signatures = table["signature"].to_numpy()
    own = scores if spec.keep == "best" else None
    return NearDuplicates(find_near_duplicates(neighbors, vectors, own, spec, signatures, progress))


def _update_signatures(workspace: Workspace, index: Index, neighbors: pl.DataFrame) -> None:
    ids = neighbors.select("sample_id")
    new_ids = ids.join(kept_signatures(workspace.text_signatures), on="sample_id", how="anti")
    texts = landed_texts(workspace, index.sources)(new_ids) if new_ids.height else None
    update_signatures(workspace.text_signatures, ids, texts)


def _spec(workspace: Workspace) -> NearDuplicatesSpec:
    spec = workspace.settings.near_duplicates
    if spec is None:
        raise DselectError("nothing says when samples are near-duplicates: set `near_duplicates` in dselect.yaml")
    return spec


def _examples(workspace: Workspace, index: Index, table: pl.DataFrame, count: int = 10) -> pl.DataFrame:
    """The first samples of the largest groups, one a group, with both prompts."""
    shown = (
        table.sort("group_size", "keeper_id", "sample_id", descending=[True, False, False])
        .unique("keeper_id", keep="first", maintain_order=True)
        .head(count)
    )
    ids = pl.concat([shown.select("sample_id"), shown.select(sample_id="keeper_id")]).unique()
    prompts: dict[str, str] = {}
    for samples in landed_texts(workspace, index.sources)(ids) if shown.height else ():
        for sample_id, messages in samples.select("sample_id", "messages").iter_rows():
            prompts[sample_id] = next(message_text(turn) for turn in messages if turn["role"] != "system")
    rows = [
        (size, by, similarity, sample_id[:12], prompts.get(sample_id), keeper_id[:12], prompts.get(keeper_id))
        for sample_id, keeper_id, by, similarity, size in shown.select(
            "sample_id", "keeper_id", "by", "similarity", "group_size"
        ).iter_rows()
    ]
    columns = {
        "group of": pl.Int64,
        "by": pl.String,
        "similarity": pl.Float64,
        "not chosen": pl.String,
        "its prompt": pl.String,
        "kept": pl.String,
        "the kept one's prompt": pl.String,
    }
    return pl.DataFrame(rows, schema=columns, orient="row")
