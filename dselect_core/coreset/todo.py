"""Which coresets are to be made again after what changed upstream, and how many of their rows have to be picked.

An order that holds is cut or continued, so only the rows beyond its saved picks are picked. Whether it holds is known
for certain only when its key is hashed, in the run; `exact` says where this answer is the run's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from dselect_core.coreset.manifest import is_of, order_identity, readable_manifest
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.pool.corpus_index import grades_candidates_only, versions_of_kinds
from dselect_core.pool.future_pool import FuturePool
from dselect_core.pool.near_duplicates import near_duplicates_version
from dselect_core.select.judges_spec import GRADES
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.saved_order import count_saved_picks, read_saved_order
from dselect_core.select.select import required_kinds
from dselect_core.select.strategies import strategy, strategy_with_options
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata

ORIGINS_MOVED = "its samples stand in other files or rows"
TARGETS_MOVED = "target examples changed"


@dataclass(frozen=True)
class UpstreamChanges:
    """What a refresh changes before it comes to the coresets.

    pool: the samples there will be, beside the index that was built last. rows_moved: some source has other samples.
    replaced_kinds: kinds with another value for a sample that was there before. lengths_replaced: so have the lengths
    in tokens. index_moves: the corpus index, or a score over the pool, is made again, so every recipe looks.
    scored_new_ids: name of a kind → samples that are new to the pool and known to have a score. near_duplicates_move:
    other samples are near-duplicates, or for another reason; also where the run alone can tell. targets_moved: recipes
    that compare with target sources get other examples, or other vectors of them.
    """

    pool: FuturePool
    rows_moved: bool
    replaced_kinds: frozenset[str]
    lengths_replaced: bool
    index_moves: bool
    scored_new_ids: Callable[[str], pl.DataFrame]
    near_duplicates_move: bool = False
    targets_moved: bool = False

    @property
    def ids_moved(self) -> bool:
        """Whether other samples can be chosen than before."""
        new_ids, departed_ids = self.pool.new_ids, self.pool.departed_ids
        return new_ids is None or departed_ids is None or bool(new_ids.height + departed_ids.height)


@dataclass(frozen=True)
class CoresetTodo:
    """A recipe that looks at its candidates, and whether it then selects.

    candidates_why, why: reasons to make `candidates` and `coreset`; None: it is not made. rows: of the coreset; None
    for a budget in tokens. reused_rows: of them, those that the saved order has already. moves: it may come to
    hold other rows; it does not where it is only written again. candidates_move: it chooses from other samples or
    scores than it did.
    """

    recipe: str
    candidates_why: str | None
    why: str | None
    rows: int | None = None
    reused_rows: int = 0
    exact: bool = True
    moves: bool = False
    candidates_move: bool = False

    @property
    def picked_rows(self) -> int | None:
        """Rows that have to be picked; None for a budget in tokens."""
        return None if self.rows is None else self.rows - self.reused_rows


def coreset_todos(
    workspace: Workspace,
    upstream: UpstreamChanges,
    changed_recipes: frozenset[str],
    other_reasons: Mapping[tuple[str, str | None], str],
    lost: Mapping[tuple[str, str | None], str],
) -> list[CoresetTodo]:
    """What there is to do for every recipe, in the order of its run.

    changed_recipes: those whose spec is new or another one. other_reasons: {(asset, recipe): why it runs although
    nothing here gives a reason}. lost: coresets whose files are lost, likewise.
    """
    todos = []
    picks_in_this_refresh: dict[str, int] = {}
    for recipe in sorted(workspace.settings.coresets):
        todo = _coreset_todo(workspace, recipe, upstream, recipe in changed_recipes, other_reasons, lost)
        spec = workspace.settings.coresets[recipe]
        identity = fingerprint([order_identity(spec), str(spec.budget) if spec.order_depends_on_budget else None])
        if todo.why is not None and todo.rows is not None and not spec.has_rounds:
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
    lost: Mapping[tuple[str, str | None], str],
) -> CoresetTodo:
    of_candidates, of_coreset = other_reasons.get(("candidates", recipe)), other_reasons.get(("coreset", recipe))
    of_coreset = of_coreset or lost.get(("coreset", recipe))
    looks = upstream.index_moves or upstream.near_duplicates_move or is_changed or of_candidates is not None
    spec, manifest = workspace.settings.coresets[recipe], readable_manifest(workspace, recipe)
    origins = {source: rows.origins for source, rows in upstream.pool.sources.items()}
    renamed = manifest is not None and origins_moved(manifest, origins)
    if not looks and of_coreset is None and not renamed:
        return CoresetTodo(recipe, None, None)
    own = strategy_with_options(spec.strategy, spec.options)
    replaced = required_kinds(spec) & upstream.replaced_kinds
    near_duplicates_move = upstream.near_duplicates_move
    is_behind = _is_behind_index(manifest, spec, upstream.pool) or (
        # Where they move, the last table says nothing of the next coreset.
        manifest is not None and not near_duplicates_move and _is_behind_near_duplicates(workspace, manifest)
    )
    is_behind = is_behind or (GRADES not in upstream.replaced_kinds and _is_behind_grades(workspace, manifest))
    held_out_moves = upstream.pool.held_out_moved or near_duplicates_move
    rows_moved = upstream.rows_moved or upstream.ids_moved or is_behind or held_out_moves
    targets_moved = _targets_moved(manifest, spec, upstream)
    keeps_order = moves = True
    candidates_move = bool(rows_moved or replaced or targets_moved or (looks and upstream.lengths_replaced))
    if candidates_move:
        of_scores = f"scores changed: {', '.join(sorted(replaced))}"
        why = of_coreset or (
            "rows changed" if rows_moved else TARGETS_MOVED if targets_moved and not replaced else of_scores
        )
        keeps_order = not (upstream.ids_moved or replaced or is_behind or near_duplicates_move or targets_moved)
        keeps_order = keeps_order and not (own.reads_sources and rows_moved)
    elif is_changed or of_coreset is not None or renamed:
        why = of_coreset or ("its recipe is new or changed" if is_changed else ORIGINS_MOVED)
        moves = is_changed or ("coreset", recipe) in other_reasons
    else:
        return CoresetTodo(recipe, of_candidates or "upstream changed", None)
    rows = spec.budget.rows(upstream.pool.ids.height)
    candidates_why = (of_candidates or "upstream changed") if looks else None
    if rows is None:
        return CoresetTodo(recipe, candidates_why, why, moves=moves, candidates_move=candidates_move)
    if spec.has_rounds:
        # Its rounds pick.
        return CoresetTodo(recipe, candidates_why, why, rows, rows, moves=moves, candidates_move=candidates_move)
    saved_picks = _saved_picks(workspace, manifest, spec) if keeps_order else 0
    # A new row that the strategy drops leaves the order as it was, and its value is not read here; so does a row that
    # is a near-duplicate now for another reason.
    may_keep = near_duplicates_move or bool(own.requires)
    is_certain = keeps_order or (not may_keep and _order_moves(workspace, manifest, spec, upstream))
    # Without its manifest it is not known which saved order it was cut from.
    is_lost = manifest is None and ("coreset", recipe) in lost
    # A row that another source holds too now may be of another group.
    groups_move = spec.has_mixture and bool(rows_moved)
    # Which rows are graded shows in the key of the order, and not before the run.
    by_bounds = GRADES in required_kinds(spec) and grades_candidates_only(workspace.settings) and not keeps_order
    exact = is_certain and not is_lost and not own.ends_early and not groups_move and not by_bounds
    return CoresetTodo(recipe, candidates_why, why, rows, min(rows, saved_picks), exact, moves)


def origins_moved(manifest: Mapping[str, Any], origins: Mapping[str, str | None]) -> bool:
    """Whether the coreset names files and rows in which its samples do not stand any more: a file was renamed, say.

    origins: {source: version of where its samples stand now}; None, or no entry, where it is not known.
    """
    recorded = manifest.get("origins", {})
    return any(origins.get(source) not in (None, recorded.get(source)) for source in manifest["sources"])


def _is_behind_index(manifest: dict[str, Any] | None, spec: CoresetSpec, pool: FuturePool) -> bool:
    """Whether the coreset was made from other samples or scores than the index that was built last holds.

    So it is after a process that was killed between the two.
    """
    if manifest is None:
        return False
    kinds = required_kinds(spec)
    indexed = {} if pool.index is None else pool.index.sources
    held_out = None if pool.index is None else pool.index.held_out.version
    if manifest.get("held_out", {}).get("version") != held_out:
        return True
    return versions_of_kinds(manifest["sources"], kinds) != versions_of_kinds(indexed, kinds)


def _is_behind_near_duplicates(workspace: Workspace, manifest: Mapping[str, Any]) -> bool:
    """Whether the coreset was chosen without other near-duplicates than those that were found last."""
    return bool(manifest.get("near_duplicates", {}).get("version") != near_duplicates_version(workspace))


def _is_behind_grades(workspace: Workspace, manifest: Mapping[str, Any] | None) -> bool:
    """Whether the coreset was chosen by other grades than those of the pool's table, where there is one."""
    made_by = (manifest or {}).get("candidate_grades")
    if made_by is None or not grades_candidates_only(workspace.settings):
        return False  # a coreset of the other setting is behind the index
    try:
        return bool(made_by["version"] != read_metadata(workspace.pool_table(GRADES))["version"])
    except (FileNotFoundError, DselectError, KeyError):
        return False


