"""The corpus index: which samples the complete sources hold, and which scores stand for them.

A source is complete when every needed kind of score was made for exactly the samples of its raw table. Others are
left out and listed with the reason: one bad source does not block the corpus. Sources that are not chosen from (`role`)
are never in it; what the pool shares with them stays in the pool, and is held out. The index is what every corpus-wide
step reads, so they all see one pool.

The table has a column `held_out`, the reason or null, where some source is not chosen from. Where a recipe compares
with target sources, the index names the versions of their samples and vectors too, so that a new example moves it.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl
from polars.exceptions import ColumnNotFoundError

from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import Kind, kind_of, with_needs
from dselect_core.pool.held_out import HeldOut, find_held_out, held_out_sets, landed_texts
from dselect_core.pool.overlap import SCHEMA as HELD_OUT_ROWS
from dselect_core.select.judges_spec import GRADES
from dselect_core.select.select import required_kinds
from dselect_core.select.strategies import strategy
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_with_metadata, write_parquet
from dselect_core.storage.source_head import Head, read_head

# Nothing that may change while the version of a source stands, as the count of a sample's rows does.
SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "sources": pl.List(pl.String()),
}
# A column of the file, and keys of its metadata.
_REASON, _COMPARED_WITH, _TARGETS, _STORES = "held_out", "compared_with", "targets", "stores"


def needed_kinds(settings: Settings) -> frozenset[str]:
    """The kinds of score that a recipe or near-duplicates read, with what those rest on. Others are not computed."""
    near_duplicates = settings.near_duplicates
    kinds = {kind for spec in settings.coresets.values() for kind in required_kinds(spec)}
    return frozenset(with_needs(kinds if near_duplicates is None else kinds | near_duplicates.kinds))


def grades_candidates_only(settings: Settings) -> bool:
    """Whether rows are graded over the pool, and only where they can still be chosen (scores/candidate_grades.py)."""
    return settings.grader.candidates == "only" and GRADES in needed_kinds(settings)


def is_over_pool(settings: Settings, kind: Kind) -> bool:
    """Whether a kind's scores are a table over the pool, and no source waits for them."""
    return not kind.by_source or (kind.name == GRADES and grades_candidates_only(settings))


def kinds_of_sources(settings: Settings) -> frozenset[str]:
    """The needed kinds, but for grades that are made over the pool: a source is complete without them."""
    needed = needed_kinds(settings)
    return needed - {GRADES} if grades_candidates_only(settings) else needed


def needs_model(settings: Settings) -> bool:
    """Whether the target model is read at all: by a score that a recipe reads, or tuned for a trial."""
    is_tried = settings.trials.model is None and any(spec.trial for spec in settings.coresets.values())
    return is_tried or any(kind_of(name).reads_model(settings) for name in needed_kinds(settings))


def needs_neighbors(settings: Settings) -> bool:
    """Whether each sample's nearest other sample is read: by scores of samples with shots, or by near-duplicates."""
    return settings.near_duplicates is not None or any(not kind_of(name).by_source for name in needed_kinds(settings))


def target_kinds(settings: Settings) -> frozenset[str]:
    """The kinds of score that some recipe also reads of the target sources."""
    kinds = {strategy(spec.strategy).target_kind for spec in settings.coresets.values()}
    return frozenset(kind for kind in kinds if kind is not None)


@dataclass(frozen=True)
class Index:
    """The pool as it was when the index was built.

    frame: SCHEMA, ascending by id. sources: {name: {kind or "samples": version}}. excluded: {name: reason}.
    fingerprints: {kind: of the provenances of its scores}; more than one means that they must not be compared.
    held_out: what of the frame cannot be chosen. targets: as `sources`, of the target sources that recipes compare
    with; empty where none does. stores: {kind: {source: fingerprint}} of kinds whose sources have provenances of their
    own, all as the settings ask for; no other kind may have several.
    """

    frame: pl.DataFrame
    sources: dict[str, dict[str, str]]
    excluded: dict[str, str]
    fingerprints: dict[str, list[str]]
    held_out: HeldOut = field(default_factory=HeldOut)
    targets: dict[str, dict[str, str]] = field(default_factory=dict)
    stores: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Hash of the pool's samples, their sources, the versions of all scores, what is held out, and the targets."""
        held_out = [] if self.held_out.version is None else [self.held_out.version]
        targets = [{"targets": self.targets}] if self.targets else []
        return fingerprint([self.frame["sample_id"].to_list(), self.sources, *held_out, *targets])

    @property
    def targets_version(self) -> str | None:
        """Hash of the versions of the targets' samples and vectors; None where no recipe compares with any."""
        return fingerprint(self.targets) if self.targets else None

    @property
    def candidates(self) -> pl.DataFrame:
        """The rows of the frame that may be chosen."""
        return self.frame.join(self.held_out.rows, on="sample_id", how="anti", maintain_order="left")

    def version_of(self, kinds: frozenset[str]) -> str:
        """Hash of the pool's samples, the sources they stand in, and the versions of these kinds of score alone."""
        return fingerprint([self.frame["sample_id"].to_list(), versions_of_kinds(self.sources, kinds)])


