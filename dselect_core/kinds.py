"""What a kind of score is, in one object, and the registry of the kinds there are.

Every table keyed by kind is read off `Kind`: where the scores are stored, what makes them and in which asset, which
columns can be ranked by, what is checked, what the UI says of a column. So a new score is one file with a `Kind` in it
and one line in `BUILTIN` below, or an entry point of the group `dselect.kinds` in somebody else's package.

Kinds are named as strings and loaded on first use: this file lies below every room and imports none of them, and the
settings, which must know what can be ranked by, load no model library.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.progress import Progress
from dselect_core.registry import Registry

# Types of the rooms above, which this file may name but not import.
Settings: TypeAlias = Any  # dselect_core.settings.settings.Settings
LanguageModel: TypeAlias = Any  # dselect_core.lm.load.LanguageModel
Signals: TypeAlias = Any  # dselect_core.lm.forward.Signals
RenderedSample: TypeAlias = Any  # dselect_core.scores.forward_scores.RenderedSample

BUILTIN = (
    "dselect_core.scores.difficulty:DIFFICULTY",
    "dselect_core.scores.ifd:IFD",
    "dselect_core.scores.embeddings:EMBEDDINGS",
    "dselect_core.scores.embeddings:PROMPTS",
    "dselect_core.scores.embeddings:WEIGHTED",
    "dselect_core.scores.activations:ACTIVATIONS",
    "dselect_core.graders.grades:GRADES",
    "dselect_core.scores.miwv:MIWV",
)
"""The kinds of this package, one line each: `module:object`."""

ENTRY_POINTS = "dselect.kinds"
"""Group of entry points by which an installed package adds kinds of its own."""

MAKER = "@"
"""Between the name of a kind and the maker that the settings name: `grades@strict`."""

SAMPLE, PAIR = ("sample_id",), ("sample_id", "shot_id")
"""The keys of a score: of a sample, or of a sample and the shot it was scored with."""


@dataclass(frozen=True)
class Column:
    """One column of a kind of score, beside its keys.

    vector: each value is an array of `type`, as wide as the model decides. unit: in words, empty for a pure number or a
    text.
    value_range: lowest and highest value that are possible, both included; checked before anything is chosen.
    rankable: `topk:<name>` may rank by it. of_text: it depends on the sample, the tokenizer and the window alone, so
    every coreset shows it, whatever it ranks by.
    """

    name: str
    type: pl.DataType
    description: str
    unit: str = ""
    vector: bool = False
    value_range: tuple[float, float] | None = None
    rankable: bool = False
    of_text: bool = False

    def described(self) -> str:
        """The description, with the unit where there is one."""
        return f"{self.description} ({self.unit})" if self.unit else self.description


@dataclass(frozen=True)
class ProvenanceInputs:
    """What a provenance may depend on. model: the target model's provenance; empty where a kind reads no model.

    identify: (path or hub name, revision) of another model → a string that names exactly its weights.
    """

    settings: Settings
    model: Mapping[str, Any]
    identify: Callable[[str, str | None], str]


Emit = Callable[[pl.DataFrame], None]
"""Takes finished rows of a kind of score."""


@dataclass(frozen=True)
class FromForwardPass:
    """Computed from the one forward pass over the samples that all such kinds share.

    signals: what the pass is asked for (lm/forward.py). frame: (samples of a batch, their signals, settings) → one row
    per sample, in their order, with the kind's columns.
    """

    signals: frozenset[str]
    frame: Callable[[list[RenderedSample], Signals, Settings], pl.DataFrame]


@dataclass(frozen=True)
class FromSamples:
    """Computed from the samples' text, without the target model: by a count, an encoder, a judge.

    compute: gets the SAMPLES frame of the missing rows, the settings, `emit` and a progress. It hands frames with the
    kind's columns to `emit` as they are finished, in the end one row per sample, in any order.
    paid: each row costs money, so every finished row is kept at once and a plan says the price. runs_model: a model
    that runs here grades, so a plan says its tokens.
    """

    compute: Callable[[pl.DataFrame, Settings, Emit, Progress | None], None]
    paid: bool = False
    runs_model: bool = False


@dataclass(frozen=True)
class FromPairs:
    """Computed by the target model for a sample and its shot, over the whole pool.

    compute: (model, SAMPLES frame of the pool, missing pairs with `inputs` beside them, progress) → frames with one row
    per pair. inputs: {column the function reads: (kind, column) it is taken from}.
    """

    compute: Callable[[LanguageModel, pl.DataFrame, pl.DataFrame, Progress | None], Iterator[pl.DataFrame]]
    inputs: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class FromScores:
    """Computed by the target model for a sample, from scores of other kinds and from a pass of its own.

    compute: (model, SAMPLES frame, missing rows with `inputs` beside them, progress) → frames with one row per row.
    inputs: {column the function reads: (kind, column) it is taken from}; those kinds are among what it `needs`.
    """

    compute: Callable[[LanguageModel, pl.DataFrame, pl.DataFrame, Progress | None], Iterator[pl.DataFrame]]
    inputs: Mapping[str, tuple[str, str]]


Computation = FromForwardPass | FromSamples | FromPairs | FromScores


@dataclass(frozen=True)
class Answers:
    """Of a kind whose values are arithmetic on answers that were paid for: which stores hold the same answers.

    key: provenance → what of it was asked; stores whose provenances agree on it hold the same. None: there are no
    others. values: (rows of such a store, provenance) → the rows with the values that this provenance makes of them.
    """

    key: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
    values: Callable[[pl.DataFrame, Mapping[str, Any]], pl.DataFrame]


NOT_TRIED = "not tried: "
"""How the reason of a null begins that is no failed attempt: nothing was learnt of the row, an endpoint was down."""
TRIED_AGAIN = "are tried again"
"""How the reason to run ends where nothing is lost, and attempts failed."""
TO_REPEAT = "are to be graded again"
"""How it ends where a judge's agreement with itself is not known yet."""


