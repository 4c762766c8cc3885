"""Bring scores up to date: ask the store what is missing, compute that in a fixed order, append it as it comes.

A run that is killed loses at most the part it held in memory (`parts:` in the settings); the next one asks the store
again and goes on from there. The neighbours are the one thing that is patched, not looked up: exactly, see
neighbors.py.
"""

import json
from contextlib import ExitStack

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.graders import grades as dependability
from dselect_core.lm.target_model import current
from dselect_core.neighbors.nearest import SCHEMA as NEIGHBORS
from dselect_core.neighbors.nearest import patchable, recall, recipe, update
from dselect_core.pool.corpus_index import Index, pool_samples, pool_scores, pool_vectors
from dselect_core.progress import Progress
from dselect_core.scores import embeddings, miwv
from dselect_core.scores.forward_scores import one_pass
from dselect_core.scores.provenance import store_of
from dselect_core.scores.score_table import Head, TableReport, version_of, write_head
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.appender import Appender
from dselect_core.storage.files import read_metadata, read_parquet, read_with_metadata, write_parquet
from dselect_core.storage.score_store import COMPACT_FROM, Store

# Seconds of a judge's work that a killed run may lose: it is paid for.
PAID_SECONDS = 5.0


def update_model_scores(
    workspace: Workspace, source: str, kinds: frozenset[str], progress: Progress | None = None
) -> dict[str, TableReport]:
    """Scores of `kinds` (⊆ one_pass.KINDS) of a source, by one forward pass over the samples that lack any.

    Prompt embeddings are the encoder's where the settings name one. Raises DselectError when there is no model yet.
    """
    settings = workspace.settings
    samples, landed = read_with_metadata(workspace.samples(source))
    stores = {kind: store_of(workspace, kind) for kind in sorted(kinds)}
    missing = {kind: store.missing(samples.select("sample_id")) for kind, store in stores.items()}
    apart = "prompts" if settings.embeddings.path is not None else None
    want = frozenset(kind for kind, rows in missing.items() if rows.height and kind != apart)
    if apart in missing and missing[apart].height:
        lacking = _of(samples, missing[apart])
        with _appender(workspace, stores[apart]) as appender:
            for frame in embeddings.encode(lacking, settings.embeddings, _reusing(progress, samples, lacking)):
                appender.add(frame)
    tokens: dict[str, int] = {}
    if want:
        lm = current(workspace)
        before = lm.forward.tokens
        lacking = _of(samples, pl.concat([missing[kind] for kind in want]))
        with ExitStack() as stack:
            appenders = {kind: stack.enter_context(_appender(workspace, stores[kind])) for kind in sorted(want)}
            for scored in one_pass(lm, lacking, want, settings, _reusing(progress, samples, lacking)):
                for kind, frame in scored.items():
                    appenders[kind].add(frame.join(missing[kind], on="sample_id", how="semi"))
        # The pass is one: every kind that came from it names its tokens.
        tokens = dict.fromkeys(want, lm.forward.tokens - before)
    return {
        kind: _report(
            workspace, kind, source, samples, landed["version"], store, missing[kind].height, tokens.get(kind)
        )
        for kind, store in stores.items()
    }


def update_grades(workspace: Workspace, source: str, progress: Progress | None = None) -> TableReport:
    """The grades of a source. A grade that failed is tried again; one that was given is kept."""
    spec = workspace.settings.grader
    samples, landed = read_with_metadata(workspace.samples(source))
    store = store_of(workspace, "grades")
    missing = store.missing(samples.select("sample_id"))
    if missing.height:
        lacking = _of(samples, missing)
        with _appender(workspace, store, None if spec.is_builtin else PAID_SECONDS) as appender:
            dependability.grade(lacking, spec, _reusing(progress, samples, lacking), appender.add)
    return _report(workspace, "grades", source, samples, landed["version"], store, missing.height)


