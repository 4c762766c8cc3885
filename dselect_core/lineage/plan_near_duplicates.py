"""The part of a plan that is about near-duplicates: what will be found, where all that it depends on is there."""

from collections.abc import Callable, Collection

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import Kind, kind_of
from dselect_core.lineage.plan import Reasons, Step
from dselect_core.neighbors.update_near_duplicates import near_duplicates_of
from dselect_core.pool.near_duplicates import near_duplicates_version
from dselect_core.scores.update import ScoreTodo
from dselect_core.settings.neighbors_spec import NearDuplicatesSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet
from dselect_core.storage.score_store import Store

_ASSET = ("near_duplicates", None)


def near_duplicates_step(
    workspace: Workspace,
    neighbors_move: bool,
    pairs: pl.DataFrame | None,
    store_of: Callable[[Kind], Store | None],
    pool_todos: Collection[ScoreTodo],
    stale: Reasons,
    lost: Reasons,
) -> tuple[list[Step], bool]:
    """(its step; whether other samples will be near-duplicates, or for another reason: also where it is not known).

    neighbors_move: they, or scores of the pool, do. pairs: the neighbours there will be; None: not known, or as they
    are unless they move. store_of: where a kind's scores will be; None: not known. pool_todos: of the sources that
    are chosen from alone, for a new target example is nobody's near-duplicate.
    """
    spec = workspace.settings.near_duplicates
    if spec is None:
        return [], False
    if not neighbors_move and _ASSET not in stale:
        return ([Step(*_ASSET, lost[_ASSET])] if _ASSET in lost else []), False
    if pairs is None and not neighbors_move:
        pairs = _last_neighbors(workspace)
    version = None if pairs is None else _future_version(workspace, spec, pairs, store_of, pool_todos)
    moves = version is None or version[0] != near_duplicates_version(workspace)
    return [Step(*_ASSET, stale.get(_ASSET, "upstream changed"))], moves


def _last_neighbors(workspace: Workspace) -> pl.DataFrame | None:
    try:
        return read_parquet(workspace.neighbors)
    except (FileNotFoundError, DselectError):
        return None


def _future_version(
    workspace: Workspace,
    spec: NearDuplicatesSpec,
    pairs: pl.DataFrame,
    store_of: Callable[[Kind], Store | None],
    pool_todos: Collection[ScoreTodo],
) -> tuple[str | None] | None:
    """The version of what will be found; None where the run alone can tell."""
    stores = {name: store for name in spec.kinds if (store := store_of(kind_of(name))) is not None}
    todos = [todo for todo in pool_todos if todo.kind.name in spec.kinds]
    if len(stores) < len(spec.kinds) or any(todo.why is not None and todo.missing_rows.height for todo in todos):
        return None
    try:
        return (near_duplicates_of(workspace, pairs, stores).version,)
    except DselectError:
        return None  # its run says what is wrong
