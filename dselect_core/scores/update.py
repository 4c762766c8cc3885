"""Scores of a source: what is missing (`score_todos`), and its computation (`update_scores`).

The to-do asks the store what is missing; the update computes exactly that in a fixed order and appends it as it comes,
and a plan prices the same answer before anything runs. A run that is killed loses at most the part it held in memory
(`parts:` in the settings), and of what was paid for nothing; the next one asks the store again and goes on from there.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from dselect_core.compute.engine import compute
from dselect_core.compute.shards import Shard
from dselect_core.corpus.sample import conform_samples
from dselect_core.errors import DselectError
from dselect_core.graders.spend import Purpose, spend_figures, spending_on
from dselect_core.kinds import TO_REPEAT, TRIED_AGAIN, FromSamples, FromScores, Kind, kind_of
from dselect_core.pool.future_pool import SourceRows
from dselect_core.progress import Progress
from dselect_core.scores.attempts import attempts
from dselect_core.scores.forward_scores import uncomputable_kinds
from dselect_core.scores.provenance import future_store, store_of
from dselect_core.scores.repeats import Repeat, repeats_of
from dselect_core.scores.same_answers import StoreWithSameAnswers
from dselect_core.scores.score_table import TableReport, version_of
from dselect_core.scores.score_work import ModelWork, PassWork, TextWork
from dselect_core.select.judges_spec import GRADES
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_with_metadata
from dselect_core.storage.score_store import COMPACT_MIN_PARTS, Store
from dselect_core.storage.source_head import Head, readable_head, write_head

ROWS_CHANGED = "its rows changed"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreTodo:
    """What is to be computed of one kind of score for one source.

    missing_rows: sample_id, in the order of the source's samples. why: the reason to run; None where the source's head
    says that its scores are those of these samples under this provenance, and the store has them.
    given_up: rows that are not tried again, for they failed so often. lost: the head says so, and the store has some of
    them no more, or only failed attempts, or one of their files is lost. replaces_scores: samples that were scored
    before, for the coresets that stand, get another value. repeats: what is graded once more. head: what was the
    source's before; rows_changed: it is of other samples. store: None where the provenance cannot be known before
    the run.
    """

    kind: Kind
    source: str
    missing_rows: pl.DataFrame
    given_up: int
    why: str | None
    lost: bool
    replaces_scores: bool
    store: Store | None
    head: Head | None
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def rows_changed(self) -> bool:
        """Whether the source's head is of other samples than these, so that the source is not complete yet."""
        return self.why == ROWS_CHANGED