def update_neighbors(workspace: Workspace, index: Index, progress: Progress | None = None) -> TableReport:
    """Each pooled sample's shot, patched where rows came or went; `computed` counts the new and the reassigned.

    The report's figures say how it was searched and, where that was not exact, the recall measured on this very table.
    """
    spec, rows, prompts = workspace.settings.neighbors, index.frame.height, index.fingerprints["prompts"]
    made_by = fingerprint(recipe(spec, rows, prompts))
    # Vectors of a sample under one recipe never change, so this says whether there is anything to look at.
    inputs = fingerprint([made_by, index.version_of(frozenset({"prompts"}))])
    before, seen = _before(workspace)
    if before is not None and seen.get("inputs") == inputs:
        return TableReport(
            before, seen["version"], made_by, computed=0, reused=before.height, figures=json.loads(seen["figures"])
        )
    held = before if seen.get("fingerprint") in patchable(spec, rows, prompts) else None
    nprobe = spec.nprobe_for(rows)
    figures: dict[str, str | int | float] = {"search": "exact" if nprobe is None else f"approximate, nprobe {nprobe}"}
    if index.sources:
        vectors = pool_vectors(workspace, index, "prompts")
        found = update(vectors.keys["sample_id"], vectors.values, held, progress, nprobe)
        measured = None if nprobe is None else recall(found, vectors.values)
        if measured is not None:
            figures |= {"recall@1": measured[0], "recall@1 measured on rows": measured[1]}
    else:
        found = pl.DataFrame(schema=NEIGHBORS)
    version = version_of(found, made_by)
    metadata = {"fingerprint": made_by, "version": version, "inputs": inputs, "figures": json.dumps(figures)}
    write_parquet(found, workspace.neighbors, metadata)
    same = 0 if held is None else found.join(held, on=["sample_id", "shot_id"], how="semi", nulls_equal=True).height
    return TableReport(found, version, made_by, computed=found.height - same, reused=same, figures=figures)


def _before(workspace: Workspace) -> tuple[pl.DataFrame | None, dict[str, str]]:
    try:
        return read_with_metadata(workspace.neighbors)
    except FileNotFoundError:
        return None, {}


def update_miwv(workspace: Workspace, index: Index, progress: Progress | None = None) -> TableReport:
    """MIWV over the pool; a value is computed once for a sample and its shot, and found again when the shot returns."""
    store = store_of(workspace, "miwv")
    pairs = read_parquet(workspace.neighbors).join(index.frame, on="sample_id", how="semi", maintain_order="left")
    missing = store.missing(pairs.select("sample_id", "shot_id"))
    tokens = None
    if missing.height:
        zero_shot = pool_scores(workspace, index, "difficulty", ["loss"]).rename({"loss": "zero_shot_loss"})
        todo = missing.join(zero_shot, on="sample_id", how="left", maintain_order="left")
        with _appender(workspace, store) as appender:
            lm, samples = current(workspace), pool_samples(workspace, index)
            seen = lm.forward.tokens
            for frame in miwv.compute(lm, samples, todo, _reusing(progress, pairs, missing)):
                appender.add(frame)
        tokens = lm.forward.tokens - seen
        store.compact(COMPACT_FROM)
    values = store.read(pairs)
    _complete(store, "miwv", pairs, values)
    # How alike a sample and its shot are is the neighbours' to say; no value depends on it.
    table = values.join(
        pairs.rename({"similarity": "shot_similarity"}), on=["sample_id", "shot_id"], how="left", nulls_equal=True
    )
    shots = read_metadata(workspace.neighbors)["version"]
    version = fingerprint([version_of(values, store.fingerprint), shots])
    write_parquet(table, workspace.miwv, {"fingerprint": store.fingerprint, "version": version})
    computed, reused = missing.height, pairs.height - missing.height
    return TableReport(table, version, store.fingerprint, computed, reused, tokens, store.skipped)


def _of(samples: pl.DataFrame, ids: pl.DataFrame) -> pl.DataFrame:
    return samples.join(ids, on="sample_id", how="semi", maintain_order="left")


def _reusing(progress: Progress | None, rows: pl.DataFrame, todo: pl.DataFrame) -> Progress | None:
    """The same progress, told how many rows need not be done."""
    if progress is None:
        return None
    told = progress

    def tell(done: int, total: int, reused: int = 0) -> None:
        told(done, total, rows.height - todo.height)

    return tell


def _appender(workspace: Workspace, store: Store, seconds: float | None = None) -> Appender:
    parts = workspace.settings.parts
    return Appender(store, parts.rows, min(parts.seconds, seconds or parts.seconds))


def _report(
    workspace: Workspace,
    kind: str,
    source: str,
    samples: pl.DataFrame,
    landed: str,
    store: Store,
    computed: int,
    tokens: int | None = None,
) -> TableReport:
    """Look up what stands for the source now (no vector is read for that), and write its head."""
    if computed:
        store.compact(COMPACT_FROM)
    frame, types = store.outline(samples.select("sample_id"))
    _complete(store, kind, samples, frame)
    version = version_of(frame, store.fingerprint)
    reused = samples.height - computed
    report = TableReport(frame, version, store.fingerprint, computed, reused, tokens, store.skipped, types=types)
    nulls = report.value.null_count() if frame.height else 0
    write_head(Head(store.fingerprint, version, landed, frame.height, nulls), workspace.head(kind, source))
    return report


def _complete(store: Store, kind: str, wanted: pl.DataFrame, found: pl.DataFrame) -> None:
    if found.height < wanted.height:
        raise DselectError(
            f"{store.folder}: {wanted.height - found.height} of {wanted.height} rows of {kind} were written and are "
            f"not there any more. Did something remove files? Run `dselect refresh` again."
        )
