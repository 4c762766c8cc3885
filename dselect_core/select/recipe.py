"""A recipe as dselect.yaml has it: a strategy, a budget, a seed, and the options of that strategy.

The options are no fields of the class: each strategy declares its own, and a recipe is checked and described from that
declaration. So a new strategy with a new option needs no edit here.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dselect_core.errors import DselectError
from dselect_core.select.budget import Budget
from dselect_core.select.judges_spec import GRADES, JudgesField, require_single_column
from dselect_core.select.mixture_spec import BalanceField, Quota, check_mixture
from dselect_core.select.strategies import TOP_K, all_options, all_strategies, strategy_with_options
from dselect_core.select.strategy import Option


class StrictModel(BaseModel):
    """Settings that refuse unknown keys and never change after they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True)


def explain_unknown_key(key: str, known_keys: list[str]) -> str:
    """What is wrong with a key that the settings do not have: the nearest one, else all there are."""
    nearest = difflib.get_close_matches(key, known_keys, n=1, cutoff=0.5)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known keys: {', '.join(known_keys)}"
    return f"unknown key `{key}`; {hint}"


def _parse_budget(value: Any) -> Any:
    if isinstance(value, Budget):
        return value
    try:
        return Budget.parse(value)
    except DselectError as error:
        raise ValueError(str(error)) from None


BudgetField = Annotated[
    Budget,
    BeforeValidator(_parse_budget, json_schema_input_type=str | int),
    PlainSerializer(str, return_type=str),
]


MAX_ROUNDS = 10
"""Rounds that a recipe may have: each is an asset."""


class WarmupRows(StrictModel):
    """The rows that the model of a d3 recipe's first round is tuned on."""

    samples: int = Field(gt=0, description="rows of the pool that the model of the first round is tuned on")
    by: Literal["random", "kcenter"] = Field(
        "random", description="a seeded draw, or far apart by the target model's embeddings"
    )
    in_budget: bool = Field(True, description="they are chosen, and taken from the first round's share of the budget")