def score_todos(
    workspace: Workspace,
    kind: Kind,
    sources: Mapping[str, SourceRows],
    store: Store | None,
    other_reasons: Mapping[str, str] | None = None,
    lost_files: Mapping[str, str] | None = None,
) -> dict[str, ScoreTodo]:
    """Per source, what is to be computed of a kind.

    store: of the provenance in force; None where it is not known yet, so that everything is missing. other_reasons:
    {source: why it runs although its own state gives no reason}. lost_files: {source: which of its files is lost}: it
    is written again, and the scores are those that were. A sample that several of the sources hold is missing
    in the first that runs: the others will find it in the store.
    """
    if not sources:
        return {}
    ids = pl.concat([rows.samples.select("sample_id") for rows in sources.values()]).unique(maintain_order=True)
    missing_ids = ids if store is None else store.missing(ids)
    # A row that was tried in vain is missing, but not lost. After so many attempts it is not even missing.
    absent_ids, given_up_ids = missing_ids, ids.clear()
    if store is not None and store.retry_column is not None:
        absent_ids = store.missing(ids, include_failed=False)
        failed_ids = missing_ids.join(absent_ids, on="sample_id", how="anti", maintain_order="left")
        given_up_ids = _given_up(kind, store, failed_ids, workspace)
        missing_ids = missing_ids.join(given_up_ids, on="sample_id", how="anti", maintain_order="left")
    todos = {}
    for source, rows in sources.items():
        head = readable_head(workspace.head(kind.name, source))  # written again where it cannot be read
        another = head is not None and (store is None or head.fingerprint != store.fingerprint)
        lost_file = (lost_files or {}).get(source)
        lost, retried = lost_file is not None, False
        if head is None:
            why: str | None = lost_file or "never made"
        elif another:
            why = "its provenance changed"
        elif head.samples != rows.version:
            why = ROWS_CHANGED
        elif not _only(rows.samples, absent_ids).is_empty():
            why, lost = "scores are gone from the store", True
        elif kind.retry(workspace.settings) and (failed := _only(rows.samples, missing_ids).height):
            why, lost, retried = f"{failed} failed {kind.name} {TRIED_AGAIN}", True, True
        else:
            why = (other_reasons or {}).get(source, lost_file)
        repeats = [] if store is None else repeats_of(workspace, kind, rows.samples)
        if why is None and (to_repeat := sum(repeat.missing.height for repeat in repeats)):
            why, lost = f"{to_repeat} {kind.name} {TO_REPEAT}", True
        missing_rows = _only(rows.samples.select("sample_id"), missing_ids)
        if why is not None:
            missing_ids = missing_ids.join(missing_rows, on="sample_id", how="anti", maintain_order="left")
        # Without a head the kind is new to these samples, unless the samples themselves are new.
        replaces_scores = another or retried or (head is None and not rows.moved and not lost)
        given_up = _only(rows.samples, given_up_ids).height
        todos[source] = ScoreTodo(
            kind, source, missing_rows, given_up, why, lost, replaces_scores, store, head, repeats
        )
    return todos


def todos_of_sources(
    workspace: Workspace,
    kind: Kind,
    sources: Mapping[str, SourceRows],
    model: Mapping[str, Any] | None,
    other_reasons: Mapping[str, str] | None = None,
    lost_files: Mapping[str, str] | None = None,
) -> dict[str, ScoreTodo]:
    """`score_todos` of sources that may have provenances of their own. model: as of `future_store`. Writes nothing."""
    todos: dict[str, ScoreTodo] = {}
    for group in workspace.settings.alike(sources, kind.maker) if kind.of_its_source else [list(sources)]:
        of_group = workspace.of_source(group[0]) if kind.of_its_source else workspace
        rows = {source: sources[source] for source in group}
        todos |= score_todos(of_group, kind, rows, future_store(of_group, kind, model), other_reasons, lost_files)
    return {source: todos[source] for source in sources if source in todos}


def _given_up(kind: Kind, store: Store, failed_ids: pl.DataFrame, workspace: Workspace) -> pl.DataFrame:
    """sample_id of the rows that were tried in vain as often as the settings allow."""
    limit = kind.give_up_after(workspace.settings)
    if limit is None or failed_ids.is_empty():
        return failed_ids.clear()
    failed = store.read(failed_ids, [kind.value, kind.reason_column])
    return failed.filter(attempts(kind, workspace.settings) >= limit).select("sample_id")


class KindsNotComputedError(DselectError):
    """Kinds that could not be computed, after all others were. reports: of those others, {kind: report}."""

    def __init__(self, failures: Mapping[str, DselectError], reports: dict[str, TableReport]):
        super().__init__("; ".join(str(error) for error in failures.values()))
        self.reports = reports
        self.again = any(error.again for error in failures.values())


