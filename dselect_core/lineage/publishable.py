"""Whether a coreset may be published: what `publish.require` names, and what its recipe requires itself, holds now.

Checks are evaluated anew from the storage, so that a record of an earlier coreset says nothing of this one. What is not
known does not hold.
"""

from collections.abc import Callable

from dselect_core.errors import DselectError
from dselect_core.lineage.quality_checks import (
    Verdict,
    beats_random,
    few_chosen_are_alike,
    not_collapsed,
    sources_kept,
)
from dselect_core.settings.publish_spec import BEATS_RANDOM
from dselect_core.settings.workspace import Workspace
from dselect_core.trials.standing import standing

_CHECKS: dict[str, Callable[[Workspace, str], Verdict | None]] = {
    BEATS_RANDOM: beats_random,
    "every_source_kept": sources_kept,
    "not_collapsed": not_collapsed,
    "few_chosen_are_alike": few_chosen_are_alike,
}

_REMEDIES = {
    BEATS_RANDOM: "Try another strategy, budget or more `trials.seeds`",
    "every_source_kept": "Mend the source, or take it out of `sources`",
    "not_collapsed": "Give the recipe `balance`, `quota` or `length_corrected`",
    "few_chosen_are_alike": "Set `near_duplicates`, or raise `checks.alike_chosen`",
}


def why_not_publishable(workspace: Workspace, recipe: str) -> str | None:
    """The first required check that failed or is missing, in a sentence with the remedy; None where all hold.

    Raises DselectError, or FileNotFoundError, where the coreset cannot be read.
    """
    publish, spec = workspace.settings.publish, workspace.settings.coresets.get(recipe)
    own = [] if spec is None else spec.require
    for check in dict.fromkeys([*(publish.require if publish else ()), *own]):
        verdict = _CHECKS[check](workspace, recipe)
        if verdict is None or not verdict.facts.get("known", True):
            told = standing(workspace, recipe).why if verdict is None else verdict.description
            made = "`dselect refresh` makes it where its inputs are there"
            return f"the check {check} is missing: {told}. {made}{_or(check)}"
        if not verdict.passed:
            return f"the check {check} failed: {verdict.description}. {_REMEDIES[check]}{_or(check)}"
    return None


def refused_publications(workspace: Workspace) -> dict[str, str]:
    """{recipe: why} of the coresets that are made and may not be published as they are."""
    publish, refused = workspace.settings.publish, {}
    for recipe in [] if publish is None else publish.recipes_of(workspace.settings.coresets):
        try:
            why = why_not_publishable(workspace, recipe)
        except (FileNotFoundError, DselectError):
            continue  # not made, or lost: that is told elsewhere
        if why is not None:
            refused[recipe] = why
    return refused


def _or(check: str) -> str:
    return f"; else take {check} out of `require`, or the recipe out of `publish.recipes`"
