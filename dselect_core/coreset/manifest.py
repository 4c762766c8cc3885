"""The manifest of a coreset: the recipe, the pool, the scores with their provenance, and the model that made it.

Who finds it finds the whole coreset (published.py).
"""

from typing import Any

from dselect_core.coreset.published import MANIFEST
from dselect_core.coreset.spec import spec_version
from dselect_core.errors import DselectError
from dselect_core.kinds import kind_of
from dselect_core.lm.target_model import read_record
from dselect_core.pool.corpus_index import Index
from dselect_core.pool.near_duplicates import read_near_duplicates
from dselect_core.pool.pool_tables import fingerprint_of_pool, store_of_pool
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.strategies import strategy_with_options
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.json_file import read_json
from dselect_core.version import __version__

REVISION = 2
"""Goes up when the same recipe over the same scores makes another coreset, or other files."""


TAKEN_OUT = "it was taken out of the settings"
"""Why a source left the pool. Like OTHER_ROLE, it is no fault."""

OTHER_ROLE = "it is not chosen from any more (`role`)"

_IN_ROUNDS = "in_rounds"  # key of the manifest, where the recipe has rounds

NO_FAULTS = frozenset({TAKEN_OUT, OTHER_ROLE})


def read_manifest(workspace: Workspace, recipe: str) -> dict[str, Any] | None:
    """The manifest of the coreset that was made last; None where none was. Raises DamagedFileError."""
    try:
        return read_json(workspace.coreset(recipe) / MANIFEST)
    except FileNotFoundError:
        return None


def readable_manifest(workspace: Workspace, recipe: str) -> dict[str, Any] | None:
    """The manifest of the coreset that was made last; None also where it cannot be read: then it is lost."""
    try:
        return read_manifest(workspace, recipe)
    except DselectError:
        return None


def sources_left(workspace: Workspace, recipe: str, index: Index) -> dict[str, str]:
    """{source: why} of the sources that the recipe's last coreset was chosen from and this pool does not hold.

    What had left before by a fault is named until it is back. Empty where there is no last coreset.
    """
    last_manifest = readable_manifest(workspace, recipe) or {"sources": {}}
    missed = [source for source, why in last_manifest.get("sources_left", {}).items() if why not in NO_FAULTS]
    left = {*last_manifest["sources"], *missed} - set(index.sources)
    return {source: _why_left(workspace, source, index) for source in sorted(left)}


def _why_left(workspace: Workspace, source: str, index: Index) -> str:
    if source not in workspace.settings.sources:
        return TAKEN_OUT
    if workspace.settings.role_of(source) != "train":
        return OTHER_ROLE
    return index.excluded.get(source, "it has no rows any more")


def is_of(manifest: dict[str, Any], spec: CoresetSpec) -> bool:
    """Whether the coreset was made by this recipe, whatever its budget was."""
    identity = order_identity(spec)
    return all(manifest.get(key, {}) == identity.get(key, {}) for key in {*identity, *_WHERE_GIVEN})


_WHERE_GIVEN = ("min_response_tokens", "quota", "balance", "grade", _IN_ROUNDS)
"""Keys of a recipe that its identity holds only where the recipe gives them: older manifests have none of them."""


def order_identity(spec: CoresetSpec) -> dict[str, Any]:
    """All of a recipe but its budget: recipes that are equal here cut one order, given the same scores."""
    values = spec.model_dump(mode="json", include=set(_WHERE_GIVEN), exclude_none=True)
    given = {key: value for key, value in values.items() if value != {}}
    return {
        "strategy": spec.strategy,
        "seed": spec.seed,
        "options": strategy_with_options(spec.strategy, spec.options).option_values,
        "selection_revision": REVISION,
        **given,
        **({_IN_ROUNDS: spec.model_dump(mode="json", include={"rounds", "warmup"})} if spec.has_rounds else {}),
    }


def make_manifest(
    workspace: Workspace, recipe: str, spec: CoresetSpec, index: Index, kinds: frozenset[str]
) -> dict[str, Any]:
    """The manifest as JSON values, without what only the selection knows: the order's key, counts, changes.

    kinds: of the scores that the recipe reads.
    """
    scores: dict[str, Any] = {}
    for kind in sorted(kinds):
        fingerprint = fingerprint_of_pool(workspace, index, kind_of(kind))
        made_by = store_of_pool(workspace, index, kind) if kind in index.stores else None
        made_by = made_by or workspace.open_store(kind, fingerprint)
        scores[kind] = {"fingerprint": fingerprint, "provenance": made_by.provenance}
    try:
        model = read_record(workspace)
    except DselectError:
        model = None  # no score of this recipe comes from a model
    held_out = {
        "version": index.held_out.version,
        "rows": index.held_out.rows.height,
        "sources": index.held_out.by_source,
    }
    near_duplicates = read_near_duplicates(workspace)
    return {
        "recipe": recipe,
        "budget": str(spec.budget),
        **order_identity(spec),
        "dselect_version": __version__,
        "spec_version": spec_version(spec),
        "corpus_version": index.version,
        "sources": index.sources,
        "sources_excluded": index.excluded,
        **({"held_out": held_out} if index.held_out.rows.height else {}),
        **({} if near_duplicates.version is None else {"near_duplicates": near_duplicates.record(workspace.settings)}),
        "scores": scores,
        "model": model,
    }