def update_scores(
    workspace: Workspace,
    source: str,
    names: frozenset[str],
    progress: Progress | None = None,
    purpose: Purpose | None = None,
) -> dict[str, TableReport]:
    """Compute the missing scores of the kinds `names` for a source, and write its heads. {kind: report}.

    purpose: what is paid for is paid in its run; None: in one of its own.
    Kinds that come from the forward pass share one. Raises DselectError when there is no model yet, or for grades where
    the settings have candidates alone graded; KindsNotComputedError when a kind as a whole cannot be computed: all
    others were computed by then.
    """
    if GRADES in names and workspace.settings.grader.candidates == "only":
        raise DselectError(
            "grader.candidates: `only` has no source graded as a whole; candidate_grades grades what can still be "
            "chosen. Set `candidates: all` to have all rows graded"
        )
    workspace = workspace.of_source(source)
    samples, landed = read_with_metadata(workspace.samples(source))
    samples = conform_samples(samples)
    rows = {source: SourceRows(samples, landed["version"])}
    stores = {name: store_of(workspace, name) for name in sorted(names)}
    for store in stores.values():
        if isinstance(store, StoreWithSameAnswers):
            store.adopt(samples)
    todos = {name: score_todos(workspace, kind_of(name), rows, store)[source] for name, store in stores.items()}
    to_compute = {name: todo for name, todo in todos.items() if not todo.missing_rows.is_empty()}
    purpose = purpose or Purpose(source=source)
    from_pass, from_scores = {}, {}
    failures: dict[str, DselectError] = {}
    for name, todo in to_compute.items():
        computation = todo.kind.computed_by(workspace.settings)
        if isinstance(computation, FromSamples):
            missing_samples = _only(samples, todo.missing_rows)
            row_progress = with_reused(progress, samples.height - missing_samples.height)
            try:
                compute_from_samples(workspace, todo.kind, stores[name], missing_samples, purpose, row_progress)
            except DselectError as error:
                failures[name] = error
        elif isinstance(computation, FromScores):
            from_scores[name] = todo
        else:
            from_pass[name] = todo
    tokens = _forward_pass(workspace, samples, from_pass, failures, progress) if from_pass else 0
    for name, todo in from_scores.items():
        try:
            tokens += _compute_from_scores(workspace, samples, todo, progress)
        except DselectError as error:
            failures[name] = error
    for todo in todos.values():
        if todo.kind.name not in failures:
            _repeat(todo, samples, purpose)
    by_model = {*from_pass, *from_scores}
    reports = {
        name: _report(workspace, todo, samples, landed["version"], tokens if name in by_model else None, purpose)
        for name, todo in todos.items()
        if name not in failures
    }
    if failures:
        raise KindsNotComputedError(failures, reports)
    return reports


def compute_from_samples(
    workspace: Workspace,
    kind: Kind,
    store: Store,
    samples: pl.DataFrame,
    purpose: Purpose,
    progress: Progress | None = None,
) -> None:
    """Compute a kind that comes from the samples' text, and append its rows to the store as they are finished.

    Endpoints are called from this process, whatever the engine: there is one ledger of what they cost. Raises
    DselectError when none can be computed; what was finished is kept.
    """
    computation = kind.computed_by(workspace.settings)
    assert isinstance(computation, FromSamples)
    work = TextWork(workspace, kind.name, store.fingerprint)
    with spending_on(purpose):
        if computation.paid:
            work.into(store, samples, progress)
        else:
            compute(workspace.settings, work, Shard(samples.select("sample_id"), samples), progress)


def _repeat(todo: ScoreTodo, samples: pl.DataFrame, purpose: Purpose) -> None:
    """Grade again what is to be. A failure costs no grade: it is told, and what is missing is asked for again."""
    for repeat in todo.repeats:
        if repeat.missing.is_empty():
            continue
        store = store_of(repeat.workspace, todo.kind.name)
        try:
            compute_from_samples(repeat.workspace, todo.kind, store, _only(samples, repeat.missing), purpose)
        except DselectError as error:
            _log.warning("%s of %s are not graded again: %s", todo.kind.name, todo.source, error)
            return


