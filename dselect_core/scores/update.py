"""Bring score tables up to date: keep the rows that still hold, compute the others, write the table whole."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
from upath import UPath

from dselect_core.config import Settings
from dselect_core.index import Index, fixed_width, pool_samples, pool_scores
from dselect_core.lm.current import current
from dselect_core.lm.load import identity
from dselect_core.neighbors import REVISION as NEIGHBORS_REVISION
from dselect_core.neighbors import nearest
from dselect_core.progress import Progress
from dselect_core.scores import activations, dependability, difficulty, embeddings, miwv
from dselect_core.scores.one_pass import one_pass
from dselect_core.scores.table import TableReport, kept_rows, write_table
from dselect_core.tables import read_parquet
from dselect_core.workspace import Workspace


def update_model_scores(
    workspace: Workspace, source: str, kinds: frozenset[str], progress: Progress | None = None
) -> dict[str, TableReport]:
    """Tables of `kinds` (⊆ difficulty, embeddings, activations) of a source, by one forward pass over what any lacks.

    With an encoder named in the settings, embeddings are its own. Raises DselectError when there is no model yet.
    """
    settings = workspace.settings
    samples = read_parquet(workspace.samples(source))
    reports = {}
    if "embeddings" in kinds and settings.embeddings.path is not None:
        reports["embeddings"] = _encoder_embeddings(workspace, source, samples, progress)
        kinds -= {"embeddings"}
    if not kinds:
        return reports
    lm = current(workspace)
    recipes = _recipes(lm.recipe, settings)
    held = {
        kind: kept_rows(workspace.scores(kind, source), recipes[kind], samples.select("sample_id")) for kind in kinds
    }
    todo = {kind: _without(samples, rows) for kind, rows in held.items()}
    lacking = pl.concat([rows.select("sample_id") for rows in todo.values()]).unique()
    union = samples.join(lacking, on="sample_id", how="semi", maintain_order="left")
    scored = one_pass(lm, union, kinds, settings, progress) if union.height else {}
    for kind in sorted(kinds):
        fresh = scored.get(kind)
        if fresh is not None:
            fresh = fresh.join(todo[kind].select("sample_id"), on="sample_id", how="semi")
        reports[kind] = write_table(workspace.scores(kind, source), held[kind], fresh, recipes[kind])
    return reports


def update_grades(workspace: Workspace, source: str, progress: Progress | None = None) -> TableReport:
    """The grades of a source. A grade that failed is tried again; one that was given is kept."""
    spec = workspace.settings.grader
    samples = read_parquet(workspace.samples(source))
    return _update(
        workspace.scores("grades", source),
        dependability.recipe(spec),
        samples,
        lambda todo: dependability.grade(todo, spec, progress),
    )


def update_neighbors(workspace: Workspace, index: Index, progress: Progress | None = None) -> TableReport:
    """Each pooled sample's shot. All of them are looked for: `computed` counts the pool."""
    table = pool_scores(workspace, index, "embeddings") if index.sources else None
    recipe = {"revision": NEIGHBORS_REVISION, "embeddings": index.fingerprints["embeddings"]}
    found = None if table is None else nearest(table["sample_id"], fixed_width(table["prompt_embedding"]), progress)
    return write_table(workspace.neighbors, None, found, recipe)


def update_miwv(workspace: Workspace, index: Index, progress: Progress | None = None) -> TableReport:
    """MIWV over the pool; a value is kept while its sample, its shot and the recipe are the same."""
    lm = current(workspace)
    recipe = miwv.recipe(lm.recipe)
    if not index.sources:
        return write_table(workspace.miwv, None, None, recipe)
    zero_shot = pool_scores(workspace, index, "difficulty").select("sample_id", zero_shot_loss="loss")
    pairs = read_parquet(workspace.neighbors).join(zero_shot, on="sample_id", how="inner", maintain_order="left")
    return _update(
        workspace.miwv,
        recipe,
        pairs,
        lambda todo: miwv.compute(lm, pool_samples(workspace, index), todo, progress),
        keys=["sample_id", "shot_id"],
    )


def _encoder_embeddings(
    workspace: Workspace, source: str, samples: pl.DataFrame, progress: Progress | None
) -> TableReport:
    spec = workspace.settings.embeddings
    assert spec.path is not None
    return _update(
        workspace.scores("embeddings", source),
        embeddings.encoder_recipe(identity(spec.path, spec.revision), spec),
        samples,
        lambda todo: embeddings.encode(todo, spec, progress),
    )


def _update(
    path: UPath,
    recipe: dict[str, Any],
    rows: pl.DataFrame,
    compute: Callable[[pl.DataFrame], pl.DataFrame],
    keys: Sequence[str] = ("sample_id",),
) -> TableReport:
    """Keep what the table at `path` holds for `rows`, compute the others, write all."""
    held = kept_rows(path, recipe, rows.select(keys))
    todo = _without(rows, held)
    return write_table(path, held, compute(todo) if todo.height else None, recipe)


def _recipes(model: dict[str, Any], settings: Settings) -> dict[str, dict[str, Any]]:
    return {
        "difficulty": difficulty.recipe(model, settings.difficulty),
        "embeddings": embeddings.recipe(model),
        "activations": activations.recipe(model, settings.activations),
    }


def _without(rows: pl.DataFrame, held: pl.DataFrame | None) -> pl.DataFrame:
    if held is None:
        return rows
    return rows.join(held.select("sample_id"), on="sample_id", how="anti", maintain_order="left")
