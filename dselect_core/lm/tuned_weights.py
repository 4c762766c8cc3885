"""Tuned weights on disk: LoRA matrices alone where there are some (megabytes), else all weights."""

from pathlib import Path
from typing import Any

from dselect_core.lm.tuning import Tuned

_WEIGHTS = "weights.safetensors"


def save_tuned(tuned: Tuned, folder: Path) -> None:
    """Write what tuning changed into a local folder."""
    from safetensors.torch import save_model

    if tuned.adapter is not None:
        tuned.adapter.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        save_model(tuned.model, str(folder / _WEIGHTS))


def load_tuned(model: Any, folder: Path) -> Any:
    """The model as it was tuned. model: as it was before tuning; it is changed."""
    from peft import PeftModel
    from safetensors.torch import load_model

    if (folder / _WEIGHTS).exists():
        load_model(model, str(folder / _WEIGHTS))
        return model.eval()
    return PeftModel.from_pretrained(model, folder).get_base_model().eval()
