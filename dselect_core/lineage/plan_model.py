"""The part of a plan that is about the target model: which it will be, and whether it is made again."""

from collections.abc import Mapping
from typing import Any

from dselect_core.errors import DselectError
from dselect_core.lineage.plan import Reasons, Step
from dselect_core.lm import target_model
from dselect_core.lm.load import IDENTITIES, identity, is_here
from dselect_core.pool.corpus_index import needs_model
from dselect_core.pool.future_pool import FuturePool
from dselect_core.settings.workspace import Workspace

MODEL = ("warmup_model", None)


def future_model(
    workspace: Workspace, stale: Reasons, lost: Reasons, pool: FuturePool
) -> tuple[dict[str, Any] | None, Step | None, dict[str, str]]:
    """(provenance of the model there will be, None where it must be opened first; its step; problems)."""
    spec, problem = workspace.settings.model, {}
    why, lost_why = stale.get(MODEL), lost.get(MODEL)
    try:
        record: dict[str, Any] = target_model.read_record(workspace)
    except DselectError:
        record = {}
    expected = record.get("identity")
    if spec.path != "builtin" and is_here(spec.path):
        try:
            expected = identity(spec.path, spec.revision, IDENTITIES)
        except DselectError as error:
            problem["model"] = str(error)
    elif why is not None or (lost_why is not None and not _comes_out_the_same(workspace, record, pool)):
        expected = None
    why = why or lost_why
    is_made = why is not None or not record or expected != record.get("identity")
    # What nothing depends on is neither made nor asked: a model of an older version's record would be opened for it.
    is_read = needs_model(workspace.settings)
    step = Step(*MODEL, why or "the model is another one") if is_made and is_read else None
    known = target_model.known_provenance(workspace, expected) if expected is not None and is_read else None
    return known, step, problem


def _comes_out_the_same(workspace: Workspace, record: Mapping[str, Any], pool: FuturePool) -> bool:
    """Whether a lost builtin model would be tuned again on the samples that it was tuned on."""
    made_from = record.get("made_from")
    candidates = pool.candidate_ids["sample_id"]
    return made_from is not None and made_from == target_model.builtin_made_from(workspace, candidates)
