"""Make one coreset: read the pool, select, write the files and the manifest, and say what changed since the last."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl

from dselect_core.coreset.candidate_grades import require_certain
from dselect_core.coreset.diff import SCHEMA as CHANGES
from dselect_core.coreset.diff import changes, counted
from dselect_core.coreset.export import write_coreset
from dselect_core.coreset.manifest import is_of, make_manifest, read_manifest, sources_left
from dselect_core.coreset.published import PublishedVersion, publish, read_version
from dselect_core.coreset.spec import read_spec, spec_version
from dselect_core.errors import DamagedFileError, DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.kinds import kind_of
from dselect_core.pool.corpus_index import grades_candidates_only, read_index
from dselect_core.pool.near_duplicates import read_near_duplicates
from dselect_core.pool.pool_tables import load_pool, load_targets, pool_origins, pool_samples, version_of_pool
from dselect_core.progress import Progress
from dselect_core.redact import redact_all
from dselect_core.rounds.make_round import Rounds
from dselect_core.rounds.round_record import RoundRecord
from dselect_core.rounds.selection_of_rounds import read_rounds, selection_of_rounds
from dselect_core.scores.forward_scores import uncomputable_kinds
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.judges_spec import GRADES
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import SCHEMA as ORDER_COLUMNS
from dselect_core.select.saved_order import read_saved_order, write_saved_order
from dselect_core.select.select import Selection, required_kinds, select
from dselect_core.select.strategies import strategy
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped

_MISSED, _MOVED = 20, 30  # rows that the page of a coreset tells

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coreset:
    """A coreset as it was made.

    counts: as in its manifest. version: hash of the chosen ids in order. changes: who entered, left and stayed since it
    was made before, and why (diff.py); None where there was none. last_moved: the same of the last time that its
    version moved, which changes.parquet keeps. missed: `narrowly_missed`. samples: SAMPLES of the chosen, the missed,
    and of those that `first_moved` names, where they are still in the pool.
    """

    spec: CoresetSpec
    selection: Selection
    pool: Pool
    samples: pl.DataFrame
    counts: dict[str, int]
    version: str
    changes: pl.DataFrame | None
    last_moved: pl.DataFrame | None
    missed: pl.DataFrame


@dataclass(frozen=True)
class Candidates:
    """What a recipe chooses from.

    version: of the pool's samples and of exactly the scores that the recipe reads. rows: samples of the pool. scores:
    {"samples", "held out", "near-duplicates", "targets", kind, or "lengths": its version}.
    """

    version: str
    rows: int
    scores: dict[str, str]


def candidates(workspace: Workspace, recipe: str) -> Candidates:
    """What the recipe would choose from, so that its coreset is made again only when that changes.

    The lengths in tokens, which every coreset shows, depend on the model and not on β, and count as such.
    """
    index = read_index(workspace)
    versions = {"samples": index.version_of(frozenset())}
    if index.held_out.version is not None:
        versions["held out"] = index.held_out.version
    near_duplicates = read_near_duplicates(workspace)
    if near_duplicates.version is not None:
        versions["near-duplicates"] = near_duplicates.version
    spec = read_spec(workspace, recipe)
    if strategy(spec.strategy).target_kind is not None:
        versions["targets"] = index.targets_version or ""
    absent = uncomputable_kinds(workspace)
    for name in sorted(required_kinds(spec)):
        if name in absent:
            raise DselectError(f"recipe {recipe}: {absent[name]}. Choose another strategy for it, or another model.")
        if name == GRADES and grades_candidates_only(workspace.settings):
            require_certain(workspace, index, recipe, spec)
        versions[name] = version_of_pool(workspace, index, kind_of(name))
    of_text = []
    for name, fingerprints in index.fingerprints.items():
        kind = kind_of(name)
        for made_by in fingerprints if kind.of_text_columns() else ():
            provenance = workspace.open_store(name, made_by).provenance
            of_text.append({key: value for key, value in provenance.items() if key not in kind.parameters})
    if of_text:
        versions["lengths"] = fingerprint(of_text[0] if len(of_text) == 1 else of_text)
    return Candidates(fingerprint(versions), index.frame.height, versions)


def rounds_of(workspace: Workspace, recipe: str) -> Rounds:
    """The rounds of a recipe as it is recorded, over the pool of the corpus index."""
    spec, version = read_spec(workspace, recipe), candidates(workspace, recipe).version
    return Rounds(workspace, recipe, spec, read_index(workspace), spec_version(spec), version)


def make_coreset(workspace: Workspace, recipe: str, progress: Progress | None = None) -> Coreset:
    """Select by the recorded spec of `recipe` from the pool of the corpus index, and write everything.

    An order that was made before from the same scores is cut or continued. Raises DselectError naming the recipe: an
    empty pool, a budget the pool cannot fill, missing scores.
    """
    spec = read_spec(workspace, recipe)
    index = read_index(workspace)
    kinds, target_kind = required_kinds(spec), strategy(spec.strategy).target_kind
    records: list[RoundRecord] = []
    if GRADES in kinds and grades_candidates_only(workspace.settings):
        # `candidates` may have been made before a recipe changed, and not again: a cap ended the grading.
        require_certain(workspace, index, recipe, spec)
    try:
        if spec.has_rounds:
            rounds = rounds_of(workspace, recipe)
            records = read_rounds(rounds)
            pool, selection = selection_of_rounds(rounds, records)
        else:
            pool = load_pool(workspace, index, kinds, spec.grade)
            if target_kind is not None:
                pool = replace(pool, targets=load_targets(workspace, index, target_kind))
            selection = select(
                pool, spec, progress, lambda key: read_saved_order(workspace.orders / f"{key}.parquet", key)
            )
    except DselectError as error:
        raise DselectError(f"coreset {recipe}: {error}") from None
    for warning in selection.composition.collapsed:
        _log.warning("coreset %s: %s", recipe, warning)
    manifest = redact_all(make_manifest(workspace, recipe, spec, index, kinds)) | {
        **({"rounds": [redact_all(_of_round(record)) for record in records]} if records else {}),
        "order": None if selection.saved is None else selection.saved.key,
        "origins": pool_origins(workspace, index),
        "sources_left": sources_left(workspace, recipe, index),
    }
    if pool.ungraded is not None:
        not_graded = int(pool.ungraded.sum())
        manifest["candidate_grades"] = {
            "version": version_of_pool(workspace, index, kind_of(GRADES)),
            "not_graded": not_graded,
            "share_not_graded": round(not_graded / max(1, len(pool)), 4),
        }
    if pool.targets is not None:
        manifest["targets"] = {
            "version": index.targets_version,
            "examples": len(pool.targets),
            "sources": index.targets,
        }
    manifest["version"] = version = digest(selection.order["sample_id"])
    last = _last_made(workspace, recipe)
    changed = None if last is None else _changes(workspace, last, spec, selection, manifest)
    is_kept = last is not None and last.version == version and last.changes is not None and last.changes.height
    moved = last.changes if last is not None and is_kept else changed
    if moved is not None:
        manifest["changes"] = counted(moved)
    if selection.saved is not None and selection.saved_changed:
        write_saved_order(selection.saved, workspace.orders / f"{selection.saved.key}.parquet")
    missed = narrowly_missed(selection)
    told = [selection.order["sample_id"], missed["sample_id"], first_moved(moved)["sample_id"]]
    samples = pool_samples(workspace, index, pl.concat(told))
    raise_if_stopped()  # nothing is published after it
    written_changes = pl.DataFrame(schema=CHANGES) if moved is None else moved
    write = partial(publish, keep=workspace.settings.keep_versions)
    counts = write_coreset(workspace.coreset(recipe), selection, samples, manifest, written_changes, write)
    _drop_unused_orders(workspace)
    return Coreset(spec, selection, pool, samples, counts, version, changed, moved, missed)


def narrowly_missed(selection: Selection) -> pl.DataFrame:
    """The rows of the saved order that would have come next: sample_id, rank, gain, standing, is_bound; few.

    First those that a larger budget took, then by standing. Empty where the order was not saved.
    """
    saved = selection.saved
    if saved is None:
        return pl.DataFrame(schema={"sample_id": pl.String()})
    beyond = saved.table.lazy().filter(pl.col("reason").is_null()).with_columns(is_bound=saved.is_bound)
    beyond = beyond.select("sample_id", "rank", "gain", "standing", "is_bound")
    beyond = beyond.join(selection.order.select("sample_id").lazy(), on="sample_id", how="anti")
    missed = beyond.sort("rank", pl.col("standing").neg(), "sample_id", nulls_last=True).head(_MISSED).collect()
    return missed.filter(pl.col("rank").is_not_null() | pl.col("standing").is_not_null())


def first_moved(moved: pl.DataFrame | None) -> pl.DataFrame:
    """The first rows of `Coreset.last_moved` that came or left by a cause."""
    moved = pl.DataFrame(schema=CHANGES) if moved is None else moved
    return moved.filter(pl.col("cause").is_not_null()).head(_MOVED)


def _of_round(record: RoundRecord) -> dict[str, Any]:
    """What a manifest says of a round. The recipe and the pool it says once."""
    facts = {key: value for key, value in record.facts.items() if key not in ("recipe", "spec", "pool", "rounds")}
    return {**facts, "version": record.version, "came_in": record.came_in.height}


@dataclass(frozen=True)
class _LastMade:
    """The coreset that was made last. changes: None where it has no such table (version 0.1), or a damaged one."""

    manifest: dict[str, Any]
    order: pl.DataFrame
    changes: pl.DataFrame | None

    @property
    def version(self) -> str:
        return digest(self.order["sample_id"])

    @classmethod
    def of(cls, made: PublishedVersion) -> "_LastMade":
        try:
            moved = made.read_table("changes.parquet")
        except (FileNotFoundError, DamagedFileError):
            moved = None
        return cls(made.manifest, made.read_table("order.parquet"), moved)


def _last_made(workspace: Workspace, recipe: str) -> _LastMade | None:
    """None where there is none. One whose files are damaged counts as none, and the log says so."""
    try:
        return read_version(workspace.coreset(recipe), _LastMade.of)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        _log.warning("coreset %s is not compared with the last one: %s", recipe, error)
        return None


def _changes(
    workspace: Workspace, last: _LastMade, spec: CoresetSpec, selection: Selection, manifest: dict[str, Any]
) -> pl.DataFrame | None:
    """Against the coreset that was made last; None if the order it was cut from is lost."""
    if selection.saved is None:
        return None
    last_manifest = last.manifest
    last_key = last_manifest.get("order") or ""
    last_order = read_saved_order(workspace.orders / f"{last_key}.parquet", last_key)
    if last_order is None:
        return None

    def pool(table: pl.DataFrame, order: pl.DataFrame) -> pl.DataFrame:
        # What is neither the order's own nor its state are scores, as the strategy read them.
        ranks = order.select("sample_id", chosen="rank")
        scores = [c for c in table.columns if c not in ORDER_COLUMNS and not c.startswith("state_")]
        return table.select("sample_id", "reason", *scores).join(ranks, on="sample_id", how="left")

    last_scores, scores = last_manifest["scores"], manifest["scores"]
    return changes(
        pool(last_order.table, last.order),
        pool(selection.saved.table, selection.order),
        same_recipe=is_of(last_manifest, spec),
        same_vectors=_scores_of_rounds(last_manifest) == _scores_of_rounds(manifest)
        and all(
            last_scores.get(kind, {}).get("fingerprint") == scores[kind]["fingerprint"]
            for kind in scores
            if kind_of(kind).array is not None
        ),
        same_targets=last_manifest.get("targets") == manifest.get("targets"),
    )


def _scores_of_rounds(manifest: dict[str, Any]) -> list[Any]:
    """Which scores each round read."""
    return [of_round["scores"] for of_round in manifest.get("rounds", [])]


def _drop_unused_orders(workspace: Workspace) -> None:
    """Remove orders that no coreset is cut from. Another process that is about to use one only loses time.

    None is removed where a manifest is damaged, so that nobody knows which order it names.
    """
    try:
        used = {(read_manifest(workspace, recipe) or {}).get("order") for recipe in workspace.settings.coresets}
    except DamagedFileError as error:
        _log.warning("unused orders are kept: %s", error)
        return
    for file in list(workspace.orders.iterdir()) if workspace.orders.exists() else []:
        if file.suffix == ".parquet" and file.stem not in used:
            file.unlink(missing_ok=True)