def versions_of_kinds(sources: Mapping[str, Mapping[str, str]], kinds: frozenset[str]) -> dict[str, dict[str, str]]:
    """Of `Index.sources`, the versions of the samples and of these kinds of score alone."""
    return {
        name: {kind: version for kind, version in versions.items() if kind in kinds | {"samples"}}
        for name, versions in sources.items()
    }


def build_index(workspace: Workspace, sources: list[str], kinds: frozenset[str]) -> Index:
    """Build the index from the tables of `sources` as they are now (`index_of`), and write it.

    Raises DselectError when sources are left out and none is complete: an empty pool must not take the place of one
    that stands.
    """
    index = index_of(workspace, sources, kinds)
    if index.excluded and not index.sources:
        raise DselectError("the pool is empty: " + incomplete(index.excluded))
    record = {"index": json.dumps([index.sources, index.excluded, index.fingerprints])}
    if index.targets:
        record[_TARGETS] = json.dumps(index.targets)
    if index.stores:
        record[_STORES] = json.dumps(index.stores)
    frame = index.frame
    if index.held_out.compared_with is not None:
        record[_COMPARED_WITH] = index.held_out.compared_with
        reasons = index.held_out.rows.rename({"reason": _REASON})
        frame = frame.join(reasons, on="sample_id", how="left", maintain_order="left")
    write_parquet(frame, workspace.index, record)
    return index


def index_of(workspace: Workspace, sources: Collection[str], kinds: frozenset[str]) -> Index:
    """The index of the tables of `sources` as they are now. Writes nothing.

    kinds: those a source must have to be complete; kinds that are made over the pool do not count.
    """
    index = complete_sources(workspace, sources, kinds)
    for name in sources:
        if workspace.settings.role_of(name) != "train" and not workspace.samples(name).exists():
            index.excluded[name] = "not landed yet, so nothing of the pool is held out for it"
    targets = _complete_targets(workspace, sources, target_kinds(workspace.settings) & kinds, index)
    try:
        last = read_index(workspace)
        known = (last.frame, last.held_out)
    except DselectError:
        known = None
    held_out = find_held_out(index.frame, held_out_sets(workspace), known, landed_texts(workspace, index.sources))
    return replace(index, held_out=held_out, targets=targets)


def _complete_targets(
    workspace: Workspace, sources: Collection[str], kinds: frozenset[str], index: Index
) -> dict[str, dict[str, str]]:
    """{target source: {kind or "samples": version}} of those whose vectors are there.

    Enters the others into the `excluded` of the index, and the provenances of their vectors into its `fingerprints`.
    """
    complete = {}
    for name in sorted(set(workspace.settings.sources_of("target")) & set(sources)) if kinds else []:
        if name in index.excluded:
            continue
        samples, landed = read_with_metadata(workspace.samples(name), ["sample_id"])
        heads, reason = _heads(workspace, name, landed.get("version", ""), sorted(kinds))
        if reason is not None:
            index.excluded[name] = f"{reason}, so no recipe compares with its examples"
        elif samples.height:
            complete[name] = {"samples": landed.get("version", "")} | {k: head.version for k, head in heads.items()}
            for kind, head in heads.items():
                made_by = index.fingerprints.setdefault(kind, [])
                index.fingerprints[kind] = sorted({*made_by, head.fingerprint})
    return complete


def _heads(workspace: Workspace, source: str, version: str, kinds: Iterable[str]) -> tuple[dict[str, Head], str | None]:
    """The source's heads of these kinds, up to the first that is not of these samples; and why it is not."""
    heads: dict[str, Head] = {}
    for kind in kinds:
        head = read_head(workspace.head(kind, source))
        if head is None:
            return heads, f"no {kind} yet"
        if head.samples != version:
            return heads, f"{kind} are of an earlier version of the source"
        heads[kind] = head
    return heads, None


