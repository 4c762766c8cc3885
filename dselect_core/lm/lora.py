"""LoRA (arXiv 2106.09685) by PEFT: low-rank matrices beside the linear layers of a model, merged into it at the end."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dselect_core.errors import DselectError, first_line
from dselect_core.lm.tuning_state import as_it_was

ADAPTER = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


@contextlib.contextmanager
def with_lora(model: Any, rank: int) -> Iterator[Any]:
    """Inside the context all linear layers of the body have LoRA matrices, afterwards none has.

    The matrices are float32, scaled by 2 (alpha is twice the rank), without dropout. Yields PEFT's model. Raises
    DselectError where PEFT does not know the architecture.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    try:
        adapted: Any = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise DselectError(
            f"{type(model).__name__} has no LoRA in PEFT: {first_line(error)}. Tune it with `method: full`."
        ) from error
    try:
        yield adapted
    finally:
        adapted.unload()


@dataclass(frozen=True)
class Lora:
    """The matrices of a tuned model. config: PEFT's LoraConfig; weights: by PEFT's names, float32, on the CPU."""

    config: Any
    weights: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, adapted: Any) -> "Lora":
        """A copy of the matrices of PEFT's model."""
        from peft import get_peft_model_state_dict

        weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        return cls(adapted.peft_config["default"], {name: w.detach().cpu().clone() for name, w in weights.items()})

    def merge_into(self, model: Any) -> None:
        """Add the matrices to the weights of `model`, in place. Raises DselectError when they are another model's."""
        from peft import get_peft_model, set_peft_model_state_dict

        with as_it_was(model, seed=0):
            adapted: Any = None
            try:
                adapted = get_peft_model(model, self.config)
                loaded: Any = set_peft_model_state_dict(adapted, dict(self.weights))
                if loaded.unexpected_keys:
                    raise ValueError(f"it has no {loaded.unexpected_keys[0]}")
            except (ValueError, RuntimeError) as error:  # other layers, other shapes
                if adapted is not None:
                    adapted.unload()
                raise DselectError(f"these LoRA matrices are another model's: {first_line(error)}") from error
            adapted.merge_and_unload()

    def save(self, folder: Path) -> None:
        """Write them as PEFT does, so that `PeftModel.from_pretrained(model, folder)` reads them too."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: w.contiguous() for name, w in self.weights.items()}, folder / _WEIGHTS, {"format": "pt"})
        self.config.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> "Lora":
        """What `save` wrote."""
        from peft import LoraConfig
        from safetensors.torch import load_file

        return cls(LoraConfig.from_pretrained(str(folder)), load_file(folder / _WEIGHTS))
