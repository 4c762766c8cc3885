"""What of the storage is lost: tables, heads, models and coresets that are not there, or that cannot be read.

One place knows which files every asset partition stands for. An orchestrator that believes a partition made compares
that with this, and makes again what is lost.

The folders are listed, and a file is read only when its size or time is not the one that it was found good at
(verified_files.py). So with nothing changed no file is read. Rows that the stores lack are found by `lost_scores`: the
store knows its own rows.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from upath import UPath

from dselect_core.coreset.candidate_grades import ASSET as CANDIDATE_GRADES
from dselect_core.coreset.candidate_grades import given_up_candidates, why_tried_again
from dselect_core.coreset.manifest import read_manifest
from dselect_core.coreset.published import FILES, MANIFEST, PublishedVersion, check_file
from dselect_core.coreset.spec import read_spec
from dselect_core.errors import DselectError, first_line
from dselect_core.kinds import Kind, kind_of, kinds_in
from dselect_core.lm import target_model
from dselect_core.pool.corpus_index import (
    complete_sources,
    grades_candidates_only,
    is_over_pool,
    kinds_of_sources,
    needed_kinds,
    needs_neighbors,
    read_excluded,
    read_index,
)
from dselect_core.pool.future_pool import SourceRows
from dselect_core.rounds.round_record import asset_of_round, read_record
from dselect_core.scores.update import ScoreTodo, todos_of_sources
from dselect_core.select.judges_spec import GRADES
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import is_local, read_metadata, read_with_metadata
from dselect_core.storage.folder_listing import FileEntry, list_tree
from dselect_core.storage.source_head import read_head
from dselect_core.storage.store_folder import PROVENANCE, PROVENANCE_OF_0_1
from dselect_core.storage.verified_files import VerifiedFiles
from dselect_core.storage.verify_arrays import verify_arrays
from dselect_core.trials.report import read_report

AssetPartition = tuple[str, str | None]
"""An asset and one of its partitions; None where it has none."""

LostTables = Mapping[AssetPartition, str]
"""{asset partition: what of it is lost, in words}."""

_INDEX: AssetPartition = ("corpus_index", None)
_FOLDERS = ("raw", "models", "scores", "corpus", "specs", "coresets", "rounds/records", "trials/results")
# What reading a lost or altered file may raise. Any other OSError goes on to the caller: a storage that does not answer
# has lost nothing.
_UNREADABLE = (DselectError, FileNotFoundError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class _Table:
    """A file that an asset partition stands for. check: reads it, and raises where it is not what was written."""

    asset: str
    partition: str | None
    path: UPath
    check: Callable[[], object]
    may_be_empty: bool = False


def lost_tables(
    workspace: Workspace, sources: Collection[str], recipes: Collection[str], *, save: bool = False
) -> dict[AssetPartition, str]:
    """What is lost of the partitions that these sources and recipes have, whether or not they were ever made.

    save: keep on record which files were found good, so that the next look does not read them.
    Raises OSError where the storage does not answer.
    """
    present = {
        f"{folder}/{path}": entry for folder in _FOLDERS for path, entry in list_tree(workspace.root / folder).items()
    }
    verified = VerifiedFiles(workspace.root)
    lost: dict[AssetPartition, str] = {}
    for table in _tables(workspace, sources, recipes, present):
        why = _why_lost(workspace, table, present, verified)
        if why is not None:
            lost.setdefault((table.asset, table.partition), why)
    _verify_vectors(workspace, sources, present, verified)
    if _INDEX not in lost and (returned := _returned_sources(workspace, sources)):
        lost[_INDEX] = f"it leaves out what is complete by now: {', '.join(returned)}"
    if save:
        verified.save(present)
    return lost


def lost_scores(workspace: Workspace, sources: Collection[str]) -> dict[AssetPartition, str]:
    """The scores that the heads of these sources count on and the stores have no more, as far as the model is known.

    Also those whose attempts failed, and that are tried again.
    """
    todos = _score_todos(workspace, sources)
    lost: dict[AssetPartition, str] = {
        (todo.kind.asset, todo.source): todo.why for todo in todos if todo.lost and todo.why is not None
    }
    over_pool = why_tried_again(workspace) if grades_candidates_only(workspace.settings) else None
    return lost if over_pool is None else {**lost, (CANDIDATE_GRADES, None): over_pool}


class GivenUp(NamedTuple):
    """Rows of an asset partition that were tried so often in vain that they are not tried again."""

    place: AssetPartition
    kind: Kind
    rows: int


def given_up_rows(workspace: Workspace, sources: Collection[str]) -> list[GivenUp]:
    """Where there are such rows, by kind."""
    todos = _score_todos(workspace, sources, lambda kind: kind.retry(workspace.settings) is not None)
    given_up = [GivenUp((todo.kind.asset, todo.source), todo.kind, todo.given_up) for todo in todos if todo.given_up]
    over_pool = given_up_candidates(workspace) if grades_candidates_only(workspace.settings) else 0
    return [*given_up, GivenUp((CANDIDATE_GRADES, None), kind_of(GRADES), over_pool)] if over_pool else given_up


def _score_todos(
    workspace: Workspace, sources: Collection[str], wanted: Callable[[Kind], bool] = lambda kind: True
) -> Iterator[ScoreTodo]:
    """What is to be computed of the wanted kinds whose provenance is known."""
    model = _model_provenance(workspace)
    rows = {source: landed for source in sorted(sources) if (landed := _landed(workspace, source)) is not None}
    for kind in filter(wanted, _needed(workspace, by_source=True)):
        if kind.reads_model(workspace.settings) and model is None:
            continue
        for group in workspace.settings.alike(rows, kind.maker) if kind.of_its_source else [list(rows)]:
            try:
                todos = todos_of_sources(workspace, kind, {source: rows[source] for source in group}, model)
            except DselectError:
                continue  # what its provenance names cannot be read: its run says so
            yield from todos.values()


def _returned_sources(workspace: Workspace, sources: Collection[str]) -> list[str]:
    """Sources that the index left out, and that are complete as they lie in the storage now."""
    excluded = set(read_excluded(workspace)) & set(sources)
    if not excluded:
        return []
    try:
        return sorted(complete_sources(workspace, excluded, kinds_of_sources(workspace.settings)).sources)
    except _UNREADABLE:
        return []  # the table that cannot be read is lost, and restored first


def _why_lost(
    workspace: Workspace, table: _Table, present: Mapping[str, FileEntry], verified: VerifiedFiles
) -> str | None:
    name = relative_path(workspace, table.path)
    entry = present.get(name)
    if entry is None:
        return f"{name} is gone from the storage"
    if (name, entry) in verified:
        return None
    if entry.size == 0 and not table.may_be_empty:
        return f"{name} is empty"
    try:
        table.check()
    except FileNotFoundError:
        return f"{name} is gone from the storage"
    except _UNREADABLE as error:
        return f"{name} cannot be read: {first_line(error)}"
    verified.add(name, entry)
    return None


def relative_path(workspace: Workspace, path: UPath) -> str:
    """The path in the storage, with slashes."""
    return path.path[len(workspace.root.path.rstrip("/")) + 1 :]


def _tables(
    workspace: Workspace, sources: Collection[str], recipes: Collection[str], present: Mapping[str, FileEntry]
) -> Iterator[_Table]:
    """Every file that an asset partition stands for, what others are checked with first."""
    for source in sorted(sources):
        yield _parquet("raw_dataset", source, workspace.samples(source), required="version")
        yield _parquet("raw_dataset", source, workspace.quarantine(source))
    for recipe in sorted(recipes):
        yield _Table("coreset_spec", recipe, workspace.spec(recipe), partial(read_spec, workspace, recipe))
    needed = _needed(workspace)
    if any(kind.reads_model(workspace.settings) for kind in needed):
        yield from _tables_of_model(workspace)
    for kind in needed:
        if not is_over_pool(workspace.settings, kind):
            for source in sorted(sources):
                head = workspace.head(kind.name, source)
                yield _Table(kind.asset, source, head, partial(read_head, head))
        else:
            yield _parquet(_asset_of(kind), None, workspace.pool_table(kind.name), required="fingerprint")
    yield from _provenances(workspace, needed, sources, present)
    yield _Table("corpus_index", None, workspace.index, lambda: read_index(workspace))
    if needs_neighbors(workspace.settings):
        yield _parquet("neighbors", None, workspace.neighbors, required="figures")
    if workspace.settings.near_duplicates is not None:
        yield _parquet("near_duplicates", None, workspace.near_duplicates)
    for recipe in sorted(recipes):
        # The models of its rounds are not asked for: a lost one is tuned again when a score is missing.
        spec = workspace.settings.coresets.get(recipe)
        for number in range(1, spec.round_count + 1) if spec is not None and spec.has_rounds else ():
            record = partial(read_record, workspace, recipe, number)
            yield _Table(asset_of_round(number), recipe, workspace.round_record(recipe, number), record)
        yield from _tables_of_coreset(workspace, recipe)
    for recipe in sorted(recipes):
        if recipe in workspace.settings.coresets and workspace.settings.coresets[recipe].trial:
            # Its runs and marks are not asked for: the result holds what they said.
            yield _Table("trial", recipe, workspace.trial(recipe), partial(read_report, workspace, recipe))


def _tables_of_model(workspace: Workspace) -> Iterator[_Table]:
    """The record of the target model, and the files of a model that was made here."""
    record_path = workspace.models / "current.json"
    yield _Table("warmup_model", None, record_path, lambda: target_model.read_record(workspace)["identity"])
    try:
        record = target_model.read_record(workspace)
        paths = target_model.builtin_files(workspace, record)
    except _UNREADABLE:
        return
    for path in paths:
        yield _Table("warmup_model", None, path, lambda: target_model.check_builtin(workspace, record))


def _provenances(
    workspace: Workspace, needed: list[Kind], sources: Collection[str], present: Mapping[str, FileEntry]
) -> Iterator[_Table]:
    """The provenance beside the scores in force of each kind. The run of any one source writes it."""
    alike = workspace.settings.alike
    groups = [(k, g) for k in needed for g in (alike(sources, k.maker) if k.of_its_source else [sources])]
    for kind, group in groups:
        in_force = _fingerprint_in_force(workspace, kind, group, present)
        if in_force is not None and group:
            store = workspace.open_store(kind.name, in_force)
            paths = [store.folder / name for name in (PROVENANCE, PROVENANCE_OF_0_1)]
            path = next((path for path in paths if relative_path(workspace, path) in present), paths[0])
            over_pool = is_over_pool(workspace.settings, kind)
            asset, partition = (_asset_of(kind), None) if over_pool else (kind.asset, min(group))
            yield _Table(asset, partition, path, partial(getattr, store, "provenance"))


def _fingerprint_in_force(
    workspace: Workspace, kind: Kind, sources: Collection[str], present: Mapping[str, FileEntry]
) -> str | None:
    """Of the provenance that the last scores of a kind were made with; None where none is known."""
    try:
        if is_over_pool(workspace.settings, kind):
            return read_metadata(workspace.pool_table(kind.name))["fingerprint"]
        heads = (workspace.head(kind.name, source) for source in sorted(sources))
        first = next((head for head in heads if relative_path(workspace, head) in present), None)
        head = None if first is None else read_head(first)
    except _UNREADABLE:
        return None
    return None if head is None else head.fingerprint


def _verify_vectors(
    workspace: Workspace, sources: Collection[str], present: Mapping[str, FileEntry], verified: VerifiedFiles
) -> None:
    """Read the vectors that are not verified yet, so that the store knows its altered rows. An object store is trusted.

    It has checks of its own, and reading costs money there.
    """
    if not is_local(workspace.root):
        return
    for kind in _needed(workspace, by_source=True):
        in_force = _fingerprint_in_force(workspace, kind, sources, present) if kind.array else None
        if in_force is None:
            continue
        store = workspace.open_store(kind.name, in_force)
        prefix = relative_path(workspace, store.folder) + "/"
        arrays = {path.removeprefix(prefix): entry for path, entry in present.items() if path.startswith(prefix)}
        known = {name for name, entry in arrays.items() if (prefix + name, entry) in verified}
        of_parts = [name for name in arrays if name.endswith(".npy") and f"{name[:-4]}.parquet" in arrays]
        if all(name in known for name in of_parts):
            continue
        for name in verify_arrays(store, known.__contains__):
            if name in arrays:
                verified.add(prefix + name, arrays[name])


def _tables_of_coreset(workspace: Workspace, recipe: str) -> Iterator[_Table]:
    folder = workspace.coreset(recipe)
    try:
        version = PublishedVersion(folder, read_manifest(workspace, recipe) or {})
    except DselectError:
        version = PublishedVersion(folder, {})
    for name in FILES:
        check = partial(_check_manifest, workspace, recipe) if name == MANIFEST else partial(check_file, folder, name)
        yield _Table("coreset", recipe, version.path(name), check, may_be_empty=name.endswith(".jsonl"))


def _check_manifest(workspace: Workspace, recipe: str) -> None:
    manifest = read_manifest(workspace, recipe)
    if manifest is not None and not {"sources", "counts", "scores"} <= manifest.keys():
        raise DselectError("it is not a manifest")


def _parquet(asset: str, partition: str | None, path: UPath, required: str | None = None) -> _Table:
    """A Parquet table; required: a key of its metadata."""

    def check() -> None:
        _, metadata = read_with_metadata(path)
        if required is not None and required not in metadata:
            raise DselectError(f"no `{required}` in its metadata")

    return _Table(asset, partition, path, check)


def _needed(workspace: Workspace, *, by_source: bool | None = None) -> list[Kind]:
    names = needed_kinds(workspace.settings)
    kinds = [kind for kind in kinds_in(workspace.settings).values() if kind.name in names]
    return [kind for kind in kinds if by_source is None or is_over_pool(workspace.settings, kind) != by_source]


def _asset_of(kind: Kind) -> str:
    """The asset that makes a kind's table over the pool."""
    return CANDIDATE_GRADES if kind.by_source else kind.asset


def _model_provenance(workspace: Workspace) -> dict[str, Any] | None:
    try:
        return target_model.known_provenance(workspace, target_model.read_record(workspace)["identity"])
    except _UNREADABLE:
        return None


def _landed(workspace: Workspace, source: str) -> SourceRows | None:
    try:
        samples, metadata = read_with_metadata(workspace.samples(source), ["sample_id"])
        return SourceRows(samples, metadata["version"])
    except _UNREADABLE:
        return None
