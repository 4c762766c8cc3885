"""What a plan knows of the target sources: whether the recipes that compare with them get other examples, and how."""

from collections.abc import Mapping

from dselect_core.coreset.manifest import readable_manifest
from dselect_core.pool.corpus_index import target_kinds
from dselect_core.pool.future_pool import FuturePool
from dselect_core.scores.update import ScoreTodo
from dselect_core.select.targeted import TARGETED, is_approximate
from dselect_core.settings.workspace import Workspace


def targets_will_move(workspace: Workspace, pool: FuturePool, todos: Mapping[str, Mapping[str, ScoreTodo]]) -> bool:
    """Whether the examples that recipes compare with, or their vectors, become others than the index names.

    todos: {kind: {source: what is to be computed}}. Whether a new example gets a vector at all shows in the run.
    """
    kinds = sorted(target_kinds(workspace.settings) & todos.keys())
    indexed = {} if pool.index is None else pool.index.targets
    versions: dict[str, dict[str, str]] = {}
    for source in workspace.settings.sources_of("target") if kinds else []:
        rows = pool.sources.get(source)
        if rows is None or rows.samples.is_empty():
            continue
        of_source = {kind: todos[kind][source] for kind in kinds}
        if any(todo.rows_changed or (todo.why is not None and todo.replaces_scores) for todo in of_source.values()):
            return True
        if source in indexed and any(todo.head is None and todo.lost for todo in of_source.values()):
            versions[source] = indexed[source]  # a head that is lost is written again as it was
        else:
            of_kinds = {kind: todo.head.version for kind, todo in of_source.items() if todo.head is not None}
            versions[source] = {"samples": rows.version, **of_kinds}
    return versions != indexed


def search_note(workspace: Workspace, recipe: str, pool: FuturePool) -> str:
    """That a coreset will be searched for approximately, and with which recall the last one was; else empty.

    Rows and examples count that may come to have no vector.
    """
    spec = workspace.settings.coresets[recipe]
    if spec.strategy != TARGETED.name or spec.options.get("by") == "max":
        return ""
    targets = [pool.sources[name].samples for name in workspace.settings.sources_of("target") if name in pool.sources]
    examples = sum(samples.height for samples in targets)
    if not is_approximate(spec.options.get("search") or "auto", pool.candidate_ids.height, examples):
        return ""
    last = (readable_manifest(workspace, recipe) or {}).get("search")
    recall = "its recall is measured" if last is None else f"its recall was {last['recall']:.1%} the last time"
    return f"the nearest rows are looked for in inverted lists, {recall}"
