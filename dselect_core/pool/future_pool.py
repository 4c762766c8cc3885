"""The pool as it will be once the sources that changed have landed: what a plan asks the steps about.

Sources that changed are read, in memory, to know their rows; nothing is written.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import polars as pl

from dselect_core.corpus.raw_dataset import ORIGINS, origins_version, preview_samples, read_samples
from dselect_core.corpus.sample import conform_samples
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest
from dselect_core.pool.corpus_index import Index, read_index
from dselect_core.pool.held_out import EvalSet, HeldOut, find_held_out
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
    """sources: by name, of every role. problems: {source: why it cannot be read}.

    rebuilt_index: stands for an index that is lost.
    """

    workspace: Workspace
    sources: dict[str, SourceRows]
    problems: dict[str, str] = field(default_factory=dict)
    rebuilt_index: Index | None = None

    @cached_property
    def pooled(self) -> dict[str, SourceRows]:
        """The sources that are chosen from, and those that were and are gone."""
        settings = self.workspace.settings
        indexed = self.sources if self.index is None else self.index.sources
        names = [name for name in self.sources if name in settings.sources or name in indexed]
        return {name: self.sources[name] for name in names if settings.role_of(name) == "train"}

    @property
    def sources_moved(self) -> bool:
        """Whether some source, of any role, has other samples than those that landed last."""
        return any(rows.moved for rows in self.sources.values())

    @property
    def rows_moved(self) -> bool:
        """Whether the pool gets other samples: a source has others than those that landed last, or another role."""
        return any(rows.moved for rows in self.pooled.values()) or self._roles_moved

    @property
    def _roles_moved(self) -> bool:
        if self.index is None:
            return False
        known = {*self.index.sources, *self.index.excluded}
        came = any(name not in known and rows.samples.height for name, rows in self.pooled.items())
        return came or bool(self.index.sources.keys() & (self.sources.keys() - self.pooled.keys()))

    @cached_property
    def ids(self) -> pl.DataFrame:
        """sample_id of all sources that are chosen from, ascending, each once."""
        empty = pl.DataFrame(schema={"sample_id": pl.String})
        ids = [rows.samples.select("sample_id") for rows in self.pooled.values()]
        return pl.concat([empty, *ids]).unique().sort("sample_id")

    @cached_property
    def eval_sets(self) -> list[EvalSet]:
        """The sources that are not chosen from, by name: eval and target ones."""
        role_of = self.workspace.settings.role_of
        apart = {name: rows for name, rows in sorted(self.sources.items()) if role_of(name) != "train"}
        return [
            EvalSet(name, rows.version, self.texts(name).sort("sample_id"), role_of(name))
            for name, rows in apart.items()
        ]

    @cached_property
    def held_out(self) -> HeldOut:
        """What of the pool cannot be chosen."""
        known = None if self.index is None else (self.index.frame, self.index.held_out)
        return find_held_out(
            self.ids, self.eval_sets, known, lambda ids: (self.texts(name, ids) for name in self.pooled)
        )

    def texts(self, source: str, ids: pl.DataFrame | None = None) -> pl.DataFrame:
        """The samples of a source with their messages; those of `ids` alone."""
        samples = self.sources[source].samples
        whole = samples if "messages" in samples.columns else read_samples(self.workspace, source)
        return whole if ids is None else whole.join(ids, on="sample_id", how="semi")

    @property
    def held_out_moved(self) -> bool:
        """Whether a sample that the index has is held out now and was not, or was and is not, or for another reason."""
        if self.index is None or not (self.eval_sets or self.index.held_out.rows.height):
            return False
        before, now = (
            of.rows.join(self.index.frame, on="sample_id", how="semi").join(self.ids, on="sample_id", how="semi")
            for of in (self.index.held_out, self.held_out)
        )
        return not before.sort("sample_id").equals(now.sort("sample_id"))

    @cached_property
    def candidate_ids(self) -> pl.DataFrame:
        """sample_id of what may be chosen, ascending."""
        return self.ids.join(self.held_out.rows, on="sample_id", how="anti", maintain_order="left")

    @cached_property
    def index(self) -> Index | None:
        """The corpus index that was built last; None where there is none yet."""
        try:
            return read_index(self.workspace)
        except DselectError:
            return self.rebuilt_index

    @cached_property
    def new_ids(self) -> pl.DataFrame | None:
        """sample_id of what may be chosen, and could not before; None where there is no index yet."""
        return (
            None if self.index is None else self.candidate_ids.join(self.index.candidates, on="sample_id", how="anti")
        )

    @cached_property
    def departed_ids(self) -> pl.DataFrame | None:
        """sample_id of what could be chosen, and cannot any more; None where there is no index yet."""
        if self.index is None:
            return None
        return self.index.candidates.select("sample_id").join(self.candidate_ids, on="sample_id", how="anti")

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
