"""The pool as it will be once the sources that changed have landed: what a plan asks the steps about.

Sources that changed are read, in memory, to know their rows; nothing is written.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import polars as pl

from dselect_core.corpus.raw_dataset import ORIGINS, origins_version, preview_samples
from dselect_core.corpus.sample import conform_samples
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.pool.corpus_index import Index, read_index
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet, read_with_metadata

FileChange = Literal["new", "changed", "gone", "unreadable", "lost"]
"""How the files of a source differ from those that landed last; `lost`: they do not, but its tables are lost."""

_TEXTS_OF_TURN = [
    pl.element().struct.field(name).str.len_chars().fill_null(0)
    for name in ("content", "reasoning_content", "tool_calls")
]
_CHARACTERS = pl.col("messages").list.eval(pl.sum_horizontal(_TEXTS_OF_TURN)).list.sum().cast(pl.Int64)
_OF_TOOLS = pl.col("tools").str.len_chars().fill_null(0).cast(pl.Int64)


@dataclass(frozen=True)
class SourceRows:
    """The samples of a source, as they are or as they will be once it has landed.

    samples: sample_id and more, ascending. version: of these samples. moved: they are not those that landed last.
    origins: version of where they stand; None where it is not known.
    """

    samples: pl.DataFrame
    version: str
    moved: bool = False
    origins: str | None = None


@dataclass(frozen=True)
class FuturePool:
    """sources: by name. problems: {source: why it cannot be read}. rebuilt_index: stands for an index that is lost."""

    workspace: Workspace
    sources: dict[str, SourceRows]
    problems: dict[str, str] = field(default_factory=dict)
    rebuilt_index: Index | None = None

    @property
    def rows_moved(self) -> bool:
        """Whether some source has other samples than those that landed last."""
        return any(rows.moved for rows in self.sources.values())

    @cached_property
    def ids(self) -> pl.DataFrame:
        """sample_id of all sources, ascending, each once."""
        empty = pl.DataFrame(schema={"sample_id": pl.String})
        ids = [rows.samples.select("sample_id") for rows in self.sources.values()]
        return pl.concat([empty, *ids]).unique().sort("sample_id")

    @cached_property
    def index(self) -> Index | None:
        """The corpus index that was built last; None where there is none yet."""
        try:
            return read_index(self.workspace)
        except DselectError:
            return self.rebuilt_index

    @cached_property
    def new_ids(self) -> pl.DataFrame | None:
        """sample_id of what the index lacks; None where there is no index yet."""
        return None if self.index is None else self.ids.join(self.index.frame, on="sample_id", how="anti")

    @cached_property
    def departed_ids(self) -> pl.DataFrame | None:
        """sample_id of what only the index has; None where there is no index yet."""
        if self.index is None:
            return None
        return self.index.frame.select("sample_id").join(self.ids, on="sample_id", how="anti")

    @cached_property
    def characters(self) -> pl.DataFrame:
        """sample_id, characters of all messages and tools. Reads texts, so only for rows that there are to compute."""
        lengths = [pl.DataFrame(schema={"sample_id": pl.String, "characters": pl.Int64})]
        for name, rows in self.sources.items():
            samples = rows.samples
            whole = samples if "messages" in samples.columns else read_parquet(self.workspace.samples(name))
            lengths.append(conform_samples(whole).select("sample_id", characters=_CHARACTERS + _OF_TOOLS))
        return pl.concat(lengths).unique("sample_id")


def future_pool(
    workspace: Workspace,
    landing: Mapping[str, FileChange],
    sources: Collection[str],
    landed_versions: Mapping[str, str],
    rebuilt_index: Index | None = None,
) -> FuturePool:
    """landing: sources whose files differ from those that landed last; sources: all there are, gone ones included.

    landed_versions: of the samples that landed last, for the sources whose tables are lost.
    A source that cannot be read keeps the samples that landed last, if any, and is named in `problems`.
    """
    pool = FuturePool(workspace, {}, rebuilt_index=rebuilt_index)
    for name in sorted(sources):
        landed = _landed(workspace, name)
        if name in landing:
            try:
                preview = preview_samples(workspace, name)
            except DselectError as error:
                pool.problems[name] = str(error)
            else:
                version = digest(preview["sample_id"])
                landed_version = landed_versions.get(name) if landed is None else landed.version
                samples, origins = preview.select("sample_id", "messages", "tools"), origins_version(preview)
                pool.sources[name] = SourceRows(samples, version, version != landed_version, origins)
                continue
        if landed is not None:
            pool.sources[name] = landed
    return pool


def _landed(workspace: Workspace, source: str) -> SourceRows | None:
    try:
        samples, metadata = read_with_metadata(workspace.samples(source), ["sample_id"])
    except (FileNotFoundError, DselectError):
        return None
    return SourceRows(samples, metadata.get("version", ""), origins=metadata.get(ORIGINS))
