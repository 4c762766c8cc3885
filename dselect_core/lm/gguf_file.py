"""A model in one file of llama.cpp's format, which transformers opens and unpacks to ordinary weights.

What transformers leaves open is done here: control tokens (`<|im_start|>`) that the file names are one token each, in
whatever family; else a chat template would be cut into letters, and every score garbled in silence. And the model no
longer passes for a quantised one, which can be neither moved nor tuned.
"""

import importlib.util
from pathlib import Path
from typing import Any

from dselect_core.errors import DselectError

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types that stand for themselves in a text


def is_gguf(path: str) -> bool:
    """Whether this is a GGUF file of this machine."""
    return path.endswith(".gguf") and Path(path).expanduser().is_file()


def check_readable(path: str) -> None:
    """Raises DselectError where the package that reads the file is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise DselectError(f"model {path}: a GGUF file is read by the package gguf: pip install 'dselect[gguf]'")


def with_control_tokens(tokenizer: Any, path: str) -> Any:
    """The tokenizer with each control token of the file as one token. Raises DselectError where it cannot be."""
    from gguf import GGUFReader
    from tokenizers import AddedToken

    fields = GGUFReader(Path(path).expanduser()).fields
    types, tokens = fields.get("tokenizer.ggml.token_type"), fields["tokenizer.ggml.tokens"].contents()
    if types is None:
        return tokenizer
    control = {tokens[at]: at for at, kind in enumerate(types.contents()) if kind in (_CONTROL, _USER_DEFINED)}

    def cut() -> list[str]:
        return [token for token, at in control.items() if tokenizer.encode(token, add_special_tokens=False) != [at]]

    if lacking := cut():
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in lacking])
        if lacking := cut():
            some = ", ".join(map(repr, lacking[:3]))
            raise DselectError(
                f"model {path}: its tokenizer, as transformers reads it, cuts up {len(lacking)} control tokens ({some})"
                ". Name the folder or hub name that the file was made from."
            )
    return tokenizer


def unpacked(model: Any) -> Any:
    """The model as an ordinary one, which its weights are by now."""
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    return model
