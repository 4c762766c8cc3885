"""The part of a plan that is about grades of the rows that can still be chosen: how many now, about, and at most.

Where all other scores of the pool that there will be are made, the recipes are asked what they need
(select/candidates.py), and the rounds are played through with grades drawn from the known ones. Where they are not, no
row is known to be needed: the last share that was asked for is the guess. A plan that makes new rows may be too high.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import polars as pl

from dselect_core.coreset.candidate_grades import (
    ASSET,
    grades_version,
    guess_rows,
    needed_next,
    other_kinds,
    reading_grades,
    why_tried_again,
    with_known_grades,
)
from dselect_core.errors import DselectError
from dselect_core.kinds import FromSamples, Kind, kind_of, with_needs
from dselect_core.lineage.cost_estimates import grader_tokens
from dselect_core.lineage.plan import Bought, GradesToBuy, Reasons, Step
from dselect_core.pool.corpus_index import grades_candidates_only, index_of
from dselect_core.pool.future_pool import FuturePool
from dselect_core.pool.pool_tables import is_asked, load_pool
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.judges_spec import GRADES
from dselect_core.select.recipe import CoresetSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_parquet
from dselect_core.storage.score_store import Store

CANDIDATE_GRADES = (ASSET, None)


@dataclass(frozen=True)
class CandidateGradesPlan:
    """steps: its step, or none. moves: whether the grades that recipes read will be others; also where it is not known.

    tried_again: why it is made although nothing moved.
    """

    steps: list[Step] = field(default_factory=list)
    moves: bool = False
    tried_again: str | None = None


def candidate_grades_plan(
    workspace: Workspace,
    pool: FuturePool,
    store_of: Callable[[Kind], Store | None],
    inputs_move: bool,
    near_duplicates_move: bool,
    stale: Reasons,
    lost: Reasons,
) -> CandidateGradesPlan:
    """inputs_move: the pool, its scores or near-duplicates do, or a recipe. store_of: where a kind's scores will be."""
    store = store_of(kind_of(GRADES)) if grades_candidates_only(workspace.settings) else None
    if store is None:
        return CandidateGradesPlan()
    tried_again = why_tried_again(workspace)
    is_due = inputs_move or CANDIDATE_GRADES in stale or tried_again is not None
    if not is_due and CANDIDATE_GRADES not in lost:
        return CandidateGradesPlan()
    why = stale.get(CANDIDATE_GRADES) or tried_again or lost.get(CANDIDATE_GRADES) or "upstream changed"
    specs = list(reading_grades(workspace.settings.coresets).values())
    known = None if near_duplicates_move else _known_pool(workspace, pool, specs, store, store_of)
    if known is None:
        step, moves = _unscored_step(workspace, pool, store, why), is_due
    else:
        step = _scored_step(workspace, pool, specs, known, store, why)
        moves = is_due and (bool(step.computed) or _version(workspace) != grades_version(known, store.fingerprint))
    return CandidateGradesPlan([step], moves, tried_again)


def _known_pool(
    workspace: Workspace,
    future: FuturePool,
    specs: list[CoresetSpec],
    grades: Store,
    store_of: Callable[[Kind], Store | None],
) -> Pool | None:
    """The pool with the grades known so far; None where it will be another one, or its other scores are not made."""
    kinds = frozenset(with_needs(other_kinds(specs)))
    index = index_of(workspace, list(future.sources), kinds)
    stores = {name: store_of(kind_of(name)) for name in index.fingerprints}
    in_force = {name: None if store is None else [store.fingerprint] for name, store in stores.items()}
    if not index.frame["sample_id"].equals(future.ids["sample_id"]) or in_force != index.fingerprints:
        return None
    try:
        return with_known_grades(workspace, load_pool(workspace, index, other_kinds(specs)), grades)
    except (DselectError, FileNotFoundError):
        return None  # its run says what is wrong


def _scored_step(
    workspace: Workspace, future: FuturePool, specs: list[CoresetSpec], pool: Pool, store: Store, why: str
) -> Step:
    assert pool.ungraded is not None
    ungraded = pool.scores.filter(pl.Series(pool.ungraded)).select("sample_id")
    now = len(needed_next(pool, specs))
    expected = guess_rows(pool, specs) if now else 0
    return _step(workspace, future, store, why, ungraded, (now, expected))


def _unscored_step(workspace: Workspace, future: FuturePool, store: Store, why: str) -> Step:
    """No row is known to be needed, so as many are expected as were, in share, of the pool that was graded last."""
    ungraded = store.missing(future.ids, include_failed=False)
    try:
        table = read_parquet(workspace.pool_table(GRADES))
    except (FileNotFoundError, DselectError):
        return _step(workspace, future, store, why, ungraded, (0, None))
    share = table.filter(is_asked(kind_of(GRADES))).height / max(1, table.height)
    return _step(workspace, future, store, why, ungraded, (0, round(share * ungraded.height)))


def _step(
    workspace: Workspace,
    future: FuturePool,
    store: Store,
    why: str,
    ungraded: pl.DataFrame,
    rows: tuple[int, int | None],
) -> Step:
    """ungraded: sample_id of all that could be asked for. rows: needed for certain, and about as many as will be."""
    now, expected = rows
    asked = future.ids.height - ungraded.height
    computed = ungraded.height if expected is None else expected
    if ungraded.is_empty() or (expected == 0 and now == 0):
        return Step(*CANDIDATE_GRADES, why, 0, asked)
    prompt, completion = grader_tokens(ungraded, future.characters, workspace, store)
    each = GradesToBuy(now, expected, ungraded.height, (prompt / ungraded.height, completion / ungraded.height))
    tokens = each.tokens(computed)
    computation = kind_of(GRADES).computed_by(workspace.settings)
    step = Step(*CANDIDATE_GRADES, why, computed, asked, exact=False, grades=each)
    if not isinstance(computation, FromSamples):
        return step
    if computation.paid:
        return replace(step, bought={None: Bought(computed, *tokens)})
    return replace(step, grader_tokens=tokens[0]) if computation.runs_model else step


def _version(workspace: Workspace) -> str | None:
    """Of the grades that the recipes read now."""
    try:
        return read_metadata(workspace.pool_table(GRADES)).get("version")
    except (FileNotFoundError, DselectError):
        return None
