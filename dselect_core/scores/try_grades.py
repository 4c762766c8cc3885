"""Grades of a few rows, to be looked at before all are bought. They are kept: a refresh does not buy them again.

The rows are those with the lowest ids among all that have no grade yet. An id is a hash, so that is a random draw, and
the same one whoever asks.
"""

from dataclasses import dataclass

import polars as pl

from dselect_core.corpus.sample import conform_samples
from dselect_core.graders.open_batches import not_in_batches
from dselect_core.graders.spend import Ledger, Purpose
from dselect_core.kinds import kind_of
from dselect_core.pool.future_pool import SourceRows
from dselect_core.scores.provenance import store_of
from dselect_core.scores.update import compute_from_samples, todos_of_sources
from dselect_core.select.judges_spec import kind_of_judge
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_with_metadata


@dataclass(frozen=True)
class Tried:
    """frame: the rows with `source`, `messages` and the columns of their grades, by id. calls: of the ledger."""

    frame: pl.DataFrame
    calls: pl.DataFrame


def try_grades(workspace: Workspace, count: int, judge: str | None = None) -> Tried:
    """Grade at most `count` rows of the landed sources that have no grade yet, and are in no batch; live.

    judge: its name among the settings' `graders`; None: the only one. Raises DselectError when the grader as a whole
    cannot work, or a cap leaves no room for any.
    """
    settings = workspace.settings
    workspace = Workspace(settings.with_graders([settings.grader_of(judge).live]))
    kind = kind_of(kind_of_judge(judge))
    rows: dict[str, SourceRows] = {}
    for source in sorted(workspace.settings.sources):
        try:
            samples, landed = read_with_metadata(workspace.samples(source))
        except FileNotFoundError:  # it could not be read
            continue
        rows[source] = SourceRows(conform_samples(samples), landed["version"])
    missing = [
        not_in_batches(todo.missing_rows, workspace, store_of(workspace.of_source(source), kind.name)).select(
            "sample_id", source=pl.lit(source)
        )
        for source, todo in todos_of_sources(workspace, kind, rows, None).items()
    ]
    if not missing:
        return Tried(pl.DataFrame(schema={"sample_id": pl.String}), pl.DataFrame())
    picked = pl.concat(missing).unique("sample_id", keep="first", maintain_order=True).sort("sample_id").head(count)
    run, frames = Purpose().run, []
    for (source,), ids in picked.group_by("source", maintain_order=True):
        name = str(source)
        of_source = workspace.of_source(name)
        store = store_of(of_source, kind.name)
        samples = rows[name].samples.join(ids, on="sample_id", how="semi", maintain_order="left")
        compute_from_samples(of_source, kind, store, samples, Purpose(run, name))
        graded = store.read(samples.select("sample_id"))
        frames.append(samples.select("sample_id", "messages", source=pl.lit(name)).join(graded, on="sample_id"))
    calls = Ledger.of(workspace).calls(price=workspace.settings.prices).filter(run=run)
    return Tried(pl.concat(frames).sort("sample_id") if frames else picked, calls)
