"""The model in force: made by the warm-up or named in the settings, recorded in models/current.json.

One record, so that every scorer of every run opens the same weights, and what a score table says about
its model can be followed to a folder or a hub commit.
"""

import contextlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from upath import UPath

from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lm import load
from dselect_core.progress import Progress
from dselect_core.settings.settings import ModelSpec
from dselect_core.settings.workspace import Workspace, local_folder
from dselect_core.storage.files import write_bytes, write_text


def prepare(workspace: Workspace, pool: Callable[[], pl.DataFrame], progress: Progress | None = None) -> dict[str, Any]:
    """Make (builtin) or resolve and open (any other) the target model, and record it as the one in force.

    pool: gives the SAMPLES frame the builtin model is tuned on; not called for another model.
    Returns the record: path (the builtin model's is relative to the models' folder), identity, template, window,
    and how it was tuned. Raises DselectError when the path is not a causal language model.
    """
    spec = workspace.settings.model
    if spec.path == "builtin":
        record = _make(workspace, pool(), progress)
    else:
        record = {"path": spec.path, "identity": load.identity(spec.path, spec.revision)}
    path, model_identity = record["path"], record["identity"]
    lm = _open(path, workspace, model_identity)
    _remember(workspace, model_identity, lm.recipe)
    record |= {
        "window": lm.window,
        "template": lm.renderer.template_name,
        "template_is_fallback": lm.renderer.uses_fallback,
        "parameters": sum(p.numel() for p in lm.forward.model.parameters()),
        "vocabulary": lm.forward.vocabulary,
        "recipe": lm.recipe,
    }
    write_text(json.dumps(record, indent=2), workspace.models / "current.json")
    return record


def current(workspace: Workspace) -> load.LanguageModel:
    """The model in force, opened once per process. Raises DselectError when the warm-up has not run."""
    record = read_record(workspace)
    return _open(record["path"], workspace, record["identity"])


def recipe(workspace: Workspace) -> dict[str, Any]:
    """`LanguageModel.recipe` of the model in force, without opening it once it has been.

    Raises DselectError when the warm-up has not run.
    """
    model_identity = read_record(workspace)["identity"]
    known = known_recipe(workspace, model_identity)
    if known is None:
        known = current(workspace).recipe
        _remember(workspace, model_identity, known)
    return known


def known_recipe(workspace: Workspace, model_identity: str) -> dict[str, Any] | None:
    """The recipe of a model under the settings in force, if it was ever opened with these."""
    try:
        known: dict[str, Any] = json.loads(_recipe_path(workspace, model_identity).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return known


def _remember(workspace: Workspace, model_identity: str, model_recipe: dict[str, Any]) -> None:
    write_text(json.dumps(model_recipe), _recipe_path(workspace, model_identity))


def _recipe_path(workspace: Workspace, model_identity: str) -> UPath:
    # Beside the weights, what a recipe follows from; opening the model only finds it out.
    rendering = workspace.settings.model.model_dump(include={"dtype", "max_length", "template"})
    return workspace.models / "recipes" / f"{fingerprint([model_identity, rendering])}.json"


def read_record(workspace: Workspace) -> dict[str, Any]:
    """models/current.json. Raises DselectError when the warm-up has not run."""
    place = workspace.models / "current.json"
    try:
        record: dict[str, Any] = json.loads(place.read_text())
    except FileNotFoundError:
        raise DselectError(
            f"{place}: no model yet; materialise `warmup_model` first (`dselect refresh` does)"
        ) from None
    return record


def _make(workspace: Workspace, pool: pl.DataFrame, progress: Progress | None) -> dict[str, Any]:
    """Tune the builtin model, or take the one in force when it was made by these settings from this very pool."""
    import tempfile

    from dselect_core.lm.builtin_model import REVISION, tune

    made_from = fingerprint([REVISION, workspace.settings.warmup.model_dump(), digest(pool["sample_id"])])
    with contextlib.suppress(DselectError):
        record = read_record(workspace)
        if record.get("made_from") == made_from:
            return {key: record[key] for key in ("path", "identity", "made_from", "warmup")}
    with tempfile.TemporaryDirectory() as scratch:
        facts = tune(pool, workspace.settings.warmup, Path(scratch), progress)
        model_identity = load.folder_identity(Path(scratch))
        # Named by its content: another refresh that makes one at the same time writes the same files, or others.
        path = f"builtin-{model_identity}"
        for file in Path(scratch).iterdir():
            write_bytes(file.read_bytes(), workspace.models / path / file.name)
    return {"path": path, "identity": f"local:{model_identity}", "made_from": made_from, "warmup": facts}


def _open(path: str, workspace: Workspace, model_identity: str) -> load.LanguageModel:
    load.quiet_transformers()
    if workspace.settings.model.path == "builtin":
        path = str(local_folder(workspace.models / path, model_identity))
    return _opened(path, workspace.settings.model, model_identity)


@lru_cache(maxsize=1)
def _opened(path: str, spec: ModelSpec, model_identity: str) -> load.LanguageModel:
    # One model in memory: all scorers of a run share it.
    return load.load(path, spec, model_identity)
