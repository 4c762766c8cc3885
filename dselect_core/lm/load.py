"""Identify a causal LM or an encoder, by hub name, local folder or GGUF file, and open a causal LM.

The identity of a local folder or file is its content (hash of weights, config and tokenizer files), that of a hub model
is its commit. So an overwritten folder is another model. Gigabytes are hashed once per change: the hash is kept by the
place, inode, size and times of the files. One of these times is that of the inode's last change, which nobody can set.
So a folder that was moved, copied or touched is hashed again, and no other content passes for the one that was hashed.
"""

import gc
import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upath import UPath

from dselect_core.errors import DamagedFileError, DselectError, first_line
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lm.gguf_file import check_readable, is_gguf, unpacked, with_control_tokens
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.storage import json_file

if TYPE_CHECKING:
    from dselect_core.lm.forward import Forward
    from dselect_core.lm.render import Renderer

_FOLDERS = "folders"  # the key of the cache
_IDENTITY_FILES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")
DEFAULT_WINDOW = 2048
IDENTITIES = Path.home() / ".cache" / "dselect" / "identities.json"
"""Hashes of local model folders by place, inode, size and times of their files, so that gigabytes are hashed once."""

_log = logging.getLogger(__name__)


def folder_identity(folder: Path, cache: Path | None = None) -> str:
    """128-bit hash of a model folder's weights, config and tokenizer, or of a GGUF file, which holds them all.

    A sentence-transformers folder is hashed with its modules' folders (1_Pooling, 2_Dense), of other folders only the
    files directly inside. cache: a JSON file that keeps the hash of each folder as it was hashed last. Where it cannot
    be read or written, the log says so, and the folder is hashed again next time.
    """
    paths = _identity_paths(folder)
    stamp = fingerprint([_stamp(folder, path) for path in paths])
    place = str(folder.resolve())
    hashes = {} if cache is None else _cached_hashes(UPath(cache))
    if hashes.get(place, {}).get("stamp") != stamp:
        fields: list[str | bytes] = []
        for path in paths:
            with path.open("rb") as file:
                fields += [path.relative_to(folder).as_posix(), hashlib.file_digest(file, "blake2b").digest()]
        hashes[place] = {"stamp": stamp, "hash": digest(fields)}
        if cache is not None:
            try:
                json_file.write_json({_FOLDERS: hashes}, UPath(cache))
            except OSError as error:
                _log.warning("%s: cannot be written (%s); %s is hashed again next time", cache, error, folder)
    return hashes[place]["hash"]