def _forward_pass(
    workspace: Workspace,
    samples: pl.DataFrame,
    todos: dict[str, ScoreTodo],
    failures: dict[str, DselectError],
    progress: Progress | None,
) -> int:
    """One pass over the samples that lack any of the kinds; returns the tokens it took.

    failures: gets the kinds that cannot be computed.
    """
    impossible = uncomputable_kinds(workspace)
    failures |= {name: DselectError(reason) for name, reason in impossible.items() if name in todos}
    todos = {name: todo for name, todo in todos.items() if name not in failures}
    if not todos:
        return 0
    missing_samples = _only(samples, pl.concat([todo.missing_rows for todo in todos.values()]))
    row_progress = with_reused(progress, samples.height - missing_samples.height)
    lacking = [
        pl.col("sample_id").is_in(todo.missing_rows["sample_id"].implode()).alias(name) for name, todo in todos.items()
    ]
    rows = missing_samples.select("sample_id", *lacking)
    work = PassWork(workspace, {name: todo.store.fingerprint for name, todo in todos.items() if todo.store is not None})
    outcome = compute(workspace.settings, work, Shard(rows, missing_samples), row_progress)
    failures |= outcome.failures
    return outcome.tokens


def _compute_from_scores(
    workspace: Workspace, samples: pl.DataFrame, todo: ScoreTodo, progress: Progress | None
) -> int:
    """Compute and append the missing rows of a kind that starts from other kinds' scores; returns the tokens it took.

    Raises DselectError when those scores are not there.
    """
    computation = todo.kind.computed_by(workspace.settings)
    assert isinstance(computation, FromScores)
    assert todo.store is not None
    rows = todo.missing_rows
    for column, (kind, name) in computation.inputs.items():
        scores = store_of(workspace, kind).read(rows, [name])
        if scores.height < rows.height:
            lacking = rows.height - scores.height
            raise DselectError(f"{todo.kind.name} cannot be computed: {lacking} of {rows.height} rows have no {kind}")
        rows = rows.join(scores.select("sample_id", pl.col(name).alias(column)), on="sample_id", maintain_order="left")
    row_progress = with_reused(progress, samples.height - rows.height)
    work = ModelWork(workspace, todo.kind.name, todo.store.fingerprint)
    return compute(workspace.settings, work, Shard(rows, _only(samples, rows)), row_progress).tokens


def with_reused(progress: Progress | None, reused_rows: int) -> Progress | None:
    """The same progress, which also says how many rows need not be computed."""
    if progress is None:
        return None
    inner = progress

    def tell(done: int, total: int, reused: int = 0) -> None:
        inner(done, total, reused_rows)

    return tell


def require_complete(store: Store, wanted: pl.DataFrame, rows: pl.DataFrame) -> None:
    """Raises DselectError when rows that were just written are not in the store."""
    if rows.height < wanted.height:
        raise DselectError(
            f"{store.folder}: {wanted.height - rows.height} of {wanted.height} rows were written and are not there any "
            f"more. Did something remove files? Run `dselect refresh` again."
        )


def _report(
    workspace: Workspace, todo: ScoreTodo, samples: pl.DataFrame, landed: str, tokens: int | None, purpose: Purpose
) -> TableReport:
    """Look up the source's scores as they are now (no vector is read for that), and write its head."""
    store, kind, computed = todo.store, todo.kind, todo.missing_rows.height
    assert store is not None
    if computed:
        store.compact(COMPACT_MIN_PARTS)
    frame, types = store.read_without_vectors(samples.select("sample_id"))
    require_complete(store, samples, frame)
    version = version_of(frame, kind.value, store.fingerprint)
    reused = samples.height - computed
    computation, figures = kind.computed_by(workspace.settings), kind.figures(frame)
    if isinstance(computation, FromSamples) and computation.paid:
        figures = figures | spend_figures(workspace, purpose)
    report = TableReport(
        frame,
        kind.value,
        version,
        store.fingerprint,
        computed,
        reused,
        tokens,
        store.skipped,
        figures,
        types,
    )
    nulls = report.value.null_count() if frame.height else 0
    write_head(Head(store.fingerprint, version, landed, frame.height, nulls), workspace.head(kind.name, todo.source))
    return report


def _only(rows: pl.DataFrame, ids: pl.DataFrame) -> pl.DataFrame:
    """The rows whose sample is among `ids`, in their order."""
    # Mostly there are none, and a join of nothing takes as long as a small one.
    return rows.clear() if ids.is_empty() else rows.join(ids, on="sample_id", how="semi", maintain_order="left")
