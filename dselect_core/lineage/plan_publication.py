"""The part of a plan that is about publishing: which coresets are looked at, and which would be refused as they are."""

from collections.abc import Mapping

from dselect_core.coreset.todo import CoresetTodo
from dselect_core.lineage.plan import Reasons, Step
from dselect_core.lineage.publishable import refused_publications
from dselect_core.settings.publish_spec import BEATS_RANDOM
from dselect_core.settings.workspace import Workspace

PUBLICATION = "publication"


def publication_steps(
    workspace: Workspace, coresets: Mapping[str, CoresetTodo], trials: list[Step], stale: Reasons, lost: Reasons
) -> list[Step]:
    """Steps of `publication`. A coreset that comes out as it was is published already, and its step falls away.

    trials: those of the plan. lost: what is gone where it was published, among others.
    """
    publish = workspace.settings.publish
    if publish is None:
        return []
    tried = {step.partition for step in trials if step.asset == "trial" and BEATS_RANDOM in publish.require}
    refused: dict[str, str] | None = None
    steps = []
    for recipe in publish.recipes_of(workspace.settings.coresets):
        todo, why = coresets.get(recipe), stale.get((PUBLICATION, recipe)) or lost.get((PUBLICATION, recipe))
        moves = (todo is not None and todo.moves) or recipe in tried
        if why is None and not moves:
            continue
        note = ""
        if moves:
            note = f"if `publish.require` then holds ({', '.join(publish.require)})" if publish.require else ""
        else:
            refused = refused_publications(workspace) if refused is None else refused
            note = f"refused as things stand: {refused[recipe]}" if recipe in refused else ""
        steps.append(Step(PUBLICATION, recipe, why or "its coreset or trial changes", note=note))
    return steps
