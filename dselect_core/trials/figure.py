"""Pictures of trials: loss by training set, loss against budget, and all recipes against random.

matplotlib's object interface: pyplot keeps global state, which runs in threads must not share. Names are never read as
formulas. Trade-off: the bars of losses do not start at zero, for the differences are a few hundredths of a loss of two.
"""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from dselect_core.escape import one_line
from dselect_core.redact import redact
from dselect_core.trials.report import ALL, TrialReport

_OURS, _THEIRS = "#1b6ca8", "#9aa5b1"
_MAX_PANELS = 6
_LONGEST = 28


def interval_half_width(sd: float | None, runs: int) -> float | None:
    """Half of the 95% interval of a mean over runs, by Student t; None for one run, which shows no spread."""
    if sd is None or runs < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, runs - 1)) * sd / math.sqrt(runs)


def loss_by_set(report: TrialReport) -> Any:
    """A panel an eval source (6 at most, the mean over several first): a bar a training set, with 95% intervals."""
    from matplotlib.figure import Figure

    losses = report.frame.filter(pl.col("runs") > 0, metric="loss")  # the untuned model is off the scale
    names = losses["eval"].unique(maintain_order=True).to_list()
    sources = [name for name in names if name != ALL]
    names = [*([ALL] if ALL in names and len(sources) != 1 else []), *sources][:_MAX_PANELS]
    figure = Figure(figsize=(6.4, 0.5 + sum(0.42 + 0.2 * losses.filter(eval=name).height for name in names)))
    grid = figure.subplots(max(1, len(names)), 1, squeeze=False)[:, 0]
    for axes, name in zip(grid, names, strict=False):
        rows = losses.filter(eval=name).reverse()
        widths = [interval_half_width(sd, runs) or 0.0 for sd, runs in rows.select("sd", "runs").iter_rows()]
        means = rows["mean"].to_list()
        low = min(mean - width for mean, width in zip(means, widths, strict=True))
        high = max(mean + width for mean, width in zip(means, widths, strict=True))
        margin = 0.08 * (high - low) or 0.01
        left = low - 3 * margin
        colors = [_OURS if of == "coreset" else _THEIRS for of in rows["set"]]
        places = list(range(rows.height))
        axes.barh(places, [mean - left for mean in means], left=left, xerr=widths, color=colors, capsize=2, height=0.7)
        axes.set_xlim(left, high + margin)
        axes.set_yticks(places, labels=[_label(of) for of in rows["set"]], parse_math=False)
        axes.set_title("mean over all eval sources" if name == ALL else _label(name), fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
    grid[-1].set_xlabel("loss, nats a response token (the axis does not start at 0)", fontsize=7)
    figure.tight_layout()
    return figure


def loss_against_budget(report: TrialReport) -> Any | None:
    """Random at once, twice, … the budget with the spread of its runs, and the coreset as a point.

    None where there is no random draw.
    """
    from matplotlib.figure import Figure

    losses = report.frame.filter(metric="loss", eval=ALL)
    random = losses.filter(pl.col("set").str.contains(r"^random( x\d+)?$")).sort("rows")
    if random.is_empty():
        return None
    figure = Figure(figsize=(5.4, 2.9))
    axes = figure.subplots()
    for rows, name, color, marker in (
        (random, "random, ± sd of one draw", _THEIRS, "o"),
        (losses.filter(set="coreset"), "coreset, ± sd of one run", _OURS, "D"),
    ):
        spread = rows["sd"].fill_null(0.0).to_list()
        axes.errorbar(
            rows["rows"].to_list(), rows["mean"].to_list(), spread, marker=marker, color=color, capsize=3, label=name
        )
    axes.set_xscale("log", base=2)
    places = random["rows"].to_list()
    axes.set_xticks(places, labels=[f"{rows:,}" for rows in places])
    axes.minorticks_off()
    axes.set_xlabel("rows tuned on", fontsize=7)
    axes.set_ylabel("loss, nats a response token", fontsize=7)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def against_random(reports: Sequence[TrialReport]) -> Any:
    """A line a recipe: how much better than random, with its interval; right of zero is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(reports)))
    axes = figure.subplots()
    for place, report in enumerate(reversed(reports)):
        verdict = report.against_random
        color = _OURS if verdict.word == "better" else _THEIRS
        axes.errorbar([verdict.better_by], [place], xerr=[verdict.half_width], fmt="D", color=color, capsize=3)
    axes.axvline(0.0, color="black", linewidth=0.8)
    names = [_label(report.recipe) for report in reversed(reports)]
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("better than random by, nats a response token, with 95% intervals", fontsize=7)
    axes.tick_params(labelsize=7)
    figure.tight_layout()
    return figure


def _label(name: str) -> str:
    text = one_line(redact(name))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
