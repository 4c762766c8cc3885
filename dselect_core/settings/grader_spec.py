"""The key `grader` of dselect.yaml: who grades dependability, and how it is reached or run."""

import json
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from dselect_core.select.recipe import StrictModel
from dselect_core.settings.batch_spec import BatchSpec
from dselect_core.settings.token_prices import TokenPrice, listed_price


class SecretFromEnv(StrictModel):
    """A secret that is read from the environment when it is used, and never written."""

    env: str = Field(description="name of the environment variable")


# Keys that only some graders read. Set for another one, such a key would be passed over in silence.
_OF_ENDPOINTS = (
    "base_url", "api_key", "scale", "criteria", "combine", "extra", "temperature", "max_tokens", "concurrency", "rpm",
    "tpm", "max_wait_seconds", "timeout_seconds", "max_retries", "usd_per_million_tokens", "max_usd",
    "max_usd_per_month", "tokenizer", "mode", "batch", "repeat", "repeat_rows",
)  # fmt: skip
# Parameters of a request that are the grader's own, with the key that sets them; empty where none does.
_OWN_PARAMETERS = {
    "model": "model", "messages": "", "temperature": "temperature", "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens", "response_format": "", "logprobs": "scale", "top_logprobs": "scale",
    "n": "", "stream": "", "stream_options": "",
}  # fmt: skip
_MOST_CRITERIA = 20
_SECRETS = ("api_key", "apikey", "authorization", "password", "secret", "token", "access_token")
_OF_LOCAL_MODELS = ("revision", "dtype", "device", "max_length", "batch_tokens")


