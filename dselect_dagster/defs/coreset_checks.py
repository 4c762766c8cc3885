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
from dselect_core.settings.workspace import Workspace
from dselect_dagster.dagster_private import evaluation_of, last_evaluation
from dselect_dagster.defs.changed_inputs import last_record
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.namespace import Namespace
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_tags import CAUSE, RECIPE

_BEATS, _MET = "beats_random", "requirements_met"
_UP_TO_CORESET = {"coreset_spec", "candidates", "coreset"}


def coreset_checks(corpus: Corpus) -> list[dg.AssetChecksDefinition]:
    """`beats_random` where some recipe is tried, and `requirements_met` where some recipe requires something."""
    coreset = corpus.namespace.key("coreset")

    @dg.multi_asset_check(
        name=corpus.namespace.prefixed("coreset_beats_random"),
        specs=[_spec_of_beats(corpus.namespace)],
        can_subset=True,  # so that it may say nothing
    )
    @with_clean_errors
    def beats(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        place, recipe = corpus.open(), context.partition_key
        verdict = beats_random(place, recipe)
        if verdict is not None:
            yield dg.AssetCheckResult(
                asset_key=coreset, check_name=_BEATS, **_shown(verdict, _severity_of_beats(place, recipe))
            )

    @dg.asset_check(
        asset=coreset,
        name=_MET,
        partitions_def=corpus.namespace.recipe,
        blocking=True,
        description="what the recipe's `require` names holds; else all but its trial is held back",
    )
    @with_clean_errors
    def met(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        verdict = requirements_met(corpus.open(), context.partition_key)
        return dg.AssetCheckResult(**_shown(verdict, _severity_of_met(verdict, _selected(context, corpus.namespace))))

    specs = corpus.settings.coresets.values()
    checks: list[dg.AssetChecksDefinition] = []
    if any(spec.trial for spec in specs):
        checks.append(beats)
    if any(spec.require for spec in specs):
        checks.append(met)
    return checks


def _spec_of_beats(namespace: Namespace) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)  # of partitions, which the other checks have too
        return dg.AssetCheckSpec(
            _BEATS,
            asset=namespace.key("coreset"),
            partitions_def=namespace.recipe,
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
    workspace: Workspace,
    instance: dg.DagsterInstance,
    namespace: Namespace,
    recipes: Collection[str] | None = None,
) -> list[DueCheck]:
    """The checks to evaluate anew, of the coresets as they were made last. recipes: by default all."""
    specs = workspace.settings.coresets
    if not any(spec.trial for spec in specs.values()):
        return []
    coreset = namespace.key("coreset")
    some_require = any(spec.require for spec in specs.values())
    due = []
    for recipe in sorted(instance.get_dynamic_partitions(str(namespace.recipe.name)) if recipes is None else recipes):
        made = last_record(instance, coreset, recipe)
        if made is None or recipe not in specs:
            continue
        results = [(_BEATS, beats_random(workspace, recipe), _severity_of_beats(workspace, recipe))]
        if some_require:
            met = requirements_met(workspace, recipe)
            results.append((_MET, met, _severity_of_met(met)))
        for name, verdict, severity in results:
            if verdict is None:
                continue
            check = dg.AssetCheckKey(coreset, name)
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
            tags={"dagster/partition": each.recipe, CAUSE: "verdict", RECIPE: each.recipe},
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


def _selected(context: dg.AssetCheckExecutionContext, namespace: Namespace) -> set[str] | None:
    """The assets that the check's run makes, by plain name; None: all."""
    selected = context.run.asset_selection
    return None if selected is None else {namespace.asset(key) for key in selected}


def _severity_of_met(verdict: Verdict, selected: Collection[str] | None = ()) -> dg.AssetCheckSeverity:
    """An error; a warning where nothing is known yet, or each run that makes a coreset would fail until it is tried.

    selected: assets that the run of the check makes; None: all. Empty: the check alone.

    An automation condition is held back by either. Where more than the coreset is in the run, only an error holds the
    rest back.
    """
    is_alone = selected is not None and set(selected) <= _UP_TO_CORESET
    is_known = verdict.facts.get("known", True)
    return dg.AssetCheckSeverity.WARN if not is_known and is_alone else dg.AssetCheckSeverity.ERROR
