"""Make one coreset: read the pool, select, write the files and the manifest, and say what changed since the last."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core import __version__
from dselect_core.coreset.diff import SCHEMA as CHANGES
from dselect_core.coreset.diff import changes, counted
from dselect_core.coreset.export import write_coreset
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.pool.corpus_index import Index, load_pool, pool_samples, read_index
from dselect_core.progress import Progress
from dselect_core.scores.provenance import open_store
from dselect_core.select.order import Pool
from dselect_core.select.saved_order import read_kept, write_kept
from dselect_core.select.select import Selection, needs, select
from dselect_core.select.strategies import strategy
from dselect_core.settings.settings import CoresetSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet, read_with_metadata, write_parquet, write_text

REVISION = 2
# Columns of a kept order that are the order's; the others are scores, as the strategy read them.
_OF_ORDER = ("sample_id", "reason", "rank", "gain", "pass", "standing")


@dataclass(frozen=True)
class Coreset:
    """A made coreset. changes: who entered, left and stayed, and why (changes.py); None if none stood there before."""

    selection: Selection
    pool: Pool
    samples: pl.DataFrame
    counts: dict[str, int]
    version: str
    changes: pl.DataFrame | None


def write_spec(workspace: Workspace, recipe: str) -> tuple[CoresetSpec, str]:
    """Record a recipe as the settings have it; returns it and its version, the hash of its canonical JSON.

    Raises DselectError when the settings have no such recipe.
    """
    spec = workspace.settings.coresets.get(recipe)
    if spec is None:
        raise DselectError(
            f"no recipe {recipe!r} under `coresets`; there are: {', '.join(workspace.settings.coresets)}"
        )
    write_text(json.dumps(_canonical(spec), indent=2), workspace.spec(recipe))
    return spec, spec_version(spec)


def read_spec(workspace: Workspace, recipe: str) -> CoresetSpec:
    """The recipe as `write_spec` recorded it. Raises FileNotFoundError where it has not."""
    return CoresetSpec.model_validate_json(workspace.spec(recipe).read_text())


def spec_version(spec: CoresetSpec) -> str:
    return fingerprint(_canonical(spec))


def _canonical(spec: CoresetSpec) -> dict[str, Any]:
    """Without the options the recipe does not give: a new option then leaves the version of older recipes alone."""
    return spec.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Candidates:
    """What a recipe chooses from. version: of the pool's samples and of exactly the scores the recipe reads."""

    version: str
    rows: int
    scores: dict[str, str]


def candidates(workspace: Workspace, recipe: str) -> Candidates:
    """See what the recipe would choose from, without choosing: so that only what touches its scores touches it.

    The lengths in tokens that every coreset tells are of the model, not of β, and count as such.
    """
    index = read_index(workspace)
    kinds = needs(read_spec(workspace, recipe))
    versions = {"samples": index.version_of(frozenset())}
    for kind in sorted(kinds):
        if kind == "miwv":
            _, metadata = read_with_metadata(workspace.miwv, [])
            versions[kind] = metadata["version"]
        else:
            versions[kind] = index.version_of(frozenset({kind}))
    for made_by in index.fingerprints.get("difficulty", []):
        of_model = open_store(workspace, "difficulty", made_by).recipe
        versions["lengths"] = fingerprint({key: value for key, value in of_model.items() if key != "beta"})
    return Candidates(fingerprint(versions), index.frame.height, versions)


def make_coreset(workspace: Workspace, recipe: str, progress: Progress | None = None) -> Coreset:
    """Select by the recorded spec of `recipe` from the pool of the corpus index, and write everything.

    An order that was made before from the same scores is cut or continued. Raises DselectError naming the recipe: an
    empty pool, a budget the pool cannot fill, missing scores.
    """
    spec = read_spec(workspace, recipe)
    index = read_index(workspace)
    kinds = needs(spec)
    try:
        pool = load_pool(workspace, index, kinds)
        selection = select(pool, spec, progress, lambda key: read_kept(workspace.orders / f"{key}.parquet", key))
    except DselectError as error:
        raise DselectError(f"coreset {recipe}: {error}") from None
    manifest = _manifest(workspace, recipe, spec, index, kinds) | {
        "order": None if selection.kept is None else selection.kept.key
    }
    changed = _changes(workspace, recipe, spec, selection, manifest)
    if changed is not None:
        manifest["changes"] = counted(changed)
    if selection.kept is not None and selection.kept_changed:
        write_kept(selection.kept, workspace.orders / f"{selection.kept.key}.parquet")
    samples = pool_samples(workspace, index)
    write_parquet(
        pl.DataFrame(schema=CHANGES) if changed is None else changed, workspace.coreset(recipe) / "changes.parquet"
    )
    counts = write_coreset(workspace.coreset(recipe), selection, samples, manifest)
    _drop_unused_orders(workspace)
    return Coreset(selection, pool, samples, counts, digest(selection.order["sample_id"]), changed)


