"""The proof: `held_out`, the rows that trials measure on, and `trial`, one partition a recipe that says `trial: true`.

`held_out` stands between the sources and the trials, so that landing rows to choose from moves a trial only where it
moves the coreset or the pool that the random draws are of.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.reports.write_reports import write_trial_into_report
from dselect_core.storage.files import read_metadata
from dselect_core.trials.compare import Compared, multiplier_text, on_tasks
from dselect_core.trials.figure import loss_against_budget, loss_by_set
from dselect_core.trials.report import TrialReport
from dselect_dagster.defs.asset_metadata import link, markdown_table, path, png
from dselect_dagster.defs.automation_condition import on_input_change
from dselect_dagster.defs.coreset_checks import due_checks
from dselect_dagster.defs.corpus import Corpus
from dselect_dagster.defs.known_partitions import known_recipe
from dselect_dagster.defs.progress_log import RunProgress
from dselect_dagster.defs.run_errors import clean, with_clean_errors
from dselect_dagster.defs.run_policy import run_policy

_GROUP = "proof"
_OF_RECIPE = ("coreset", "candidates")


def held_out(corpus: Corpus, code_version: str) -> dg.AssetsDefinition:
    """The asset that names the rows that trials measure on."""
    condition = on_input_change(corpus.namespace, allow_missing_deps=True)

    @dg.asset(
        key=corpus.namespace.key("held_out"),
        deps=[corpus.namespace.key("raw_dataset")],
        group_name=corpus.namespace.prefixed(_GROUP),
        kinds={"json"},
        owners=corpus.settings.owners,
        code_version=code_version,
        **run_policy(corpus),
        automation_condition=condition if _is_any_tried(corpus) else None,
        description="The samples of the sources with `role: eval`, by their versions: what trials measure on.",
    )
    @with_clean_errors
    def held_out(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        place = corpus.open()
        versions: dict[str, str] = {}
        for source in place.settings.sources_of("eval"):
            try:
                versions[source] = read_metadata(place.samples(source))["version"]
            except FileNotFoundError:
                context.log.warning(clean(f"{source} has not landed: trials do not measure on it"))
        if not versions:
            raise DselectError(
                "no source with `role: eval` has landed: trials have nothing to measure on. Add one under `sources`, "
                "or mend those that fail"
            )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(fingerprint(versions)), metadata={"sources": ", ".join(versions)}
        )

    return held_out


def trial(corpus: Corpus, code_version: str) -> dg.AssetsDefinition:
    """The asset that tries a coreset against random draws."""
    # A coreset that has to beat random is not held back from its trial, or it never could.
    condition = on_input_change(corpus.namespace, blocked_by_coreset=False, waits_for=_OF_RECIPE)
    of_recipe = [
        dg.AssetDep(key, partition_mapping=dg.IdentityPartitionMapping()) for key in corpus.namespace.keys(*_OF_RECIPE)
    ]

    @dg.asset(
        key=corpus.namespace.key("trial"),
        deps=[*of_recipe, *corpus.namespace.keys("warmup_model", "held_out")],
        partitions_def=corpus.namespace.trial,
        group_name=corpus.namespace.prefixed(_GROUP),
        kinds={"torch", "json"},
        owners=corpus.settings.owners,
        code_version=code_version,
        **run_policy(corpus, "torch"),
        automation_condition=condition if _is_any_tried(corpus) else None,
        description=(
            "A model tuned on the coreset, and on random draws of as many rows, of as many tokens and of more, "
            "measured on held-out rows: whether the choice was worth making. For recipes with `trial: true`. What was "
            "tuned once is not tuned again."
        ),
    )
    @with_clean_errors
    def trial(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult | dg.AssetObservation | dg.AssetCheckEvaluation]:
        from dselect_core.trials.make_trial import make_trial

        place = corpus.open()
        recipe = known_recipe(corpus, place, context, corpus.namespace.trial)
        report = make_trial(place, recipe, RunProgress(context, f"trial {recipe}"))
        context.log.info(clean(report.against_random.sentence))
        for note in report.notes:
            context.log.info(clean(note))
        page = write_trial_into_report(place, recipe)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(report.version),
            metadata={
                **_shown(report),
                "path": path(place.trial(recipe)),
                **({} if page is None else {"report": link(page)}),
            },
        )
        # The coreset was made before it was tried; on its page this takes the place of what it said then.
        yield dg.AssetObservation(
            corpus.namespace.key("coreset"),
            partition=recipe,
            metadata={"against random": report.against_random.in_short},
        )
        for due in due_checks(place, context.instance, corpus.namespace, [recipe]):
            yield due.evaluation

    return trial


def _is_any_tried(corpus: Corpus) -> bool:
    return any(spec.trial for spec in corpus.settings.coresets.values())


def _shown(report: TrialReport) -> dict[str, Any]:
    """The verdict, the table, figures that Dagster plots over time, and pictures."""
    verdict = report.against_random
    shown: dict[str, Any] = {
        "verdict": clean(verdict.sentence),
        "better than random by": float(verdict.better_by),
        "least detectable": float(verdict.half_width),
        "runs tuned": report.tuned,
        "runs reused": report.reused,
        "marks measured": report.measured,
        "tokens": report.tokens,
        "seconds": round(report.seconds, 2),
        "model": clean(report.model),
        "table": markdown_table(report.frame),
        "loss by training set": png(loss_by_set(report), "loss by training set"),
    }
    for scored in on_tasks([Compared(report.recipe, report.strategy, report.budget, report, "")]):
        name = clean(f"{scored.task} {scored.metric}")
        shown[name] = float(scored.coreset)
        if scored.better_by is not None:
            shown[f"{name}: better than random by"] = float(scored.better_by)
    if report.multiplier is not None:
        shown["compute multiplier"] = float(report.multiplier.value)
        shown["random data for the same loss"] = f"{multiplier_text(report)}: {clean(report.multiplier.sentence)}"
    if (curve := loss_against_budget(report)) is not None:
        shown["loss against budget"] = png(curve, "loss against budget")
    return shown
