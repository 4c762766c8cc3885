"""The key `publish` of dselect.yaml: where coresets are published to, which of them, and what has to hold before."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from dselect_core.redact import remember_options, remember_url
from dselect_core.select.recipe import CoresetSpec, StrictModel

HUB = "hf://datasets/"
BEATS_RANDOM = "beats_random"


class PublishSpec(StrictModel):
    """Where coresets are published, as immutable versions behind a pointer. Without this key nothing is.

    `keep` and `storage_options` move nothing that is published already.
    """

    to: str = Field(description="folder, s3:// prefix or hf://datasets/org/name (a dataset that is there already)")
    storage_options: dict[str, Any] = Field(default_factory=dict, description="fsspec options, e.g. endpoint_url")
    recipes: list[str] | None = Field(None, description="recipes whose coresets are published; by default all")
    require: list[Literal["beats_random", "every_source_kept", "not_collapsed", "few_chosen_are_alike"]] = Field(
        [], description="checks without which nothing is published, beside those that a recipe requires itself"
    )
    keep: int = Field(
        10, ge=1, description="versions of a recipe that are kept; one that some pointer names is kept beyond them"
    )
    license: str | None = Field(
        None, description="licence of the rows, as dataset cards name it: apache-2.0, cc-by-4.0"
    )
    language: list[str] = Field([], description="languages of the rows by their codes, for the card: [en, de]")

    @field_validator("to")
    @classmethod
    def _is_a_place(cls, to: str) -> str:
        if to.startswith("hf://") and not re.fullmatch(rf"{HUB}[\w.-]+/[\w.-]+", to):
            raise ValueError(f"{to!r}: of the hub a dataset is named as {HUB}org/name, and no folder in it")
        return to

    @field_validator("language", mode="before")
    @classmethod
    def _one_language(cls, language: Any) -> Any:
        return [language] if isinstance(language, str) else language

    def model_post_init(self, _: Any) -> None:
        """What is secret in the address and the options is hidden from now on, wherever it would be shown."""
        remember_options(self.storage_options)
        remember_url(self.to)

    @property
    def hub_dataset(self) -> str | None:
        """`org/name` of a dataset of the hub; None where it is published elsewhere."""
        return self.to.removeprefix(HUB) if self.to.startswith(HUB) else None

    def recipes_of(self, coresets: Mapping[str, CoresetSpec]) -> list[str]:
        """The recipes that are published, in the order of the settings."""
        return list(coresets) if self.recipes is None else [name for name in coresets if name in self.recipes]

    def with_absolute_paths(self, local: Callable[[str], str]) -> "PublishSpec":
        """The same settings with a path that depends on no working directory."""
        return self.model_copy(update={"to": local(self.to)})


def check_publish(publish: PublishSpec, coresets: Mapping[str, CoresetSpec]) -> None:
    """Raises ValueError where it names no recipe, or requires a trial that a recipe does not have."""
    for recipe in publish.recipes or ():
        if recipe not in coresets:
            raise ValueError(f"publish.recipes: no recipe `{recipe}`; there are: {', '.join(coresets)}")
    untried = [recipe for recipe in publish.recipes_of(coresets) if not coresets[recipe].trial]
    if BEATS_RANDOM in publish.require and untried:
        raise ValueError(
            f"publish.require: {BEATS_RANDOM} needs a trial, and `{untried[0]}` has none: give it `trial: true`, or "
            "name under `publish.recipes` those that are tried"
        )
