"""The two checks of a coreset that a trial decides: `beats_random`, and `requirements_met`, which blocks.

Why two: to Dagster a check blocks for all partitions of its asset or for none, whatever the severity of its result. So
`beats_random` only tells, where there is a trial, and `requirements_met` holds back the coresets whose recipes say
`require: [beats_random]`; that of a recipe that requires nothing passes. It exists only where some recipe requires.

A coreset's own run evaluates both, from the trial of these very rows where there is one. A trial's run evaluates them
anew. What a change of the settings alone decides, `dselect refresh` and the landing sensor evaluate. Each result names
the materialization that it is of, so that it says nothing of a later one.
"""

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dselect_core.lineage.quality_checks import Verdict, beats_random, requirements_met
from dselect_core.redact import redact_all
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_dagster.dagster_private import evaluation_of, last_evaluation
from dselect_dagster.defs.changed_inputs import last_record
from dselect_dagster.defs.partitions import RECIPE
from dselect_dagster.defs.resources import WorkspaceResource
from dselect_dagster.defs.run_errors import clean, with_clean_errors

_CORESET = dg.AssetKey("coreset")
_BEATS, _MET = dg.AssetCheckKey(_CORESET, "beats_random"), dg.AssetCheckKey(_CORESET, "requirements_met")
_UP_TO_CORESET = {dg.AssetKey("coreset_spec"), dg.AssetKey("candidates"), _CORESET}


def coreset_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """`beats_random` where some recipe is tried, and `requirements_met` where some recipe requires something."""

    @dg.multi_asset_check(
        name="coreset_beats_random",
        specs=[_spec_of_beats()],
        can_subset=True,  # so that it may say nothing
    )
    @with_clean_errors
    def beats(context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource) -> Iterator[dg.AssetCheckResult]:
        place, recipe = workspace.open(), context.partition_key
        verdict = beats_random(place, recipe)
        if verdict is not None:
            yield dg.AssetCheckResult(
                asset_key=_CORESET, check_name=_BEATS.name, **_shown(verdict, _severity_of_beats(place, recipe))
            )

    @dg.asset_check(
        asset=_CORESET,
        name=_MET.name,
        partitions_def=RECIPE,
        blocking=True,
        description="what the recipe's `require` names holds; else all but its trial is held back",
    )
    @with_clean_errors
    def met(context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource) -> dg.AssetCheckResult:
        verdict = requirements_met(workspace.open(), context.partition_key)
        return dg.AssetCheckResult(**_shown(verdict, _severity_of_met(verdict, context)))

    specs = settings.coresets.values()
    checks: list[dg.AssetChecksDefinition] = []
    if any(spec.trial for spec in specs):
        checks.append(beats)
    if any(spec.require for spec in specs):
        checks.append(met)
    return checks


def _spec_of_beats() -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of partitions, which the other checks have too
        return dg.AssetCheckSpec(
            _BEATS.name,
            asset=_CORESET,
            partitions_def=RECIPE,
            description="tuned on, it beats random draws of its size at 95%; said by its trial, where it has one",
        )


@dataclass(frozen=True)
class DueCheck:
    """A check of a recipe's coreset whose result differs from what Dagster has on record, or is not there.

    made: the materialization of the coreset. shown: the result as it would be now. number: of the last result.
    """

    check: dg.AssetCheckKey
    recipe: str
    made: dg.EventLogRecord
    shown: dict[str, Any]
    number: int

    @property
    def evaluation(self) -> dg.AssetCheckEvaluation:
        """The result, for a step to yield."""
        return evaluation_of(self.made, self.check, self.recipe, **self.shown)


def due_checks(
    workspace: Workspace, instance: dg.DagsterInstance, recipes: Collection[str] | None = None
) -> list[DueCheck]:
    """The checks to evaluate anew, of the coresets as they were made last. recipes: by default all."""
    specs = workspace.settings.coresets
    if not any(spec.trial for spec in specs.values()):
        return []
    some_require = any(spec.require for spec in specs.values())
    due = []
    for recipe in sorted(instance.get_dynamic_partitions(str(RECIPE.name)) if recipes is None else recipes):
        made = last_record(instance, "coreset", recipe)
        if made is None or recipe not in specs:
            continue
        results = [(_BEATS, beats_random(workspace, recipe), _severity_of_beats(workspace, recipe))]
        if some_require:
            met = requirements_met(workspace, recipe)
            results.append((_MET, met, _severity_of_met(met)))
        for check, verdict, severity in results:
            if verdict is None:
                continue
            shown, last = _shown(verdict, severity), last_evaluation(instance, made, check, recipe)
            is_same = last.result is not None and all(
                getattr(last.result, part) == shown[part] for part in ("passed", "severity", "description")
            )
            if not is_same and not last.is_at_work:
                due.append(DueCheck(check, recipe, made, shown, last.number))
    return due


def check_runs(due: list[DueCheck]) -> list[dg.RunRequest]:
    """A run for each check, which makes nothing. The run key makes Dagster start it once for each state."""
    return [
        dg.RunRequest(
            run_key=f"{each.check.name}:{each.recipe}:{each.made.storage_id}:after {each.number}",
            asset_selection=[],
            asset_check_keys=[each.check],
            partition_key=each.recipe,
            # The partition is named by its tag too: Dagster looks for its set among the assets, and there are none.
            tags={"dagster/partition": each.recipe, "dselect/cause": "verdict"},
        )
        for each in due
    ]


def _shown(verdict: Verdict, severity: dg.AssetCheckSeverity) -> dict[str, Any]:
    return {
        "passed": verdict.passed,
        "severity": severity,
        "description": clean(verdict.description),
        "metadata": redact_all(verdict.facts),
    }


def _severity_of_beats(workspace: Workspace, recipe: str) -> dg.AssetCheckSeverity:
    required = "beats_random" in workspace.settings.coresets[recipe].require
    return dg.AssetCheckSeverity.ERROR if required else dg.AssetCheckSeverity.WARN


def _severity_of_met(verdict: Verdict, context: dg.AssetCheckExecutionContext | None = None) -> dg.AssetCheckSeverity:
    """An error; a warning where nothing is known yet, or each run that makes a coreset would fail until it is tried.

    An automation condition is held back by either. Where more than the coreset is in the run, only an error holds the
    rest back.
    """
    selected = None if context is None else context.run.asset_selection
    is_alone = context is None or (selected is not None and selected <= _UP_TO_CORESET)
    is_known = verdict.facts.get("known", True)
    return dg.AssetCheckSeverity.WARN if not is_known and is_alone else dg.AssetCheckSeverity.ERROR
