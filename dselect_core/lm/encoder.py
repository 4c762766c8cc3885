"""Sentence encoders: a sample's prompt → one vector, pooled as the encoder's authors pooled it.

The sentence-transformers library opens the encoder and runs it. A plain Hugging Face encoder (no modules.json) reads
the text as it is, without a chat template, and is mean-pooled.

The provenance comes from the encoder's small JSON files: no weights are opened and torch is not imported. The price is
that this file repeats a few of the library's rules. So `encode` sets the window and the pooling that the provenance
names, and a rule that differs cannot make the provenance wrong.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from dselect_core.errors import DselectError, first_line
from dselect_core.lm.load import IDENTITIES, device, identity, quiet_transformers, read_json
from dselect_core.lm.packing import padded_batches
from dselect_core.progress import Progress
from dselect_core.settings.settings import EmbeddingSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Estimated tokens per batch, padding included.
BATCH_TOKENS = 8192
# UTF-8 bytes per token: about 4 in English, 3 in Chinese. An estimate is enough to fill batches.
_BYTES_PER_TOKEN = 3

# The names that sentence-transformers has used for the settings of its first module.
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# The pooling flags of older folders, in the order in which the library concatenates them.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# What a plain encoder reads. Left to itself, the library wraps text into a conversation if there is a chat template.
_TEXT_ONLY: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def encoder_provenance(spec: EmbeddingSpec, model_identity: str) -> dict[str, Any]:
    """What of the encoder moves a vector: weights, window in tokens, pooling; the default prompt and later modules.

    model_identity: `load.identity` of `spec.path`. `window` is None where no file states one, `pooling` where the
    encoder has none. A string that identifies no content (a code location does not ask the network) gives what the
    settings say. Raises DselectError when a file cannot be read.
    """
    if not model_identity.startswith(("local:", "hub:")):
        return {"model": model_identity, "window": spec.max_length, "pooling": spec.pooling}
    files = _Files(spec.path or "", model_identity)
    modules = files.modules()
    window, pooling = _window(files, modules), _pooling(files, modules)
    if spec.max_length is not None and window is not None:
        window = min(window, spec.max_length)
    provenance: dict[str, Any] = {"model": model_identity, "window": window, "pooling": spec.pooling or pooling}
    later_modules = [_class(module) for module in modules[1:] if _class(module) != "Pooling"]
    if later_modules:
        provenance["modules"] = later_modules
    config = files.read("config_sentence_transformers.json") or {} if modules else {}
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name"))
    if prompt:
        provenance["prompt"] = prompt
    return provenance


def encode(
    samples: pl.DataFrame, spec: EmbeddingSpec, progress: Progress | None = None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """SAMPLES frame → batch by batch, sample ids and the vectors of their prompts, float32 [batch, d].

    The prompt is the text of all turns before the first answer. Long prompts come first, so that memory peaks at the
    start. Raises DselectError when the encoder cannot be opened.
    """
    assert spec.path is not None
    encoder = _open(spec, identity(spec.path, spec.revision, IDENTITIES))
    sample_ids = samples["sample_id"].to_list()
    prompts = [_prompt(messages) for messages in samples["messages"].to_list()]
    window = encoder.max_seq_length or np.inf
    lengths = [int(min(window, len(prompt.encode()) // _BYTES_PER_TOKEN + 1)) for prompt in prompts]
    encoded_count = 0
    for positions in padded_batches(lengths, BATCH_TOKENS):
        vectors = encoder.encode([prompts[i] for i in positions], batch_size=len(positions), show_progress_bar=False)
        yield [sample_ids[i] for i in positions], np.asarray(vectors, dtype=np.float32)
        encoded_count += len(positions)
        if progress is not None:
            progress(encoded_count, len(sample_ids))


def _prompt(messages: list[dict[str, str]]) -> str:
    first_answer = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return "\n\n".join(message["content"] for message in messages[:first_answer])


@lru_cache(maxsize=1)
def _open(spec: EmbeddingSpec, model_identity: str) -> "SentenceTransformer":
    quiet_transformers()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    files = _Files(spec.path or "", model_identity)
    provenance = encoder_provenance(spec, model_identity)
    try:
        if files.modules():
            encoder = SentenceTransformer(files.path, revision=files.commit, device=device("auto"))
        else:
            revision = {"revision": files.commit}
            body = Transformer(
                files.path,
                model_kwargs=revision,
                processor_kwargs=revision,
                config_kwargs=revision,
                modality_config=_TEXT_ONLY,
                module_output_name="token_embeddings",
            )
            dimension = body.get_embedding_dimension()
            encoder = SentenceTransformer(modules=[body, Pooling(dimension)], device=device("auto"))
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise DselectError(f"encoder {spec.path}: cannot be opened: {first_line(error)}") from error
    if spec.pooling is not None:
        at, own = next(((i, m) for i, m in enumerate(encoder) if isinstance(m, Pooling)), (0, None))
        if own is None:
            raise DselectError(f"encoder {spec.path}: it has no pooling module, so remove `pooling` under `embeddings`")
        encoder[at] = Pooling(own.embedding_dimension, spec.pooling, own.include_prompt)
    if provenance["window"] is not None:
        encoder.max_seq_length = provenance["window"]
    return encoder


class _Files:
    """The JSON files of an encoder: in a local folder, or in the hub at one commit (kept in the hub's cache)."""

    def __init__(self, path: str, model_identity: str):
        folder = Path(path).expanduser()
        self.folder = folder if folder.is_dir() else None
        self.path = path if self.folder is None else str(self.folder)
        self.commit = None if self.folder else model_identity.rpartition("@")[2]

    def modules(self) -> list[dict[str, str]]:
        """The modules that run one after the other, as modules.json lists them; none of a plain encoder."""
        return self.read("modules.json") or []

    def read(self, name: str) -> Any:
        """The JSON value of a file; None where the encoder has no such file."""
        if self.folder is not None:
            file = self.folder / name
            return read_json(file) if file.exists() else None
        from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

        cached = try_to_load_from_cache(self.path, name, revision=self.commit)
        if cached is _CACHED_NO_EXIST:
            return None
        try:
            place = cached if isinstance(cached, str) else hf_hub_download(self.path, name, revision=self.commit)
        except RemoteEntryNotFoundError:
            return None
        except (HfHubHTTPError, OSError) as error:
            raise DselectError(
                f"encoder {self.path}: {name} is not in the local hub cache, and the hub cannot be reached. "
                f"Fetch the encoder once with `hf download {self.path}`."
            ) from error
        return read_json(Path(place))


def _class(module: dict[str, str]) -> str:
    """`Pooling`, of whatever package: the library has moved its classes, and folders name the old places."""
    return module["type"].rpartition(".")[2]


def _window(files: _Files, modules: list[dict[str, str]]) -> int | None:
    """The encoder's own window in tokens: its max_seq_length, else the least that tokenizer and model take."""
    folder = ""
    if modules:
        if _class(modules[0]) != "Transformer":
            return None
        folder = f"{modules[0]['path']}/" if modules[0]["path"] else ""
        for name in _TRANSFORMER_CONFIGS:
            config = files.read(folder + name)
            if config:
                if config.get("max_seq_length") is not None:
                    return int(config["max_seq_length"])
                break
    tokenizer, model = (files.read(folder + name) or {} for name in ("tokenizer_config.json", "config.json"))
    lengths = [tokenizer.get("model_max_length"), model.get("max_position_embeddings")]
    # transformers writes 1e30 for a tokenizer without a limit, and XLNet -1 for a model without one.
    stated = [int(length) for length in lengths if length is not None and 0 < length < 1e9]
    return min(stated, default=None)


def _pooling(files: _Files, modules: list[dict[str, str]]) -> str | None:
    """The encoder's own pooling, several joined by `+`; mean of a plain encoder; None without a pooling module."""
    if not modules:
        return "mean"
    folder = next((module["path"] for module in modules if _class(module) == "Pooling"), None)
    if folder is None:
        return None
    config = files.read(f"{folder}/config.json") or {}
    modes = config.get("pooling_mode") or [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    return modes if isinstance(modes, str) else "+".join(modes) or "mean"