def read_manifest(workspace: Workspace, recipe: str) -> dict[str, Any] | None:
    """The manifest of the coreset that stands there; None where none does."""
    try:
        manifest: dict[str, Any] = json.loads((workspace.coreset(recipe) / "manifest.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return manifest


def is_of(manifest: dict[str, Any], spec: CoresetSpec) -> bool:
    """Whether the coreset was made by this recipe, whatever its budget was."""
    return all(manifest.get(key, {}) == value for key, value in _whatever_budget(spec).items())


def _whatever_budget(spec: CoresetSpec) -> dict[str, Any]:
    return {
        "strategy": spec.strategy,
        "seed": spec.seed,
        "options": dict(strategy(spec.strategy).with_options(spec.options).options),
        "selection_revision": REVISION,
    }


def _changes(
    workspace: Workspace, recipe: str, spec: CoresetSpec, selection: Selection, manifest: dict[str, Any]
) -> pl.DataFrame | None:
    """Against the coreset that stands there; None if none does, or if the order it was cut from is lost."""
    before = read_manifest(workspace, recipe)
    if before is None or selection.kept is None:
        return None
    kept = read_kept(workspace.orders / f"{before.get('order')}.parquet", before.get("order") or "")
    if kept is None:
        return None

    def pool(table: pl.DataFrame, order: pl.DataFrame) -> pl.DataFrame:
        ranks = order.select("sample_id", chosen="rank")
        scores = [c for c in table.columns if c not in _OF_ORDER and not c.startswith("state_")]
        return table.select("sample_id", "reason", *scores).join(ranks, on="sample_id", how="left")

    vectors = {kind: made for kind, made in manifest["scores"].items() if kind in ("embeddings", "activations")}
    return changes(
        pool(kept.table, read_parquet(workspace.coreset(recipe) / "order.parquet")),
        pool(selection.kept.table, selection.order),
        same_recipe=is_of(before, spec),
        same_vectors=all(
            before["scores"].get(kind, {}).get("fingerprint") == made["fingerprint"] for kind, made in vectors.items()
        ),
    )


def _drop_unused_orders(workspace: Workspace) -> None:
    """Orders that no coreset was cut from: another process may be about to use one, and then only loses time."""
    used = {(read_manifest(workspace, recipe) or {}).get("order") for recipe in workspace.settings.coresets}
    for file in list(workspace.orders.iterdir()) if workspace.orders.exists() else []:
        if file.suffix == ".parquet" and file.stem not in used:
            file.unlink(missing_ok=True)


def _manifest(
    workspace: Workspace, recipe: str, spec: CoresetSpec, index: Index, kinds: frozenset[str]
) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for kind in sorted(kinds):
        made_by = (
            read_with_metadata(workspace.miwv, [])[1]["fingerprint"] if kind == "miwv" else index.fingerprints[kind][0]
        )
        scores[kind] = {"fingerprint": made_by, "recipe": open_store(workspace, kind, made_by).recipe}
    try:
        model = json.loads((workspace.models / "current.json").read_text())
    except FileNotFoundError:
        model = None  # no score of this recipe comes from a model
    return {
        "recipe": recipe,
        "budget": str(spec.budget),
        **_whatever_budget(spec),
        "dselect_version": __version__,
        "spec_version": spec_version(spec),
        "corpus_version": index.version,
        "sources": index.sources,
        "sources_excluded": index.excluded,
        "scores": scores,
        "model": model,
    }
