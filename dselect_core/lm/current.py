"""The model in force: made by the warm-up or named in the settings, recorded in models/current.json.

One record, so that every scorer of every run opens the same weights, and what a score table says about
its model can be followed to a folder or a hub commit.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from upath import UPath

from dselect_core.config import ModelSpec
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.lm import load
from dselect_core.progress import Progress
from dselect_core.tables import write_text
from dselect_core.workspace import Workspace, local_folder


def prepare(workspace: Workspace, pool: Callable[[], pl.DataFrame], progress: Progress | None = None) -> dict[str, Any]:
    """Make (builtin) or resolve and open (any other) the target model, and record it as the one in force.

    pool: gives the SAMPLES frame the builtin model is tuned on; not called for another model.
    Returns the record: path (the builtin model's is relative to the models' folder), identity, template, window,
    and how it was tuned. Raises DselectError when the path is not a causal language model.
    """
    spec = workspace.settings.model
    record: dict[str, Any] = {}
    if spec.path == "builtin":
        path = f"builtin-{fingerprint(workspace.settings.warmup.model_dump())[:12]}"
        record["warmup"] = _make(workspace.models / path, workspace, pool(), progress)
        model_identity = f"local:{record['warmup'].pop('identity')}"
    else:
        path, model_identity = spec.path, load.identity(spec.path, spec.revision)
    record |= {"path": path, "identity": model_identity}
    lm = _open(path, workspace, model_identity)
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
    place = workspace.models / "current.json"
    try:
        record = json.loads(place.read_text())
    except FileNotFoundError:
        raise DselectError(
            f"{place}: no model yet; materialise `warmup_model` first (`dselect refresh` does)"
        ) from None
    return _open(record["path"], workspace, record["identity"])


def _make(folder: UPath, workspace: Workspace, pool: pl.DataFrame, progress: Progress | None) -> dict[str, Any]:
    import tempfile

    from dselect_core.lm.tune import tune

    with tempfile.TemporaryDirectory() as scratch:
        facts = tune(pool, workspace.settings.warmup, Path(scratch), progress)
        for file in Path(scratch).iterdir():
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        facts["identity"] = load.folder_identity(Path(scratch))
    return facts


def _open(path: str, workspace: Workspace, model_identity: str) -> load.LanguageModel:
    load.quiet_transformers()
    if workspace.settings.model.path == "builtin":
        path = str(local_folder(workspace.models / path, model_identity))
    return _opened(path, workspace.settings.model, model_identity)


@lru_cache(maxsize=1)
def _opened(path: str, spec: ModelSpec, model_identity: str) -> load.LanguageModel:
    # One model in memory: all scorers of a run share it.
    return load.load(path, spec, model_identity)