class GraderSpec(StrictModel):
    """Who grades dependability: the builtin heuristic, or one of three others.

    `model` (with `base_url` where it is not OpenAI's): an LLM behind an OpenAI-compatible endpoint rates 1 to 5, or,
    with `scale: probability`, answers yes or no.
    `reward_model`: a sequence classifier with one label, run here; its value through a sigmoid. `judge`: a causal LM,
    run here; the probability that it answers yes, of yes and no together.
    """

    _name: str | None = PrivateAttr(None)
    _turn: int = PrivateAttr(1)

    base_url: str | None = Field(None, description="address of an OpenAI-compatible endpoint")
    model: str | None = Field(None, description="model behind the endpoint that grades")
    reward_model: str | None = Field(
        None, description="reward model that grades: hub name or folder of a sequence classifier with one label"
    )
    judge: str | None = Field(None, description="causal LM that judges here: hub name or folder")
    api_key: SecretFromEnv | None = Field(None, description="{env: NAME}: the key is read from the environment")
    mode: Literal["live", "batch"] = Field(
        "live",
        description="of an endpoint: `live` asks row by row, `batch` by the Batch API, at half of OpenAI's price and "
        "within a day. The grades are the same",
    )
    batch: BatchSpec = Field(BatchSpec(), description="what goes into a batch, with `mode: batch`")
    scale: Literal["rating", "probability"] = Field(
        "rating",
        description="of an endpoint: `rating`, a number from 1 to 5, or `probability`, that of yes, of yes and no "
        "together, from the log-probabilities of the answer's first token",
    )
    criteria: dict[str, str] | None = Field(
        None,
        description="of an endpoint: {name: what it means in a sentence}; each is rated 1 to 5 with a reason, and "
        "kept. The shipped rubric leaves to them what counts",
    )
    combine: Literal["mean", "min"] = Field(
        "mean", description="the rating of the criteria's: their mean, or the lowest"
    )
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="of an endpoint: more parameters of its requests, as JSON (`reasoning_effort: low`). They are kept "
        "with the grades, so no secrets; another value is another grader",
    )
    rubric: str | None = Field(None, description="path of a rubric that replaces the shipped one")
    rubrics: dict[str, str] = Field(
        default_factory=dict,
        description="{source: path of a rubric for its rows, in the place of `rubric`}. A sample of several sources is "
        "graded by the rubric of each, and chosen by that of the first by name",
    )
    temperature: float | None = Field(
        0.0,
        ge=0,
        description="sampling temperature; null: none is sent. A model that refuses one is asked without, and told of",
    )
    max_tokens: int = Field(256, gt=0, description="completion tokens at most")
    concurrency: int = Field(8, gt=0, description="requests under way at once, at most; fewer where it refuses some")
    rpm: float | None = Field(None, gt=0, description="requests a minute, at most; by default as many as it takes")
    tpm: float | None = Field(
        None, gt=0, description="tokens a minute, prompt and completion, at most; by default as many as it takes"
    )
    max_wait_seconds: float = Field(
        600.0, gt=0, description="seconds to wait for an endpoint that refuses all requests as too many (HTTP 429)"
    )
    timeout_seconds: float = Field(60.0, gt=0, description="seconds to wait for a reply")
    max_retries: int = Field(
        4, ge=0, description="attempts after the first that failed; being refused as one too many is none"
    )
    candidates: Literal["all", "only"] = Field(
        "all",
        description="all: every row is graded; only: those that can still be chosen, by all recipes together, and the "
        "coresets are the same. Then the asset `candidate_grades` grades them, over the pool",
    )
    give_up_after: int | None = Field(
        5,
        gt=0,
        description="attempts in vain, one a refresh, after which a row is not asked again; null: it always is. "
        "An outage is no attempt",
    )
    usd_per_million_tokens: TokenPrice | None = Field(
        None, description="prices; by default the list prices of a dated table, for OpenAI's models at OpenAI"
    )
    max_usd: float | None = Field(
        None, gt=0, description="US dollars that one refresh may spend; the call that could cross it is not made"
    )
    max_usd_per_month: float | None = Field(
        None, gt=0, description="US dollars that may be spent in a calendar month (UTC) on this storage"
    )
    tokenizer: str | None = Field(
        None,
        description="hub name or folder of the endpoint's model's tokenizer, by which a plan counts prompt tokens; by "
        "default OpenAI's models by tiktoken, where it is installed, others as the grades so far took them",
    )
    repeat: int | None = Field(
        None,
        ge=2,
        le=10,
        description="of an endpoint: times that some rows are graded, in all, to know how far it agrees with itself",
    )
    repeat_rows: int = Field(
        50, gt=0, description="rows of each source that are graded again, a draw by their ids; read with `repeat`"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub reward model or judge")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="numeric type of the weights of a reward model or judge"
    )
    device: str = Field("auto", description="device of a reward model or judge, as under `model`")
    max_length: int | None = Field(
        None,
        gt=8,
        description="window of a reward model or judge in tokens; by default its own. What is longer has no grade",
    )
    batch_tokens: int = Field(
        4096, gt=0, description="tokens per forward pass of a reward model or judge; halved when memory does not do"
    )

    @field_validator("criteria")
    @classmethod
    def _can_be_asked(cls, criteria: dict[str, str] | None) -> dict[str, str] | None:
        if criteria is None:
            return None
        if not 1 <= len(criteria) <= _MOST_CRITERIA:
            raise ValueError(f"give 1 to {_MOST_CRITERIA} criteria, or take the key out")
        for name, meaning in criteria.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", name) or name.lower() in ("rating", "reason"):
                raise ValueError(f"{name!r} names a key of the judge's reply: use a word of letters, digits, - and _")
            if not meaning.strip():
                raise ValueError(f"`{name}`: say in a sentence what it means")
        return criteria

    @field_validator("extra")
    @classmethod
    def _can_be_sent(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name, value in extra.items():
            if name in _OWN_PARAMETERS:
                key = _OWN_PARAMETERS[name]
                instead = f"set `grader.{key}` instead" if key else "it cannot be set"
                raise ValueError(f"`{name}` is set by the grader itself: {instead}")
            if name.lower() in _SECRETS:
                raise ValueError(
                    f"`{name}` would be kept with the grades: give the key as `grader.api_key: {{env: …}}`"
                )
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"`{name}` is no JSON value ({error}): write it as text or a number") from None
        return extra

    @model_validator(mode="after")
    def _whole(self) -> "GraderSpec":
        given = [key for key in ("model", "reward_model", "judge") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"one grader grades: give `model`, `reward_model` or `judge`, not {_listed(given)}")
        if self.base_url is not None and self.model is None:
            if self.is_local:
                raise ValueError(f"`base_url` is an endpoint's, and `{given[0]}` runs here: take one of them out")
            raise ValueError("a grader with `base_url` needs `model`")
        if self.is_local and (unread := self._set(_OF_ENDPOINTS)):
            raise ValueError(f"{_listed(unread)}: read by an endpoint's grader only, not by `{given[0]}`: take it out")
        if not self.is_local and (unread := self._set(_OF_LOCAL_MODELS)):
            raise ValueError(f"{_listed(unread)}: read with `reward_model` or `judge` only: give one, or take it out")
        caps = [key for key in ("max_usd", "max_usd_per_month") if getattr(self, key) is not None]
        if caps and self.price is None:
            raise ValueError(
                f"{_listed(caps)}: what {self.model or 'the grader'} costs is not known: give `usd_per_million_tokens: "
                "{prompt: …, completion: …}`"
            )
        if self.criteria is not None and self.scale == "probability":
            raise ValueError("`criteria` are rated, and `scale: probability` asks for yes or no: take one of them out")
        if self.repeat is None and self._set(("repeat_rows",)):
            raise ValueError("`repeat_rows` is read with `repeat` only: say how many times, or take it out")
        if self.repeat is not None and self.is_builtin:
            raise ValueError(
                "`repeat`: the builtin heuristic gives the same grade again: take it out, or name a `model`"
            )
        if self.criteria is None and self.combine != "mean":
            raise ValueError("`combine` is read with `criteria` only: give them, or take it out")
        if self.reward_model is not None and self.rubric is not None:
            raise ValueError("`rubric`: a reward model reads none: take it out, or give a `judge`")
        if self.rubrics and (self.is_builtin or self.reward_model is not None):
            raise ValueError("`rubrics`: read by a judge only: take them out, or give `model` or `judge`")
        return self

    def named(self, name: str) -> "GraderSpec":
        """The same under its name among `graders`."""
        spec = self.model_copy()
        spec._name = name
        return spec

    def again(self, turn: int) -> "GraderSpec":
        """The same, whose grades are those that it gives in its turn: 2 for the first that are given again."""
        spec = self.model_copy()
        spec._turn = turn
        return spec

    @property
    def turn(self) -> int:
        """1 of the grades; above, of those that are given again (`repeat`)."""
        return self._turn

    @property
    def name(self) -> str | None:
        """Its name among `graders`; None: it is the only one, `grader`."""
        return self._name

    @property
    def key(self) -> str:
        """Where dselect.yaml has it."""
        return "grader" if self._name is None else f"graders.{self._name}"

    def _set(self, keys: tuple[str, ...]) -> list[str]:
        """Those of the keys whose value is not the default."""
        defaults: dict[str, Any] = {
            name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()
        }
        return [key for key in keys if getattr(self, key) != defaults[key]]

    def of_source(self, source: str) -> "GraderSpec":
        """The grader of one source's rows: with the source's rubric, where it has one."""
        if not self.rubrics:
            return self
        return self.model_copy(update={"rubric": self.rubrics.get(source, self.rubric), "rubrics": {}})

    def rubric_of(self, source: str) -> str:
        """In words, by which rubric a source's rows are graded."""
        path = self.of_source(source).rubric
        return "the shipped rubric" if path is None else f"rubric {PurePath(path).name}"

    def with_absolute_paths(self, local: Callable[[str], str], model_path: Callable[[str], str]) -> "GraderSpec":
        """The same with paths that hold whatever the working directory. local, model_path: make one absolute."""
        places = {"rubric": local, "reward_model": model_path, "judge": model_path, "tokenizer": model_path}
        paths = {key: place(path) for key, place in places.items() if (path := getattr(self, key)) is not None}
        rubrics = {source: local(path) for source, path in self.rubrics.items()}
        return self.model_copy(update={**paths, "rubrics": rubrics})

    @property
    def price(self) -> TokenPrice | None:
        """What the endpoint's tokens cost in this mode: as the settings say, else as the shipped table does.

        None: not known.
        """
        price = self.usd_per_million_tokens
        if price is None and self.model is not None:
            price = listed_price(self.model, self.base_url)
        return price.in_batch() if price is not None and self.mode == "batch" else price

    @property
    def live(self) -> "GraderSpec":
        """The same grader asked row by row, at the whole price."""
        return self.model_copy(update={"mode": "live"})

    @property
    def is_builtin(self) -> bool:
        """Whether the heuristic grades, for nobody else is named."""
        return self.model is None and not self.is_local

    @property
    def local_model(self) -> str | None:
        """Hub name or folder of the reward model or judge that runs here; None where another grades."""
        return self.reward_model if self.reward_model is not None else self.judge

    @property
    def is_local(self) -> bool:
        """Whether a model that runs here grades."""
        return self.local_model is not None


def _listed(keys: list[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
