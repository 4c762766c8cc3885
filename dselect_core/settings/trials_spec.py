"""The key `trials` of dselect.yaml: what is tuned to try a coreset, how often, and what is measured."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator

from dselect_core.settings.tuning_spec import TuningSpec

TASK_KEYS = frozenset({"tasks", "task_limit", "task_path", "num_fewshot", "apply_chat_template"})
"""The keys about tasks of lm-evaluation-harness: they move nothing where there is no task."""


class TrialsSpec(TuningSpec):
    """How a coreset is tried against random draws: what is tuned, how often, and what is measured.

    A recipe is tried where it says `trial: true`. Runs are kept, so a key that no run depends on (`seeds`, `draws`,
    `multiples`, `baselines`, `metrics`, `max_seconds`, all about tasks) tunes nothing again.
    """

    model: str | None = Field(None, description="model that is tuned: hub name or folder; by default the target model")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    seeds: int = Field(3, gt=0, description="runs on the coreset, each with its own seed")
    draws: int = Field(5, gt=2, description="random draws that it is compared with, each with its own seed")
    multiples: list[Annotated[int, Field(gt=1)]] = Field(
        [2, 4],
        description="larger random draws, as multiples of the budget: how much random data reaches the same loss",
    )
    baselines: list[Literal["tokens", "balanced", "pool"]] = Field(
        ["tokens", "balanced"],
        description="beside draws of as many rows: of as many response tokens, balanced by source, the whole pool",
    )
    metrics: list[Literal["loss", "exact_match", "rouge_l"]] = Field(
        ["loss"], description="loss of the responses; exact match and ROUGE-L of greedy answers"
    )
    answer_tokens: int = Field(128, gt=0, description="tokens of a greedy answer at most")
    max_seconds: float | None = Field(
        None, gt=0, description="a trial starts no run beyond this; what is tuned is kept, and the next refresh goes on"
    )
    keep_models: bool = Field(True, description="keep tuned weights, so that another eval source tunes nothing again")
    tasks: list[str] = Field(
        default_factory=list,
        description="tasks and groups of lm-evaluation-harness by name (`lm_eval ls tasks`), which every run is "
        'measured on too; needs pip install "dselect[lm-eval]"',
    )
    task_limit: int | None = Field(
        None, gt=0, description="rows of a task at most, its first ones; of a group's tasks each (lm_eval's --limit)"
    )
    task_path: str | None = Field(
        None, description="folder with YAML files of tasks of your own (lm_eval's --include_path)"
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="solved examples in front of each question of a task; by default the task's own number"
    )
    apply_chat_template: bool = Field(
        True, description="ask a task's questions in the chat form that the model is tuned in; false: as plain text"
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_can_run(cls, tasks: list[str]) -> list[str]:
        if tasks and find_spec("lm_eval") is None:
            raise ValueError(
                "tasks are run by lm-evaluation-harness, which is not installed: "
                'pip install "dselect[lm-eval]", or take `tasks` out'
            )
        return tasks

    def with_absolute_paths(self, local: Callable[[str], str], model_path: Callable[[str], str]) -> "TrialsSpec":
        """The same settings with paths that depend on no working directory. local, model_path: text → path."""
        return self.model_copy(
            update={
                "model": None if self.model is None else model_path(self.model),
                "task_path": None if self.task_path is None else local(self.task_path),
            }
        )
