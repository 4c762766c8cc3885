"""The comparison as one HTML file that needs nothing else (html_page.py), and a trial as a part of a page."""

from collections.abc import Sequence
from typing import Any

from dselect_core.html_page import page, picture, table, text
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.trials.compare import (
    Compared,
    OnTask,
    against_random_text,
    eval_sources,
    multiplier_text,
    on_tasks,
)
from dselect_core.trials.figure import against_random, loss_against_budget, loss_by_set
from dselect_core.trials.report import ALL, TrialReport


def comparison_page(compared: Sequence[Compared], spec: TrialsSpec, version: str) -> str:
    """The page. spec: the settings under `trials`; version: of dselect."""
    tried = [each for each in compared if each.report is not None]
    reports = [each.report for each in tried if each.report is not None]
    parts = [_overview_table(compared)]
    if reports:
        parts.append(picture(against_random(reports), "every recipe against random"))
    if scored := on_tasks(compared):
        parts += ["<h2>On tasks</h2>\n", _task_table(scored)]
    parts += ["<h2>What was measured</h2>\n", _how_it_was_measured(spec)]
    for each in tried:
        if each.report is not None:
            parts += [f"<h2>{text(each.recipe)}</h2>\n", trial_part(each.report, each.note)]
    return page("Coresets against random draws", parts, version)


def _overview_table(compared: Sequence[Compared]) -> str:
    sources = eval_sources(list(compared))
    heads = ["recipe", "strategy", "budget", "rows", "response tokens"]
    heads += ["mean loss" if name == ALL else f"loss on {name}" for name in sources]
    heads += ["better than random by", "random data for the same loss", "note"]
    rows = []
    for each in compared:
        losses = [each.loss(name) for name in sources]
        against = "not tried" if each.report is None else against_random_text(each.report)
        multiplier = "" if each.report is None else multiplier_text(each.report)
        rows.append(
            [each.recipe, each.strategy, each.budget, each.rows, each.tokens, *losses, against, multiplier, each.note]
        )
    return table(heads, rows)


def _task_table(scored: Sequence[OnTask]) -> str:
    heads = ["recipe", "task", "metric", "coreset", "random", "better than random by"]
    rows = [[of.recipe, of.task, of.metric, of.coreset, of.random, of.against_random_text] for of in scored]
    return (
        "<p>Tasks of lm-evaluation-harness, measured on every run. A positive difference is better, whichever way the "
        "metric runs, with its interval at 95%. The verdict does not depend on them.</p>\n" + table(heads, rows)
    )


def _how_it_was_measured(spec: TrialsSpec) -> str:
    return (
        "<p>Each model below was tuned from the same start on a training set and measured on held-out rows, none of "
        "which is in the pool. The loss is the mean over response tokens, in nats; the mean over eval sources gives "
        "each the same weight. <em>random</em> are draws of as many rows as the coreset has, each tuned once with a "
        "seed of its own. The verdict sets the coreset's mean over its seeds against single draws, at 95%. The "
        "settings:</p>\n"
        + table(["setting", "value"], [[name, _setting(value)] for name, value in spec.model_dump(mode="json").items()])
    )


def _setting(value: Any) -> str:
    return "by default" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def trial_part(report: TrialReport, note: str) -> str:
    """A recipe's trial as HTML, without a heading. note: why it says nothing of the present coreset, or ""."""
    verdict, multiplier = report.against_random, report.multiplier
    parts = [f'<p class="{verdict.word}"><strong>{text(verdict.sentence)}</strong></p>\n']
    if note:
        parts.append(f'<p class="note">{text(note)}</p>\n')
    if multiplier is not None:
        parts.append(f"<p>{text(multiplier.sentence)}</p>\n")
    parts.append(picture(loss_by_set(report), f"loss of {report.recipe} by training set"))
    if (curve := loss_against_budget(report)) is not None:
        parts.append(picture(curve, f"loss of {report.recipe} against the budget"))
    parts.append(table(report.frame.columns, report.frame.iter_rows()))
    parts.append(
        table(
            ["of this trial", ""],
            [
                ["model", report.model],
                ["strategy", report.strategy],
                ["budget", report.budget],
                ["runs tuned, reused", f"{report.tuned:,}, {report.reused:,}"],
                ["tokens tuned and measured", report.tokens],
                ["seconds", round(report.seconds, 1)],
                ["coreset", report.coreset],
                ["version", report.version],
            ],
        )
    )
    if report.notes:
        parts.append(f"<ul>{''.join(f'<li>{text(note)}</li>' for note in report.notes)}</ul>\n")
    return "".join(parts)
