"""The target model of a workspace: made by the warm-up or named in the settings, recorded in models/current.json.

All scorers of all runs open the weights that this one record names. Models are also known by their provenance: it is
kept under models/provenance/, so that a plan can name the scores of a model without opening it. The numeric type that
`dtype: auto` meant when a model was opened for the first time is part of it, and holds on every machine from then on.
"""

import contextlib
import logging
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from upath import UPath

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lm import load, resident
from dselect_core.lm.render import RENDERING, Renderer
from dselect_core.progress import Progress
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import is_local, write_bytes
from dselect_core.storage.json_file import read_json, write_json

_log = logging.getLogger(__name__)


def make_target_model(
    workspace: Workspace, pool: Callable[[], pl.DataFrame], progress: Progress | None = None
) -> dict[str, Any]:
    """Tune the builtin model, or find and open the one that the settings name; write models/current.json.

    pool: gives the SAMPLES frame that the builtin model is tuned on; not called for another model.
    Returns the record: path (the builtin model's is relative to the models' folder), identity, provenance, template,
    window in tokens, parameters, vocabulary, what it cannot give and why, the number of its layers, and how it was
    tuned. Raises DselectError when the path is not a causal language model.
    """
    spec = workspace.settings.model
    if spec.path == "builtin":
        record = _tuned(workspace, pool(), progress)
    else:
        record = {"path": spec.path, "identity": load.identity(spec.path, spec.revision)}
    model_identity = record["identity"]
    lm = _open(workspace, record["path"], model_identity)
    _save_provenance(workspace, model_identity, lm.provenance)
    record |= {
        "rendering": _rendering(workspace),
        "window": lm.window,
        "template": lm.renderer.template.name,
        "template_is_fallback": lm.renderer.template.uses_fallback,
        "parameters": sum(p.numel() for p in lm.forward.model.parameters()),
        "vocabulary": lm.forward.vocabulary,
        "cannot": lm.forward.cannot,
        "neuron_layers": len(lm.forward.layers),
        "provenance": lm.provenance,
    }
    write_json(record, workspace.models / "current.json")
    return record


def open_target_model(workspace: Workspace) -> load.LanguageModel:
    """The model that models/current.json names, opened once per process.

    Raises DselectError when the warm-up has not run.
    """
    record = read_record(workspace)
    return _open(workspace, record["path"], record["identity"])


def check_recorded(workspace: Workspace) -> str | None:
    """The commit of the model that the record names, where it is one of the hub. For workers on other machines.

    Raises DselectError where this machine does not see the record, or has another model at the path of a folder.
    """
    record_path = workspace.models / "current.json"
    if not record_path.exists():
        raise DselectError(
            f"{record_path}: a worker on {platform.node()} does not see it. Workers write to the storage of the run: "
            "mount it on their machines at the same path, or put it into an object store."
        )
    record = read_record(workspace)
    if workspace.settings.model.path == "builtin":
        return None
    if (commit := load.commit_of(record["identity"])) is None and (
        load.identity(record["path"], cache=load.IDENTITIES) != record["identity"]
    ):
        raise DselectError(
            f"model {record['path']}: on {platform.node()} it is another one than the run's. Copy the run's there."
        )
    return commit


def settled_spec(workspace: Workspace, model_identity: str) -> ModelSpec:
    """The model's settings, with the numeric type that `dtype: auto` was found to mean, if it was opened before."""
    spec = workspace.settings.model
    known = known_provenance(workspace, model_identity) if spec.dtype == "auto" else None
    return spec if known is None else spec.model_copy(update={"dtype": known["dtype"]})


def provenance(workspace: Workspace) -> dict[str, Any]:
    """`LanguageModel.provenance` of the target model. It opens the model only if no process has opened it before.

    Raises DselectError when the warm-up has not run.
    """
    model_identity = read_record(workspace)["identity"]
    known = known_provenance(workspace, model_identity)
    current = known if known is not None else open_target_model(workspace).provenance
    if _read_provenance(_provenance_path(workspace, model_identity)) != current:
        _save_provenance(workspace, model_identity, current)
    return current


