"""The kinds of score: for each the recipe that the settings ask for, and its store.

Nothing here opens a model: what of it moves a score was recorded when it was made (lm/current.py).
"""

from typing import Any

from dselect_core.fingerprint import fingerprint
from dselect_core.graders import grades as dependability
from dselect_core.lm import target_model as current
from dselect_core.lm.load import IDENTITIES, identity
from dselect_core.scores import activations, difficulty, embeddings, miwv
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.score_store import Store

BY_SOURCE = ("difficulty", "embeddings", "prompts", "activations", "grades")
"""Kinds that are made source by source; `miwv` is made over the pool."""

# A grade that failed may succeed tomorrow; a null of any other kind is what the model says.
_RETRY = {"grades": "grade"}
_KEYS = {"miwv": ("sample_id", "shot_id")}
# Fixed-width rows, kept in array files.
_ARRAYS = {"embeddings": "embedding", "prompts": "prompt_embedding", "activations": "neurons"}


def recipe_of(workspace: Workspace, kind: str, model: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that can change a value of this kind, by the settings in force; `model`: that of another than the one now.

    Raises DselectError when there is no model yet, or what the recipe names cannot be read.
    """
    settings = workspace.settings
    if kind == "grades":
        return dependability.recipe(settings.grader)
    if not needs_model(workspace, kind):
        encoder = settings.embeddings
        return embeddings.encoder_recipe(identity(encoder.path or "", encoder.revision, IDENTITIES), encoder)
    model = model or current.recipe(workspace)
    if kind == "difficulty":
        return difficulty.recipe(model, settings.difficulty)
    if kind == "activations":
        return activations.recipe(model, settings.activations)
    return {"embeddings": embeddings.recipe, "prompts": embeddings.prompt_recipe, "miwv": miwv.recipe}[kind](model)


def needs_model(workspace: Workspace, kind: str) -> bool:
    """Whether the kind's recipe names the target model."""
    return kind != "grades" and not (kind == "prompts" and workspace.settings.embeddings.path is not None)


def store_of(workspace: Workspace, kind: str) -> Store:
    """The store of a kind under the recipe that the settings ask for, its recipe written beside it."""
    recipe = recipe_of(workspace, kind)
    store = open_store(workspace, kind, fingerprint(recipe))
    store.describe(recipe)
    return store


def open_store(workspace: Workspace, kind: str, recipe_fingerprint: str) -> Store:
    keys, folder = _KEYS.get(kind, ("sample_id",)), workspace.store(kind, recipe_fingerprint)
    return Store(folder, keys, _RETRY.get(kind), _ARRAYS.get(kind))
