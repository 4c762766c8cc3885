"""Which coresets are to be made again after what changed upstream, and how many of their rows have to be picked.

An order that holds is cut or continued, so only the rows beyond its saved picks are picked. Whether it holds is known
for certain only when its key is hashed, in the run; `exact` says where this answer is the run's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dselect_core.coreset.manifest import is_of, order_identity, read_manifest
from dselect_core.fingerprint import fingerprint
from dselect_core.select.select import needs
from dselect_core.select.strategies import strategy
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata


@dataclass(frozen=True)
class UpstreamChanges:
    """What a refresh changes before it comes to the coresets.

    pool_rows: samples in the pool then. rows_moved: some source has other samples. ids_moved: so has the pool.
    replaced_kinds: kinds with another value for a sample that was there before. lengths_replaced: so have the lengths
    in tokens. index_moves: the corpus index, or a score over the pool, is made again, so every recipe looks.
    """

    pool_rows: int
    rows_moved: bool
    ids_moved: bool
    replaced_kinds: frozenset[str]
    lengths_replaced: bool
    index_moves: bool


@dataclass(frozen=True)
class CoresetTodo:
    """A recipe that looks at its candidates, and whether it then selects.

    candidates_why, why: reasons to make `candidates` and `coreset`; None: it is not made. rows: of the coreset; None
    for a budget in tokens. reused_rows: of them, those that the saved order has already.
    """

    recipe: str
    candidates_why: str | None
    why: str | None
    rows: int | None = None
    reused_rows: int = 0
    exact: bool = True


def coreset_todos(
    workspace: Workspace,
    upstream: UpstreamChanges,
    changed_recipes: frozenset[str],
    other_reasons: Mapping[tuple[str, str | None], str],
) -> list[CoresetTodo]:
    """What there is to do for every recipe, in the order of its run.

    changed_recipes: those whose spec is new or another one. other_reasons: {(asset, recipe): why it runs although
    nothing here gives a reason}.
    """
    todos = []
    picks_in_this_refresh: dict[str, int] = {}
    for recipe in sorted(workspace.settings.coresets):
        todo = _coreset_todo(workspace, recipe, upstream, recipe in changed_recipes, other_reasons)
        identity = fingerprint(order_identity(workspace.settings.coresets[recipe]))
        if todo.why is not None and todo.rows is not None:
            # Recipes that differ in their budget alone share one order: the later run finds the earlier one's picks.
            reused = max(todo.reused_rows, min(todo.rows, picks_in_this_refresh.get(identity, 0)))
            picks_in_this_refresh[identity] = max(picks_in_this_refresh.get(identity, 0), todo.rows)
            todo = replace(todo, reused_rows=reused)
        if todo.candidates_why is not None or todo.why is not None:
            todos.append(todo)
    return todos


def _coreset_todo(
    workspace: Workspace,
    recipe: str,
    upstream: UpstreamChanges,
    is_changed: bool,
    other_reasons: Mapping[tuple[str, str | None], str],
) -> CoresetTodo:
    of_candidates, of_coreset = other_reasons.get(("candidates", recipe)), other_reasons.get(("coreset", recipe))
    looks = upstream.index_moves or is_changed or of_candidates is not None
    candidates_why = (of_candidates or "upstream changed") if looks else None
    replaced = needs(workspace.settings.coresets[recipe]) & upstream.replaced_kinds
    if looks and (upstream.rows_moved or replaced or upstream.lengths_replaced):
        why = "rows changed" if upstream.rows_moved else f"scores changed: {', '.join(sorted(replaced))}"
        return _selection(workspace, recipe, upstream, candidates_why, why, not upstream.ids_moved and not replaced)
    if (looks and is_changed) or of_coreset is not None:
        why = of_coreset or "its recipe is new or changed"
        return _selection(workspace, recipe, upstream, candidates_why, why, keeps_order=True)
    return CoresetTodo(recipe, candidates_why, None)


def _selection(
    workspace: Workspace,
    recipe: str,
    upstream: UpstreamChanges,
    candidates_why: str | None,
    why: str,
    keeps_order: bool,
) -> CoresetTodo:
    """keeps_order: the order that the coreset was cut from is certain to be found again, if the recipe asks for it."""
    spec = workspace.settings.coresets[recipe]
    rows = spec.budget.rows(upstream.pool_rows)
    if rows is None:
        return CoresetTodo(recipe, candidates_why, why)
    saved_picks = _saved_picks(workspace, recipe) if keeps_order else 0
    # Other rows and other values may leave an order as it was: it depends on the rows that it can use, on a grid.
    exact = keeps_order and not strategy(spec.strategy).ends_early
    return CoresetTodo(recipe, candidates_why, why, rows, min(rows, saved_picks), exact)


def _saved_picks(workspace: Workspace, recipe: str) -> int:
    """Picks of the order that this recipe's coreset was cut from, if the recipe still asks for that order."""
    manifest = read_manifest(workspace, recipe)
    if manifest is None or not is_of(manifest, workspace.settings.coresets[recipe]):
        return 0
    try:
        return int(read_metadata(workspace.orders / f"{manifest['order']}.parquet")["picks"])
    except FileNotFoundError:
        return 0
