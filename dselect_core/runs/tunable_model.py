"""A model that is tuned on rows of the pool: the target model, or another one that the settings name.

It is opened anew for each run, because tuning changes it. What identifies a model that the settings name is known from
its config and tokenizer, so that a plan opens no weights. The target model tells it by the record of its warm-up.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from dselect_core.lm import load, target_model
from dselect_core.lm.render import Renderer
from dselect_core.lm.tuning import TuneSpec
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.tuning_spec import TuningSpec
from dselect_core.settings.workspace import Workspace

LEARNING_RATES = {"lora": 2e-4, "full": 2e-5, "builtin": 3e-4}
"""Where the settings name none: what is usual for LoRA and for all weights. The builtin model is warm. [ours]"""


@dataclass(frozen=True)
class TunableModel:
    """Which model, and how it is tuned. path: a local folder or a hub name; is_builtin: the warm-up made it.

    is_target: whether it is the target model of the workspace, whose provenance is on record.
    """

    workspace: Workspace
    path: str
    identity: str
    spec: ModelSpec
    tuning: TuningSpec
    is_builtin: bool = False
    is_target: bool = False

    @classmethod
    def of_target(cls, workspace: Workspace, tuning: TuningSpec) -> "TunableModel":
        """The target model. Raises DselectError where it is not made yet."""
        path, identity = target_model.model_place(workspace)
        spec = target_model.settled_spec(workspace, identity)
        return cls(workspace, path, identity, spec, tuning, is_builtin=spec.path == "builtin", is_target=True)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """All of the model and its rendering that can move a tuned weight or a loss; JSON values."""
        if self.is_target:
            return target_model.provenance(self.workspace)
        load.quiet_transformers()
        return load.provenance_without_weights(self.path, self.spec, self.identity)

    def open(self) -> load.LanguageModel:
        """The model as it is before tuning. Raises DselectError as `load.load`."""
        load.quiet_transformers()
        return load.load(self.path, self.spec, self.identity)

    def tuning_renderer(self, lm: load.LanguageModel) -> Renderer:
        """Renders training samples: as the model does, within the tuning length."""
        window = min(lm.window, self.tuning.max_length)
        return Renderer(lm.renderer.tokenizer, window, self.spec.template, self.spec.date)

    @cached_property
    def tune_spec(self) -> TuneSpec:
        """How it is tuned, but for the seed."""
        tuning, method = self.tuning, self._method
        rate = tuning.learning_rate or LEARNING_RATES["builtin" if self.is_builtin else method]
        return TuneSpec(
            method=method,
            lora_rank=tuning.lora_rank,
            epochs=tuning.epochs,
            learning_rate=rate,
            batch_tokens=tuning.batch_tokens,
            bf16=self._bf16,
        )

    @property
    def _method(self) -> Literal["lora", "full"]:
        if self.tuning.method != "auto":
            return self.tuning.method
        return "full" if self.is_builtin else "lora"

    @property
    def _bf16(self) -> bool:
        if self.tuning.precision != "auto":
            return self.tuning.precision == "bf16"
        from dselect_core.lm.numeric_type import computes_bf16

        return not self.is_builtin and computes_bf16(load.device(self.spec.device))

    @property
    def run_model(self) -> dict[str, Any]:
        """What of the model is part of a run: its provenance, and the tuning length."""
        return {**self.provenance, "tuning_window": self.tuning.max_length}
