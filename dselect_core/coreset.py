"""Make one coreset: read the pool, select, write the files and the manifest, and say what changed since the last."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core import __version__
from dselect_core.config import CoresetSpec
from dselect_core.errors import DselectError
from dselect_core.export import write_coreset
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.index import Index, load_pool, needed_kinds, pool_samples, read_index
from dselect_core.progress import Progress
from dselect_core.select.pool import Pool
from dselect_core.select.select import Selection, needs, select
from dselect_core.tables import read_metadata, read_parquet, write_text
from dselect_core.workspace import Workspace

REVISION = 1


@dataclass(frozen=True)
class Coreset:
    """A made coreset. entered, left, kept: rows against the coreset that stood there before; None if none did."""

    selection: Selection
    pool: Pool
    samples: pl.DataFrame
    counts: dict[str, int]
    version: str
    entered: int | None
    left: int | None
    kept: int | None


def write_spec(workspace: Workspace, recipe: str) -> tuple[CoresetSpec, str]:
    """Record a recipe as the settings have it; returns it and its version, the hash of its canonical JSON.

    Raises DselectError when the settings have no such recipe.
    """
    spec = workspace.settings.coresets.get(recipe)
    if spec is None:
        raise DselectError(
            f"no recipe {recipe!r} under `coresets`; there are: {', '.join(workspace.settings.coresets)}"
        )
    write_text(json.dumps(spec.model_dump(mode="json"), indent=2), workspace.spec(recipe))
    return spec, spec_version(spec)


def spec_version(spec: CoresetSpec) -> str:
    return fingerprint(spec.model_dump(mode="json"))


def make_coreset(workspace: Workspace, recipe: str, progress: Progress | None = None) -> Coreset:
    """Select by the recorded spec of `recipe` from the pool of the corpus index, and write everything.

    Raises DselectError naming the recipe: an empty pool, a budget the pool cannot fill, missing scores.
    """
    spec = CoresetSpec.model_validate_json(workspace.spec(recipe).read_text())
    index = read_index(workspace)
    # Beside what the strategy needs, the difficulty where it is there: for token counts and the reader.
    kinds = needs(spec) | (needed_kinds(workspace.settings) & {"difficulty"})
    try:
        pool = load_pool(workspace, index, kinds)
        selection = select(pool, spec, progress)
    except DselectError as error:
        raise DselectError(f"coreset {recipe}: {error}") from None
    before = _previous(workspace, recipe)
    samples = pool_samples(workspace, index)
    counts = write_coreset(
        workspace.coreset(recipe), selection, samples, _manifest(workspace, recipe, spec, index, kinds)
    )
    chosen = set(selection.order["sample_id"])
    return Coreset(
        selection,
        pool,
        samples,
        counts,
        digest(selection.order["sample_id"]),
        entered=None if before is None else len(chosen - before),
        left=None if before is None else len(before - chosen),
        kept=None if before is None else len(chosen & before),
    )


def _previous(workspace: Workspace, recipe: str) -> set[str] | None:
    try:
        return set(read_parquet(workspace.coreset(recipe) / "order.parquet")["sample_id"])
    except FileNotFoundError:
        return None


def _manifest(
    workspace: Workspace, recipe: str, spec: CoresetSpec, index: Index, kinds: frozenset[str]
) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for kind in sorted(kinds):
        path = workspace.miwv if kind == "miwv" else workspace.scores(kind, next(iter(index.sources)))
        metadata = read_metadata(path)
        scores[kind] = {"fingerprint": metadata["fingerprint"], "recipe": json.loads(metadata["recipe"])}
    try:
        model = json.loads((workspace.models / "current.json").read_text())
    except FileNotFoundError:
        model = None  # no score of this recipe comes from a model
    return {
        "recipe": recipe,
        "strategy": spec.strategy,
        "budget": str(spec.budget),
        "seed": spec.seed,
        "dselect_version": __version__,
        "selection_revision": REVISION,
        "spec_version": spec_version(spec),
        "corpus_version": index.version,
        "sources": index.sources,
        "sources_excluded": index.excluded,
        "scores": scores,
        "model": model,
    }