def _targets_moved(manifest: dict[str, Any] | None, spec: CoresetSpec, upstream: UpstreamChanges) -> bool:
    """Whether the recipe compares with other target examples than its coreset was made with."""
    if strategy(spec.strategy).target_kind is None:
        return False
    index = upstream.pool.index
    if upstream.targets_moved or index is None or manifest is None or manifest.get("strategy") != spec.strategy:
        return upstream.targets_moved
    # So it is after a process that was killed between the index and the coreset.
    return bool(manifest.get("targets", {}).get("version") != index.targets_version)


def _order_moves(
    workspace: Workspace, manifest: dict[str, Any] | None, spec: CoresetSpec, upstream: UpstreamChanges
) -> bool:
    """Whether the recipe is certain to get another order.

    Other rows and other values may leave an order as it was, for it depends on the rows that it can use, on a grid.
    """
    usable_ids, departed_ids = upstream.pool.new_ids, upstream.pool.departed_ids
    if usable_ids is None or departed_ids is None:
        return True
    for kind in required_kinds(spec):
        usable_ids = usable_ids.join(upstream.scored_new_ids(kind), on="sample_id", how="semi")
    if usable_ids.height:
        return True
    key = (manifest or {}).get("order")
    saved = None if key is None else read_saved_order(workspace.orders / f"{key}.parquet", key)
    if saved is None:
        return True  # nothing to continue
    usable = saved.table.filter(pl.col("reason").is_null())
    return departed_ids.join(usable, on="sample_id", how="semi").height > 0


def _saved_picks(workspace: Workspace, manifest: dict[str, Any] | None, spec: CoresetSpec) -> int:
    """Picks of the order that this recipe's coreset was cut from, if the recipe still asks for that order."""
    if manifest is None or not is_of(manifest, spec):
        return 0
    if spec.order_depends_on_budget and manifest["budget"] != str(spec.budget):
        return 0
    return count_saved_picks(workspace.orders / f"{manifest['order']}.parquet")