class CoresetSpec(StrictModel):
    """A recipe: a strategy's order, cut at a budget."""

    model_config = ConfigDict(extra="allow")

    strategy: str
    budget: BudgetField = Field(description="rows (500), a share (10%) or response tokens (200000 tokens)")
    seed: int = Field(0, description="used by random, and by d3 with `warmup` or `rounds`")
    rounds: int | None = Field(
        None,
        ge=1,
        le=MAX_ROUNDS,
        description="d3: each round scores the pool by the model tuned on all that was chosen before, and chooses its "
        "share of the budget (`feedback`); 1 by default",
    )
    warmup: WarmupRows | None = Field(
        None, description="d3: the model of the first round is tuned on some rows; by default it is the target model"
    )
    min_response_tokens: int | None = Field(
        None, ge=1, description="rows with a shorter response are left out, with the reason"
    )
    quota: dict[str, Quota] = Field(
        {}, description="bounds of the rows of a source, by its name: {t0: {max: 30%}, lima: {min: 100}}"
    )
    balance: BalanceField | None = Field(
        None,
        description="source or cluster: as many rows of each; {by: source, how: sqrt}: by the square root of its size",
    )
    grade: JudgesField | None = Field(
        None,
        description="whose grades it reads, of several `graders`: `a`, `[a, b]` (their mean), or `{of: [a, b], by: "
        "median}` (mean, median or min). A row that one of them did not grade has none",
    )
    trial: bool = Field(False, description="tune on the coreset and on random draws, and compare (`trials`)")
    require: list[Literal["beats_random"]] = Field(
        [], description="checks that hold the coreset back from what follows it, instead of warning"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The option values of its strategy that the recipe gives: all its keys but the fields of the class."""
        return dict(self.model_extra or {})

    @property
    def round_count(self) -> int:
        """Rounds, of any recipe."""
        return self.rounds or 1

    @property
    def has_rounds(self) -> bool:
        """Whether it is chosen round by round, by models that are tuned for it (rounds/)."""
        return self.round_count > 1 or self.warmup is not None

    @field_validator("rounds")
    @classmethod
    def _one_round_is_none(cls, rounds: int | None) -> int | None:
        return None if rounds == 1 else rounds  # a recipe that says the default is the recipe that says nothing

    @model_validator(mode="after")
    def _check_rounds(self) -> "CoresetSpec":
        if self.has_rounds and self.strategy != "d3":
            key = "rounds" if self.rounds else "warmup"
            raise ValueError(f"`{key}` is for d3; `{self.strategy}` has no use for it: leave it out")
        return self

    @model_validator(mode="after")
    def _check_requirements(self) -> "CoresetSpec":
        if self.require and not self.trial:
            raise ValueError("`require: [beats_random]` needs `trial: true`: without a trial nothing is known of it")
        return self

    @model_validator(mode="after")
    def _check_mixture(self) -> "CoresetSpec":
        check_mixture(self.quota, self.balance, self.budget.unit)
        return self

    @property
    def needs_clusters(self) -> bool:
        """Whether its rows are divided over clusters of their embeddings."""
        return self.balance is not None and self.balance.by == "cluster"

    @property
    def has_mixture(self) -> bool:
        """Whether it says how its rows are divided over groups."""
        return bool(self.quota) or self.balance is not None

    @property
    def order_depends_on_budget(self) -> bool:
        """Whether another budget may be another order and not a cut of the same: some min is in rows."""
        return any(each.min is not None and each.min.rows for each in self.quota.values())

    @property
    def reads_grades(self) -> bool:
        """Whether its strategy reads grades, whoever gives them."""
        return GRADES in strategy_with_options(self.strategy, self.options).needs

    @model_validator(mode="after")
    def _check_options(self) -> "CoresetSpec":
        options = all_options()
        for name, value in self.options.items():
            if name not in options:
                raise ValueError(explain_unknown_key(name, [*type(self).model_fields, *options]))
            (self.model_extra or {})[name] = _validate(name, options[name], value)
        try:
            own = strategy_with_options(self.strategy, self.options)
            for column in own.columns:
                require_single_column(self.grade, column)
        except DselectError as error:
            raise ValueError(str(error)) from None
        if self.grade is not None and GRADES not in own.needs:
            raise ValueError(f"`grade` says whose grades count, and `{self.strategy}` reads none: leave it out")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, option in all_options().items():
            described = TypeAdapter(_annotation(option)).json_schema()
            schema["properties"][name] = described | {"title": name.capitalize(), "default": None}
        listed = [f"{each.name} ({each.description})" for each in all_strategies().values()]
        schema["properties"]["strategy"]["description"] = ", ".join([*listed, f"{TOP_K}<column> (highest values)"])
        schema["additionalProperties"] = False
        return schema


def check_quotas(coresets: Mapping[str, CoresetSpec], roles: Mapping[str, str]) -> None:
    """Raises ValueError where a quota names no source, or one that is never chosen from. roles: by source."""
    for recipe, spec in coresets.items():
        for source in spec.quota:
            if source not in roles:
                nearest = difflib.get_close_matches(source, roles, n=1, cutoff=0.0)
                raise ValueError(f"coresets.{recipe}.quota: no source `{source}`; did you mean `{''.join(nearest)}`?")
            if roles[source] != "train":
                told = f"`{source}` has the role {roles[source]}, so it is never chosen from"
                raise ValueError(f"coresets.{recipe}.quota: {told}")


def _annotation(option: Option) -> Any:
    return Annotated[option.type | None, Field(description=option.description, **option.bounds)]


def _validate(name: str, option: Option, value: Any) -> Any:
    """The value in the option's type. Raises ValueError where it has another type or is out of bounds."""
    try:
        return TypeAdapter(_annotation(option)).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None
