"""What an update of a score table reports, and the version of such a table.

The rows lie in the store. A source has a head per kind, a few bytes that say what of the store is this source's; over
the pool, neighbours and MIWV are tables of their own.
"""

from dataclasses import dataclass, field

import polars as pl

from dselect_core.fingerprint import digest


@dataclass(frozen=True)
class TableReport:
    """What an update did to a table: its rows now, and how many of them were computed and reused.

    value_column: carries the score; null there means that the row has none. tokens: pushed through the model for the
    computed rows, where they are counted. skipped: {file: why} of parts that could not be trusted. figures: what else
    is worth telling of how it was made, by name. types: {column: type} of vectors, of which `frame` says only whether
    they are there.
    """

    frame: pl.DataFrame
    value_column: str
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
        """The score itself. Null where the row has none."""
        return self.frame[self.value_column]


def version_of(frame: pl.DataFrame, value_column: str, fingerprint: str) -> str:
    """Hash of the fingerprint, the ids and the null mask of a table that is ascending by sample id.

    Never of the floats: float noise of another batching moves nothing downstream.
    """
    if frame.is_empty():
        return digest([fingerprint])
    ids = frame.select(pl.concat_str(pl.selectors.ends_with("_id").fill_null(""), separator="/")).to_series()
    return digest([fingerprint, *ids, *frame[value_column].is_null().cast(pl.String)])