def complete_sources(workspace: Workspace, sources: Collection[str], kinds: frozenset[str]) -> Index:
    """`index_of`, but for what is held out: no text is read."""
    complete: dict[str, dict[str, str]] = {}
    excluded: dict[str, str] = {}
    fingerprints: dict[str, set[str]] = {kind: set() for kind in kinds if kind_of(kind).by_source}
    made_by: dict[str, dict[str, str]] = {kind: {} for kind in fingerprints if kind_of(kind).of_its_source}
    ids_by_source = []
    for name in sorted(sources):
        if workspace.settings.role_of(name) != "train":
            continue
        try:
            samples, landed = read_with_metadata(workspace.samples(name), ["sample_id"])
        except FileNotFoundError:
            excluded[name] = "not landed yet"
            continue
        heads, reason = _heads(workspace, name, landed.get("version", ""), sorted(fingerprints))
        for kind, head in heads.items() if samples.height else ():
            fingerprints[kind].add(head.fingerprint)
        versions = {"samples": landed.get("version", "")} | {kind: head.version for kind, head in heads.items()}
        if reason is not None:
            excluded[name] = reason
            continue
        if samples.is_empty():
            continue  # a source that is gone leaves no trace in the pool
        complete[name] = versions
        for kind, of_sources in made_by.items():
            of_sources[name] = heads[kind].fingerprint
        ids_by_source.append(samples.select("sample_id", pl.lit(name).alias("source")))
    frame = (
        pl.concat(ids_by_source)
        .group_by("sample_id")
        .agg(pl.col("source").sort().alias("sources"))
        .sort("sample_id")
        .cast(SCHEMA)  # type: ignore[arg-type]
        if ids_by_source
        else pl.DataFrame(schema=SCHEMA)
    )
    stores = {kind: of_sources for kind, of_sources in made_by.items() if _as_asked(workspace, kind, of_sources)}
    return Index(
        frame, complete, excluded, {kind: sorted(of_kind) for kind, of_kind in fingerprints.items()}, stores=stores
    )


def _as_asked(workspace: Workspace, name: str, made_by: Mapping[str, str]) -> bool:
    """Whether sources have several provenances of a kind because the settings ask for it, and not left from before.

    made_by: {source: fingerprint}. Those that the settings treat alike have one, and all differ in nothing else than
    what is the source's.
    """
    groups = workspace.settings.alike(made_by, kind_of(name).maker)
    if len(set(made_by.values())) < 2 or any(len({made_by[source] for source in group}) > 1 for group in groups):
        return False
    own = kind_of(name).of_its_source
    try:
        provenances = [workspace.open_store(name, each).provenance for each in sorted(set(made_by.values()))]
    except (FileNotFoundError, DamagedFileError):
        return False
    return len({fingerprint({k: v for k, v in each.items() if k not in own}) for each in provenances}) == 1


def incomplete(excluded: Mapping[str, str]) -> str:
    """In words, what each source lacks."""
    return "no source is complete" + "".join(f"; {name}: {reason}" for name, reason in excluded.items())


def read_index(workspace: Workspace) -> Index:
    """The index as `build_index` wrote it. Raises DselectError where there is none yet, or where it cannot be read."""
    try:
        frame, metadata = read_with_metadata(workspace.index)
    except FileNotFoundError:
        raise DselectError(f"{workspace.index}: no corpus index yet; run `dselect refresh`") from None
    try:
        rows = pl.DataFrame(schema=HELD_OUT_ROWS)
        if _REASON in frame.columns:
            rows = frame.select("sample_id", reason=_REASON).drop_nulls("reason")
        held_out = HeldOut(rows, metadata.get(_COMPARED_WITH))
        index = Index(frame.select(list(SCHEMA)), *json.loads(metadata["index"]))
        targets, stores = (json.loads(metadata.get(key, "{}")) for key in (_TARGETS, _STORES))
        return replace(index, held_out=held_out, targets=targets, stores=stores)
    except (ValueError, KeyError, TypeError, ColumnNotFoundError) as error:
        raise DselectError(
            f"{workspace.index}: not an index of this version ({error}); run `dselect refresh`"
        ) from None


def read_excluded(workspace: Workspace) -> dict[str, str]:
    """{source: reason} of the sources that the index leaves out; empty where there is no index."""
    try:
        return Index(pl.DataFrame(), *json.loads(read_metadata(workspace.index)["index"])).excluded
    except (FileNotFoundError, DselectError, ValueError, KeyError, TypeError):
        return {}