def _stamp(folder: Path, path: Path) -> list[str | int]:
    """What of a file moves when it becomes another one."""
    stat = path.stat()
    name = path.relative_to(folder).as_posix()
    return [name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _cached_hashes(cache: UPath) -> dict[str, dict[str, str]]:
    """{folder: {"stamp", "hash"}}; empty where there is no cache of this version."""
    try:
        hashes: dict[str, dict[str, str]] = json_file.read_json(cache).get(_FOLDERS, {})
        return hashes
    except FileNotFoundError:
        return {}
    except (DamagedFileError, OSError) as error:
        _log.warning("%s: cannot be read (%s); models are hashed again", cache, error)
        return {}


def _identity_paths(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    paths = list(folder.iterdir())
    if (folder / "modules.json").exists():
        modules = read_json(folder / "modules.json")
        paths += [path for module in modules if module["path"] for path in (folder / module["path"]).rglob("*")]
    return sorted(path for path in paths if path.is_file() and path.name.endswith(_IDENTITY_FILES))


def identity(path: str, revision: str | None = None, cache: Path | None = None) -> str:
    """Which model this is, as a string: `local:<hash>` of a folder or GGUF file, `hub:<name>@<commit>` of a hub model.

    Raises DselectError when the path is no model, or the hub does not know the name.
    """
    folder = Path(path).expanduser()
    if is_here(path):
        if folder.is_dir():
            _check_folder(folder)
        return f"local:{folder_identity(folder, cache)}"
    if path.startswith((".", "/", "~")):
        raise DselectError(
            f"model {path}: no such folder. Give a folder with config.json and weights, a GGUF file, or a hub name."
        )
    if revision is not None and len(revision) == 40:
        return f"hub:{path}@{revision}"
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return f"hub:{path}@{HfApi().model_info(path, revision=revision).sha}"
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        if isinstance(cached, str):  # …/snapshots/<commit>/config.json
            return f"hub:{path}@{Path(cached).parent.name}"
        raise DselectError(
            f"model {path}: neither a local folder, nor reachable on the hub, nor in the local hub cache "
            f"({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def read_json(path: Path) -> Any:
    """The JSON value of a model's file. Raises DselectError that names the file."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DselectError(f"{path}: not valid JSON: {first_line(error)}") from error


def _check_folder(folder: Path) -> None:
    # A sentence-transformers folder may keep its config.json in the folder of its first module.
    if not any((folder / name).exists() for name in ("config.json", "modules.json")):
        raise DselectError(
            f"model {folder}: this folder is not a Hugging Face model (no config.json). "
            "Point `path` at a folder written by save_pretrained."
        )


@dataclass
class LanguageModel:
    """A loaded model with all that a scorer needs. `identity` names weights, `provenance` all that moves a score.

    spec: as in the settings, with the numeric type that `dtype: auto` means here.
    """

    identity: str
    renderer: "Renderer"
    forward: "Forward"
    spec: ModelSpec

    def with_model(self, model: Any) -> "LanguageModel":
        """The same rendering and settings with other weights, which `identity` does not name."""
        from dselect_core.lm.forward import Forward

        return replace(self, forward=Forward(model.eval()))

    @property
    def window(self) -> int:
        """Tokens that fit into the model, prompt and response together."""
        return self.renderer.window

    @property
    def provenance(self) -> dict[str, Any]:
        """What of the model can change a score: weights, numeric type, window and rendering; not the device."""
        return _provenance(self.identity, self.spec, self.renderer)


def load(path: str, spec: ModelSpec, model_identity: str) -> LanguageModel:
    """Open the model at `path` (folder or hub name) in evaluation mode on the chosen device.

    Raises DselectError naming the path when it is not a causal language model or has no tokenizer, when its tokenizer
    has more tokens than the model, and with the family and the reason when its code does not run here.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from dselect_core.lm.forward import Forward
    from dselect_core.lm.numeric_type import MIXED, mix
    from dselect_core.lm.quantized import check_type
    from dselect_core.lm.render import Renderer

    tokenizer, config = open_tokenizer(path, spec), _config(path, spec)
    if spec.dtype == "auto":
        spec = _settled(spec, config)
    check_type(path, config, spec.dtype)
    placed = placement(config, spec)
    own_type = "auto" if spec.dtype == MIXED else getattr(torch, spec.dtype)
    try:
        model = from_pretrained(AutoModelForCausalLM, path, spec, dtype=own_type, **placed)
    except Exception as error:  # whatever the code of hundreds of families raises
        raise DselectError(f"model {path}: cannot be opened as a causal language model: {described(error)}") from error
    if is_gguf(path):
        model = unpacked(model)
    check_vocabulary(path, tokenizer, model)
    if spec.dtype == MIXED:
        mix(model)
    model.eval()
    try:
        if not placed:
            model.to(device(spec.device))
        forward = Forward(model)
    except DselectError as error:
        raise DselectError(f"model {path} ({family(model)}): {error}") from error
    except Exception as error:
        raise DselectError(
            f"model {path}: models of the family {family(model)} do not run here: {described(error)}. "
            "Choose another model."
        ) from error
    renderer = Renderer(tokenizer, _window(model.config, spec), spec.template, spec.date)
    return LanguageModel(model_identity, renderer, forward, spec)


def provenance_without_weights(path: str, spec: ModelSpec, model_identity: str) -> dict[str, Any]:
    """`LanguageModel.provenance` of the model at `path`, from its config and tokenizer alone.

    Raises DselectError where these cannot be opened. Whether the weights can, only `load` tells.
    """
    from dselect_core.lm.render import Renderer

    tokenizer, config = open_tokenizer(path, spec), _config(path, spec)
    spec = _settled(spec, config)
    return _provenance(model_identity, spec, Renderer(tokenizer, _window(config, spec), spec.template, spec.date))


def _config(path: str, spec: ModelSpec) -> Any:
    from transformers import AutoConfig

    try:
        return from_pretrained(AutoConfig, path, spec)
    except Exception as error:  # whatever the code of hundreds of families raises
        raise DselectError(f"model {path}: cannot be opened as a causal language model: {described(error)}") from error


def _settled(spec: ModelSpec, config: Any) -> ModelSpec:
    """With the numeric type that the settings mean for a checkpoint of this configuration."""
    from dselect_core.lm.numeric_type import chosen

    own = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return spec.model_copy(update={"dtype": chosen(spec, own, device(spec.device))})


def _window(config: Any, spec: ModelSpec) -> int:
    own = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_WINDOW
    return int(min(spec.max_length or own, own))


def _provenance(model_identity: str, spec: ModelSpec, renderer: "Renderer") -> dict[str, Any]:
    return {"model": model_identity, "dtype": spec.dtype, "window": renderer.window, **renderer.provenance}


def from_pretrained(auto_class: Any, path: str, spec: ModelSpec, **options: Any) -> Any:
    """transformers' `from_pretrained` of a hub name, a folder, or a GGUF file, whose weights it unpacks."""
    if is_gguf(path):
        file = Path(path).expanduser()
        return auto_class.from_pretrained(str(file.parent), gguf_file=file.name, **options)
    return auto_class.from_pretrained(path, revision=spec.revision, **options)


def is_here(path: str) -> bool:
    """Whether this is a folder or a GGUF file of this machine, and no hub name."""
    return is_gguf(path) or Path(path).expanduser().is_dir()


def open_tokenizer(path: str, spec: ModelSpec) -> Any:
    """The tokenizer of the model at `path`, without its weights. Raises DselectError when it has none."""
    from transformers import AutoTokenizer

    if is_gguf(path):
        check_readable(path)
    try:
        tokenizer = from_pretrained(AutoTokenizer, path, spec)
    except Exception as error:  # whatever the code of hundreds of families raises
        raise DselectError(f"model {path}: cannot be opened as a causal language model: {described(error)}") from error
    return with_control_tokens(tokenizer, path) if is_gguf(path) else tokenizer


def check_vocabulary(path: str, tokenizer: Any, model: Any) -> None:
    """Raises DselectError when a token's id lies beyond the model's embedding, or beyond its output layer."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    layers = {"embedding": model.get_input_embeddings(), "output layer": model.get_output_embeddings()}
    for name, layer in layers.items():
        rows = None if layer is None else len(layer.weight)
        if rows is not None and tokens and tokens[-1][1] >= rows:
            beyond = [token for token, number in tokens if number >= rows]
            some = ", ".join(map(repr, beyond[:3])) + (", …" if len(beyond) > 3 else "")
            raise DselectError(
                f"model {path}: its tokenizer has {tokens[-1][1] + 1} tokens, its {name} {rows}: {some} would not be "
                "found. Save the model once more after `model.resize_token_embeddings(len(tokenizer))`, or take the "
                "tokenizer that it was tuned with."
            )


def family(model: Any) -> str:
    """The family of a model and its class, for a message."""
    return f"{getattr(model.config, 'model_type', None) or '?'}, {type(model).__name__}"


def described(error: BaseException) -> str:
    """An error of a model's own code in one line, with its class where that says something."""
    line = first_line(error)
    return line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {line}"


def commit_of(model_identity: str) -> str | None:
    """The commit of a hub model by its identity, so that exactly what was identified is opened; None of a folder."""
    return model_identity.rpartition("@")[2] if model_identity.startswith("hub:") else None


def free_memory() -> None:
    """Give back the memory of models that nobody holds any more, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device(name: str) -> str:
    """The torch device that a setting names; `auto` is cuda if there is one, then mps, then cpu."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def placement(config: Any, spec: ModelSpec) -> dict[str, Any]:
    """Options of `from_pretrained` that put weights where they will stay; none where the open model can be moved."""
    from dselect_core.lm.quantized import packing

    stays = spec.device == "balanced" or packing(config) is not None
    return {"device_map": device(spec.device)} if stays else {}


def quiet_transformers() -> None:
    """Keep progress bars and hints of transformers, and of torchao that PEFT loads, out of the logs a person reads."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
