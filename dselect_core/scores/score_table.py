"""What a score asset stands for now: which rows, under which recipe, in which version.

The rows themselves lie in the store. A source has a head per kind, a few bytes that say what of the store is this
source's; over the pool, neighbours and MIWV are tables of their own. A version hashes the recipe, the ids and which
of the rows are null, never the floats: float noise of another batching moves nothing downstream.
"""

import json
from dataclasses import asdict, dataclass, field

import polars as pl
from upath import UPath

from dselect_core.fingerprint import digest
from dselect_core.storage.files import write_text


@dataclass(frozen=True)
class Head:
    """fingerprint: of the recipe; version: of the rows; samples: version of the source they cover."""

    fingerprint: str
    version: str
    samples: str
    rows: int
    nulls: int


def write_head(head: Head, path: UPath) -> None:
    write_text(json.dumps(asdict(head)), path)


def read_head(path: UPath) -> Head | None:
    """None where nothing was made yet."""
    try:
        return Head(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class TableReport:
    """What happened to a table: its rows, and how many were computed and reused.

    tokens: pushed through the model for the computed rows, where they are counted. skipped: {file: why} of parts that
    could not be trusted. figures: what else is worth telling of how it was made, by name. types: {column: type} of
    vectors, of which `frame` says only whether they are there.
    """

    frame: pl.DataFrame
    version: str
    fingerprint: str
    computed: int
    reused: int
    tokens: int | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str | int | float] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    @property
    def value(self) -> pl.Series:
        """The score itself: the first column that is not an id. Null there means the row has no score."""
        return self.frame[value_column(self.frame)]


def version_of(frame: pl.DataFrame, recipe_fingerprint: str) -> str:
    """Hash of the recipe, the ids and the null mask of a table that is ascending by sample id."""
    if frame.is_empty():
        return digest([recipe_fingerprint])
    ids = frame.select(pl.concat_str(pl.selectors.ends_with("_id").fill_null(""), separator="/")).to_series()
    return digest([recipe_fingerprint, *ids, *frame[value_column(frame)].is_null().cast(pl.String)])


def value_column(frame: pl.DataFrame) -> str:
    return next(name for name in frame.columns if not name.endswith("_id"))