def known_provenance(workspace: Workspace, model_identity: str) -> dict[str, Any] | None:
    """The provenance of a model under the present settings; None if it was never opened with them. Writes nothing.

    A damaged record is named in the log and counts as none: whoever opens the model writes it again.
    """
    with contextlib.suppress(DselectError):
        record = read_record(workspace)
        if (record.get("identity"), record.get("rendering")) == (model_identity, _rendering(workspace)):
            of_record: dict[str, Any] = record["provenance"]
            return of_record
    for settings in _type_settings(workspace):
        saved = _read_provenance(_provenance_path(workspace, model_identity, settings))
        if saved is not None:
            return saved
    opened_before = _provenance_of_0_2(workspace, model_identity)
    if opened_before is None:
        return None
    # What the rendering of today makes of the model's template is told by its tokenizer, without the weights.
    try:
        tokenizer = load.open_tokenizer(_path_of(workspace, model_identity), workspace.settings.model)
    except DselectError:
        return None
    spec = workspace.settings.model
    return opened_before | Renderer(tokenizer, opened_before["window"], spec.template, spec.date).provenance


def _provenance_of_0_2(workspace: Workspace, model_identity: str) -> dict[str, Any] | None:
    """The provenance that version 0.1 or 0.2 saved when it opened the model under the present settings."""
    dtype = _type_settings(workspace)[-1]
    rendering = {"dtype": dtype, **workspace.settings.model.model_dump(include={"max_length", "template"})}
    name = f"{fingerprint([model_identity, rendering])}.json"
    for folder in ("provenance", "recipes"):
        saved = _read_provenance(workspace.models / folder / name)
        if saved is not None:
            return saved
    return None


def _read_provenance(path: UPath) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        _log.warning("%s", error)
        return None


def _path_of(workspace: Workspace, model_identity: str) -> str:
    """Where a model of the settings can be opened: a path or a hub name."""
    if workspace.settings.model.path != "builtin":
        return workspace.settings.model.path
    folder = workspace.models / _builtin_folder(model_identity)
    return str(_local_folder(folder, model_identity)) if folder.exists() else str(folder)


def model_place(workspace: Workspace) -> tuple[str, str]:
    """(path or hub name where the target model can be opened, its identity).

    Raises DselectError when the warm-up has not run, or the builtin model's files are gone.
    """
    record = read_record(workspace)
    if workspace.settings.model.path != "builtin":
        return record["path"], record["identity"]
    check_builtin(workspace, record)
    return str(_local_folder(workspace.models / record["path"], record["identity"])), record["identity"]


def _save_provenance(workspace: Workspace, model_identity: str, model_provenance: dict[str, Any]) -> None:
    write_json(model_provenance, _provenance_path(workspace, model_identity))


def _type_settings(workspace: Workspace) -> list[str]:
    """The settings of the numeric type that a provenance may be saved under.

    `auto` goes on with float32, the default of version 0.2, where the model was opened in it: its scores stay.
    """
    dtype = workspace.settings.model.dtype
    return [dtype, "float32"] if dtype == "auto" else [dtype]


def _provenance_path(workspace: Workspace, model_identity: str, dtype: str | None = None) -> UPath:
    return workspace.models / "provenance" / f"{fingerprint([model_identity, *_rendering(workspace, dtype)])}.json"


def _rendering(workspace: Workspace, dtype: str | None = None) -> list[Any]:
    """What a provenance follows from, beside the weights. Which it is, only the opened model tells."""
    settings = workspace.settings.model.model_dump(mode="json", include={"dtype", "max_length", "template", "date"})
    return [settings if dtype is None else settings | {"dtype": dtype}, RENDERING]


def read_record(workspace: Workspace) -> dict[str, Any]:
    """models/current.json as `make_target_model` returned it.

    Raises DselectError when the warm-up has not run, DamagedFileError when the record is not what it wrote.
    """
    path = workspace.models / "current.json"
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise DselectError(f"{path}: no model yet; materialise `warmup_model` first (`dselect refresh` does)") from None
    if "recipe" in record:  # version 0.1
        record["provenance"] = record.pop("recipe")
    if not {"path", "identity", "provenance"} <= record.keys():
        raise DamagedFileError(path, "it does not name a model")
    return record


