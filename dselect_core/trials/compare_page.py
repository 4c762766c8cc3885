"""The comparison as one HTML file that needs nothing else: pictures are inside, no script runs, nothing is fetched.

Names and notes are others' text: each passes through `html_text`, and a secret in it is hidden. The page also forbids
itself scripts and the network (Content-Security-Policy), should an escape ever fail.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from dselect_core.escape import html_text
from dselect_core.redact import redact
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.trials.compare import (
    Compared,
    OnTask,
    against_random_text,
    eval_sources,
    multiplier_text,
    on_tasks,
)
from dselect_core.trials.figure import against_random, loss_against_budget, loss_by_set, png
from dselect_core.trials.report import ALL, TrialReport

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #1c2733; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
th, td { border-bottom: 1px solid #d5dbe1; padding: .25em .7em; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.better { color: #12692d; } .worse { color: #a3261c; } .note { color: #8a5a00; }
img { max-width: 100%; } h2 { margin-top: 2em; }
"""
_HEAD = (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
    "'unsafe-inline'\">\n"
    f"<title>Coresets against random draws</title>\n<style>{_STYLE}</style></head><body>\n"
)


def comparison_page(compared: Sequence[Compared], spec: TrialsSpec, version: str) -> str:
    """The page. spec: the settings under `trials`; version: of dselect."""
    tried = [each for each in compared if each.report is not None]
    reports = [each.report for each in tried if each.report is not None]
    parts = [_HEAD, "<h1>Coresets against random draws</h1>\n", _overview_table(compared)]
    if reports:
        parts.append(_picture(against_random(reports), "every recipe against random"))
    if scored := on_tasks(compared):
        parts += ["<h2>On tasks</h2>\n", _task_table(scored)]
    parts += ["<h2>What was measured</h2>\n", _how_it_was_measured(spec)]
    parts += [_trial(each, each.report) for each in tried if each.report is not None]
    parts.append(f"<p>Made by dselect {html_text(version)}.</p>\n</body></html>\n")
    return "".join(parts)


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
    return _table(heads, rows)


def _task_table(scored: Sequence[OnTask]) -> str:
    heads = ["recipe", "task", "metric", "coreset", "random", "better than random by"]
    rows = [[of.recipe, of.task, of.metric, of.coreset, of.random, of.against_random_text] for of in scored]
    return (
        "<p>Tasks of lm-evaluation-harness, measured on every run. A positive difference is better, whichever way the "
        "metric runs, with its interval at 95%. The verdict does not depend on them.</p>\n" + _table(heads, rows)
    )


def _how_it_was_measured(spec: TrialsSpec) -> str:
    return (
        "<p>Each model below was tuned from the same start on a training set and measured on held-out rows, none of "
        "which is in the pool. The loss is the mean over response tokens, in nats; the mean over eval sources gives "
        "each the same weight. <em>random</em> are draws of as many rows as the coreset has, each tuned once with a "
        "seed of its own. The verdict sets the coreset's mean over its seeds against single draws, at 95%. The "
        "settings:</p>\n"
        + _table(
            ["setting", "value"], [[name, _setting(value)] for name, value in spec.model_dump(mode="json").items()]
        )
    )


def _setting(value: Any) -> str:
    return "by default" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _trial(compared: Compared, report: TrialReport) -> str:
    verdict, multiplier = report.against_random, report.multiplier
    parts = [
        f"<h2>{_text(report.recipe)}</h2>\n",
        f'<p class="{verdict.word}"><strong>{_text(verdict.sentence)}</strong></p>\n',
    ]
    if compared.note:
        parts.append(f'<p class="note">{_text(compared.note)}</p>\n')
    if multiplier is not None:
        parts.append(f"<p>{_text(multiplier.sentence)}</p>\n")
    parts.append(_picture(loss_by_set(report), f"loss of {report.recipe} by training set"))
    if (curve := loss_against_budget(report)) is not None:
        parts.append(_picture(curve, f"loss of {report.recipe} against the budget"))
    parts.append(_table(report.frame.columns, report.frame.iter_rows()))
    parts.append(
        _table(
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
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in report.notes)}</ul>\n")
    return "".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>\n"


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        return f'<td class="n">{value:.4f}</td>' if abs(value) < 1e4 else f'<td class="n">{value:,.0f}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{_text(value)}</td>"


def _text(value: Any) -> str:
    return html_text(redact(str(value)))


def _picture(figure: Any, words: str) -> str:
    data = base64.b64encode(png(figure)).decode()
    return f'<p><img alt="{_text(words)}" src="data:image/png;base64,{data}"></p>\n'