@dataclass(frozen=True)
class Kind:
    """All there is to say of a kind of score. Frozen: two processes with the same code agree on it.

    name: its folder under `scores/` in the storage. asset: the asset that makes it; several kinds may share one.
    description: one sentence for people, which may depend on the settings.
    columns: beside the keys, in the order they are stored. value: the column that carries the score; null there means
    that the sample has none, and `reason` (or whatever `reason_column` names) says why.
    provenance: all that can change a value and nothing else, as JSON values; its hash is the fingerprint.
    computation: how it is computed, or a function of the settings that says so.
    keys: SAMPLE (made source by source) or PAIR (made over the pool).
    array: the column kept in array files beside the parts. pool_field: the field of `Pool` that array becomes.
    retry_nulls: a null is an attempt that failed and is tried again, not an answer; or a function of the settings that
    says so. give_up_after: the setting that says after how many attempts it is one; None: never. is_overcome: of a row
    without a value, whether the settings have taken away what its attempts failed of, so that they count for nothing.
    of_its_source: keys of its provenance that may differ between sources of one pool.
    answers: where values can be made of answers that another provenance has bought.
    needs: other kinds it cannot be made without.
    parameters: keys of its provenance that leave its `of_text` columns alone.
    may_be_constant: whether one value in all rows of such a table is no sign of a fault.
    pair_columns: columns of the pair (its similarity, say) that stand beside the values in the pool's table; they are
    not stored with them, for no value depends on them.
    figures: what is worth telling of a source's table, by name, beside its counts.
    joined: it came to an asset that was there before, so it counts in that asset's code version only where a recipe
    reads it: for all others nothing changed.
    made_by, makers: where the settings can name several makers of a score (judges), the kind that one of them makes,
    and the names that the settings have. Such a kind is called `<name>@<maker>`, has this kind's columns and shares its
    stores. maker: whose kind this is; None: of the only one.
    """

    name: str
    asset: str
    description: str | Callable[[Settings], str]
    columns: tuple[Column, ...]
    value: str
    provenance: Callable[[ProvenanceInputs], dict[str, Any]]
    computation: Computation | Callable[[Settings], Computation]
    keys: tuple[str, ...] = SAMPLE
    array: str | None = None
    pool_field: str | None = None
    retry_nulls: bool | Callable[[Settings], bool] = False
    give_up_after: Callable[[Settings], int | None] = lambda settings: None
    of_its_source: frozenset[str] = frozenset()
    is_overcome: Callable[[Settings], pl.Expr] = lambda settings: pl.lit(False)
    answers: Answers | None = None
    needs: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    reason_column: str = "reason"
    may_be_constant: Callable[[pl.DataFrame], bool] = lambda table: False
    pair_columns: tuple[Column, ...] = ()
    figures: Callable[[pl.DataFrame], dict[str, str | int | float]] = lambda table: {}
    joined: bool = False
    made_by: Callable[[str], "Kind"] | None = None
    makers: Callable[[Settings], Iterable[str]] = lambda settings: ()
    maker: str | None = None

    @property
    def stored_as(self) -> str:
        """The kind in whose folder its stores lie: a maker that gets a name, or another, keeps what it made."""
        return self.name if self.maker is None else self.name.removesuffix(f"{MAKER}{self.maker}")

    @property
    def by_source(self) -> bool:
        """Whether it is made source by source, and not over the pool."""
        return self.keys == SAMPLE

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """The columns of its table beside the keys: those that are stored, then those of the pair."""
        return (*self.columns, *self.pair_columns)

    def retry(self, settings: Settings) -> str | None:
        """The column whose null is tried again; None where a null is an answer."""
        retries = self.retry_nulls(settings) if callable(self.retry_nulls) else self.retry_nulls
        return self.value if retries else None

    def computed_by(self, settings: Settings) -> Computation:
        """How the kind is computed under these settings."""
        return self.computation(settings) if callable(self.computation) else self.computation

    def reads_model(self, settings: Settings) -> bool:
        """Whether the target model computes it, so that its provenance names that model."""
        return not isinstance(self.computed_by(settings), FromSamples)

    def described(self, settings: Settings) -> str:
        """The description under these settings."""
        return self.description(settings) if callable(self.description) else self.description

    def schema(self, width: int | None = None) -> dict[str, pl.DataType]:
        """Columns with types, keys first. width: of the vector column; needed where the kind has one."""
        of_keys: dict[str, pl.DataType] = {key: pl.String() for key in self.keys}
        if width is None and any(column.vector for column in self.columns):
            raise ValueError(f"{self.name}: give the width of its vectors")
        return of_keys | {
            column.name: pl.Array(column.type, width or 0) if column.vector else column.type for column in self.columns
        }

    def conforming(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A computed frame with this kind's columns and types. Raises DselectError when columns are others."""
        names = [*self.keys, *(column.name for column in self.columns)]
        if sorted(frame.columns) != sorted(names):
            raise DselectError(
                f"kind of score `{self.name}`: columns {frame.columns} were computed; its definition says {names}"
            )
        scalars = [column for column in self.columns if not column.vector]
        schema = frame.schema
        if list(schema) == names and all(schema[column.name] == column.type for column in scalars):
            return frame  # mostly; a cast takes longer than all else that is done for one row
        return frame.select(names).cast({column.name: column.type for column in scalars})

    def named(self, column: str) -> str:
        """A column's name where the same one of other makers stands beside it."""
        return column if self.maker is None else f"{column} by {self.maker}"

    def pool_columns(self) -> tuple[str, ...]:
        """The columns that selection sees beside the sample's id."""
        return (*self.keys[1:], *(column.name for column in self.table_columns if column.rankable or column.of_text))

    def of_text_columns(self) -> tuple[str, ...]:
        """The columns that every coreset shows, whatever it ranks by."""
        return tuple(column.name for column in self.columns if column.of_text)


def register(kind: Kind) -> None:
    """Add a kind in this process (a notebook, a test); an installed package names it as an entry point instead.

    Raises DselectError when another kind has the name, or a column that selection sees.
    """
    _REGISTRY.register(kind)


def unregister(name: str) -> None:
    """Take back what `register` added."""
    _REGISTRY.unregister(name)


def all_kinds() -> dict[str, Kind]:
    """Every kind by name: those of this package, then those of installed packages, then those registered here."""
    return _REGISTRY.all()


def kinds_in(settings: Settings) -> dict[str, Kind]:
    """`all_kinds`, with one kind a maker in the place of a kind of which the settings name makers."""
    found: dict[str, Kind] = {}
    for name, kind in all_kinds().items():
        made = [kind_of(f"{name}{MAKER}{maker}") for maker in kind.makers(settings)]
        found |= {each.name: each for each in made or [kind]}
    return found


def kind_of(name: str) -> Kind:
    """The kind of that name, also of one maker: `grades@strict`. Raises DselectError that lists the known ones."""
    kinds = all_kinds()
    base, _, maker = name.partition(MAKER)
    if name in kinds:
        return kinds[name]
    if maker and base in kinds and kinds[base].made_by is not None:
        return _made_by(kinds[base], maker)
    raise DselectError(f"unknown kind of score `{name}`; known: {', '.join(kinds)}")


@cache
def _made_by(kind: Kind, maker: str) -> Kind:
    assert kind.made_by is not None
    return kind.made_by(maker)


def with_needs(names: Iterable[str]) -> list[str]:
    """The kinds and all that they rest on, in the order of the registry. Raises DselectError for an unknown one."""
    wanted: set[str] = set()
    to_add = set(names)
    while to_add:
        wanted |= to_add
        to_add = {needed for name in to_add for needed in kind_of(name).needs} - wanted
    order = list(all_kinds())
    return sorted(wanted, key=lambda name: (order.index(kind_of(name).stored_as), name))


def kinds_by_asset(settings: Settings | None = None, *, by_source: bool | None = None) -> dict[str, tuple[Kind, ...]]:
    """{asset: the kinds it makes}; only those made source by source, or only those made over the pool, if asked for.

    settings: with the kinds of the makers that they name.
    """
    assets: dict[str, tuple[Kind, ...]] = {}
    for kind in (all_kinds() if settings is None else kinds_in(settings)).values():
        if by_source is None or kind.by_source == by_source:
            assets[kind.asset] = (*assets.get(kind.asset, ()), kind)
    return assets


def assets_making(names: frozenset[str], *, by_source: bool) -> list[str]:
    """The assets that make any of these kinds: source by source, or over the pool."""
    assets = {kind_of(name).asset for name in names if kind_of(name).by_source == by_source}
    return [asset for asset in kinds_by_asset(by_source=by_source) if asset in assets]


def rankable_columns() -> dict[str, str]:
    """{column: name of the kind that brings it}, of all columns that `topk:<column>` may rank by."""
    return {column.name: kind.name for kind in all_kinds().values() for column in kind.table_columns if column.rankable}


def _check(kind: Kind, others: Mapping[str, Kind]) -> None:
    if kind.name in others:
        raise DselectError(f"kind of score `{kind.name}` is defined twice; give one of the two another name")
    names = [column.name for column in kind.columns]
    for what, column in (("value", kind.value), ("array", kind.array), ("reason_column", kind.reason_column)):
        if column is not None and column not in names:
            raise DselectError(f"kind of score `{kind.name}`: its {what} `{column}` is not among its columns: {names}")
    visible = set(kind.pool_columns())
    for other in others.values():
        if shared := visible & set(other.pool_columns()):
            raise DselectError(
                f"kind of score `{kind.name}`: `{other.name}` has a column {sorted(shared)[0]} already; rename it"
            )
        if other.asset == kind.asset and other.by_source != kind.by_source:
            raise DselectError(f"kind of score `{kind.name}`: asset {kind.asset} is not partitioned as its keys ask")


_REGISTRY = Registry(BUILTIN, ENTRY_POINTS, Kind, _check)
