"""Which batches are open, how far they are, and whether a grader that is in force waits for them."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.graders.batch.endpoint import BatchEndpoint
from dselect_core.graders.batch.shelf import Batch, Shelf
from dselect_core.graders.grades import grader_provenance, question
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.score_store import Store

SUBMITTING = timedelta(minutes=10)
"""For so long a batch without an id is taken to be in the hands of the process that is submitting it."""


class OpenBatch(NamedTuple):
    """One batch on record. in_force: whether the settings ask its question, so that a run collects it.

    state: what the endpoint says of it, or that it was not submitted or could not be asked for. has_ended: whether a
    run would find something to do.
    """

    batch: Batch
    in_force: bool
    state: str
    has_ended: bool


def questions(settings: Settings) -> dict[str, GraderSpec]:
    """{its question: grader} of the graders behind an endpoint: one a rubric, and one a turn."""
    return {question(spec): spec for spec in _turns(settings)}


def not_in_batches(rows: pl.DataFrame, workspace: Workspace, grades: Store) -> pl.DataFrame:
    """Those of `rows` (sample_id) that no open batch asks for the grades of this store: the others are bought."""
    made_by = grades.fingerprint
    asked = (question(spec) for spec in _turns(workspace.settings) if fingerprint(grader_provenance(spec)) == made_by)
    return rows.join(Shelf(workspace.batches).samples(next(asked, made_by)), on="sample_id", how="anti")


def _turns(settings: Settings) -> list[GraderSpec]:
    of_sources = [settings.of_source(source) for source in settings.sources] or [settings]
    graders = [spec for each in of_sources for spec in each.all_graders.values() if spec.model is not None]
    return [spec.again(turn) for spec in graders for turn in range(1, (spec.repeat or 1) + 1)]


def open_batches(workspace: Workspace) -> list[OpenBatch]:
    """All, the oldest first. Asks the endpoint for those that a grader in force waits for."""
    batches = Shelf(workspace.batches).batches()
    asked = questions(workspace.settings) if batches else {}
    found = []
    for batch in batches:
        spec = asked.get(batch.question)
        if spec is None:
            found.append(OpenBatch(batch, False, "not asked for: no grader in force has its question", False))
        elif batch.batch_id is None:
            is_left = datetime.now(UTC) - batch.begun_at > SUBMITTING
            found.append(OpenBatch(batch, True, "not submitted yet", is_left))
        else:
            found.append(_asked_for(batch, spec))
    return found


def _asked_for(batch: Batch, spec: GraderSpec) -> OpenBatch:
    try:
        with BatchEndpoint(spec) as endpoint:
            state = endpoint.state(batch)
    except DselectError as error:
        return OpenBatch(batch, True, f"unknown: {error}", False)
    answered = "" if state.answered is None else f", {state.answered:,} answered"
    return OpenBatch(batch, True, f"{state.status}{answered}", state.has_ended)