def _tuned(workspace: Workspace, pool: pl.DataFrame, progress: Progress | None) -> dict[str, Any]:
    """Tune the builtin model; reuse the recorded one if the same settings made it from the same pool."""
    from dselect_core.lm.builtin_model import tune

    made_from = builtin_made_from(workspace, pool["sample_id"])
    with contextlib.suppress(DselectError):
        record = read_record(workspace)
        if record.get("made_from") == made_from:
            check_builtin(workspace, record)
            return {key: record[key] for key in ("path", "identity", "made_from", "warmup", "files") if key in record}
    with tempfile.TemporaryDirectory() as scratch:
        facts = tune(pool, workspace.settings.warmup, Path(scratch), progress)
        model_identity = f"local:{load.folder_identity(Path(scratch))}"
        # Named by its content: two refreshes at once write the same files, or different folders.
        path = _builtin_folder(model_identity)
        for file in Path(scratch).iterdir():
            write_bytes(file.read_bytes(), workspace.models / path / file.name)
        files = sorted(file.name for file in Path(scratch).iterdir())
    return {
        "path": path,
        "identity": model_identity,
        "made_from": made_from,
        "warmup": facts,
        "files": files,
    }


def builtin_made_from(workspace: Workspace, sample_ids: pl.Series) -> str:
    """Hash of all that the builtin model is made from: its code, the settings, and the pool's samples, ascending."""
    from dselect_core.lm.builtin_model import REVISION

    return fingerprint([REVISION, workspace.settings.warmup.model_dump(), digest(sample_ids)])


def builtin_files(workspace: Workspace, record: dict[str, Any]) -> list[UPath]:
    """The files of the model that was tuned here, by its record; none where the model is another one."""
    if workspace.settings.model.path != "builtin" or "made_from" not in record:
        return []
    # Version 0.2 did not record the names.
    names = record.get("files", ["config.json", "model.safetensors", "tokenizer.json"])
    return [workspace.models / record["path"] / name for name in names]


def check_builtin(workspace: Workspace, record: dict[str, Any]) -> None:
    """Raises DselectError where the files of the model that was tuned here are not those that were written."""
    folder = workspace.models / record["path"]
    if not all(path.exists() for path in builtin_files(workspace, record)):
        raise DselectError(f"{folder}: files of the builtin model are gone")
    with _local_copy(folder) as local:
        found = f"local:{load.folder_identity(local)}"
    if found != record["identity"]:
        raise DselectError(f"{folder}: altered: its files are not those of model {record['identity']}")


def _builtin_folder(model_identity: str) -> str:
    return f"builtin-{model_identity.removeprefix('local:')}"


def _open(workspace: Workspace, path: str, model_identity: str) -> load.LanguageModel:
    load.quiet_transformers()
    if workspace.settings.model.path == "builtin":
        path = str(_local_folder(workspace.models / path, model_identity))
    spec = settled_spec(workspace, model_identity)
    # One model in memory: all scorers of a run share it.
    return resident.hold(("target", path, spec, model_identity), lambda: load.load(path, spec, model_identity))


@contextlib.contextmanager
def _local_copy(folder: UPath) -> Iterator[Path]:
    """A local path of a folder in the storage as it is now: itself, or a copy for as long as it is needed."""
    if is_local(folder):
        yield Path(folder.path)
        return
    with tempfile.TemporaryDirectory(prefix="dselect-model-") as scratch:
        for file in folder.iterdir():
            (Path(scratch) / file.name).write_bytes(file.read_bytes())
        yield Path(scratch)


_fetched_folders: dict[tuple[str, str], Path] = {}


def _local_folder(folder: UPath, model_identity: str) -> Path:
    """A local path of a folder in the storage: itself, or a copy fetched once per process and identity."""
    if folder.protocol in ("", "file", "local"):
        return Path(folder.path)
    key = (str(folder), model_identity)
    if key not in _fetched_folders:
        target = Path(tempfile.mkdtemp(prefix="dselect-model-"))
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        _fetched_folders[key] = target
    return _fetched_folders[key]
