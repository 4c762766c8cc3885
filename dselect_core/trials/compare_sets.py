"""From marks to a report: the table, the verdict against random draws, the compute multiplier, in words too.

The verdict is on the mean loss per response token over all eval sources, each with the same weight. A budget in rows is
held to draws of as many rows, one in tokens to draws of as many response tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.trials import draws
from dselect_core.trials.measurements import ANSWERS, LOSS, EvalMeasurement, Measurement
from dselect_core.trials.report import ALL, AgainstRandom, Multiplier
from dselect_core.trials.statistics import Difference, Marks, difference, multiplier
from dselect_core.trials.task_results import TaskResult

ROW_LOSS, EXACT, ROUGE = "row loss", "exact_match", "rouge_l"
_HIGHER_IS_BETTER = frozenset({EXACT, ROUGE})


@dataclass(frozen=True, eq=False)
class MarkedSet:
    """A training set's runs with their marks. rows, response_tokens: of each run's training set; None: not counted.

    marks: {metric: Marks}.
    """

    name: str
    rows: list[int]
    response_tokens: list[int | None]
    marks: Mapping[str, Marks]


def marks_of(frames: Sequence[Mapping[str, pl.DataFrame]], wanted: Sequence[Measurement]) -> dict[str, Marks]:
    """{metric: marks on eval sets} of the runs on one training set. frames: of each run, {measurement's name: marks}.

    An eval row without a mark (the template does not render it) is without one in every run, and left out. Raises
    DselectError where an eval source has no row left.
    """
    values: dict[str, dict[str, np.ndarray]] = {}
    weights: dict[str, dict[str, np.ndarray]] = {}
    for each in wanted:
        if not isinstance(each, EvalMeasurement):
            continue
        of_runs = [run[each.name] for run in frames]
        columns = {"loss": LOSS} if each.kind == LOSS else {EXACT: EXACT, ROUGE: ROUGE}
        for column, metric in columns.items():
            present = of_runs[0][column].is_not_null()
            if not present.any():
                raise DselectError(
                    f"eval source {each.eval_set.name}: no row can be measured: the model's chat template renders none "
                    "of them, or no response is left within its window. Take it out, or look at its rows"
                )
            matrix = np.array([frame[column].filter(present).to_numpy() for frame in of_runs])
            rows = np.ones(matrix.shape[1])
            name = each.eval_set.name
            values.setdefault(metric, {})[name] = matrix
            weights.setdefault(metric, {})[name] = rows
            if metric == LOSS:
                values.setdefault(ROW_LOSS, {})[name] = matrix
                weights.setdefault(ROW_LOSS, {})[name] = rows
                weights[LOSS][name] = of_runs[0]["tokens"].filter(present).to_numpy().astype(np.float64)
    return {metric: Marks(values[metric], weights[metric]) for metric in values if metric != ANSWERS}


def table(sets: Mapping[str, MarkedSet], metrics: Sequence[str]) -> list[dict[str, object]]:
    """Rows of a report's table (report.COLUMNS): every training set, on all eval sources and on each, by metric."""
    rows: list[dict[str, object]] = []
    coreset = sets[draws.CORESET]
    for metric in metrics:
        for name in [ALL, *coreset.marks[metric].values]:
            for marked in sets.values():
                of_set, of_coreset = marked.marks[metric], coreset.marks[metric]
                if name != ALL:
                    of_set, of_coreset = of_set.only(name), of_coreset.only(name)
                rows.append(_row(marked, of_set, of_coreset, metric, name, metric in _HIGHER_IS_BETTER))
    return rows


def task_table(sets: Mapping[str, MarkedSet], results: Sequence[TaskResult]) -> list[dict[str, object]]:
    """Rows of a report's table on tasks: every training set, by task and metric. `eval` is the task's name."""
    return [
        _row(marked, each.marks[name], each.marks[draws.CORESET], each.metric, each.task, each.higher_is_better)
        for each in results
        for name, marked in sets.items()
    ]


def _row(
    marked: MarkedSet, of_set: Marks, of_coreset: Marks, metric: str, name: str, higher_is_better: bool | None
) -> dict[str, object]:
    per_run = of_set.per_run()
    against = None
    if marked.name != draws.CORESET and higher_is_better is not None:
        against = _difference(of_coreset, of_set, marked.name, higher_is_better=higher_is_better)
    tokens = [count for count in marked.response_tokens if count is not None]
    return {
        "set": marked.name,
        "eval": name,
        "metric": metric,
        "mean": float(per_run.mean()),
        "sd": float(per_run.std(ddof=1)) if len(per_run) > 1 else None,
        "runs": 0 if marked.name == draws.UNTUNED else len(per_run),
        "rows": round(float(np.mean(marked.rows))),
        "tokens": round(float(np.mean(tokens))) if tokens else None,
        "better_by": None if against is None else against.better_by,
        "low": None if against is None else against.low,
        "high": None if against is None else against.high,
    }


def _difference(coreset: Marks, other: Marks, name: str, *, higher_is_better: bool) -> Difference:
    drawn = draws.is_drawn(name) and other.runs > 1
    return difference(coreset, other, drawn=drawn, higher_is_better=higher_is_better)


def against_random(sets: Mapping[str, MarkedSet], *, by_tokens: bool) -> AgainstRandom:
    """The verdict. by_tokens: the budget is in tokens, so the draws of as many tokens are what it is held to."""
    name = draws.TOKENS if by_tokens and draws.TOKENS in sets else draws.RANDOM
    coreset, random = sets[draws.CORESET].marks[LOSS], sets[name].marks[LOSS]
    found = _difference(coreset, random, name, higher_is_better=False)
    size = "response tokens" if name == draws.TOKENS else "rows"
    if found.low > 0:
        word, told = "better", f"better than random by {found.better_by:.4f} ± {found.half_width:.4f} nats a token"
    elif found.high < 0:
        word, told = "worse", f"worse than random by {-found.better_by:.4f} ± {found.half_width:.4f} nats a token"
    else:
        word = "no difference"
        told = (
            f"no difference that {coreset.runs} seeds and {random.runs} draws can show: better by "
            f"{found.better_by:+.4f}, and the least that they could show is {found.half_width:.4f} nats a token"
        )
    sentence = f"{told} (random draws of as many {size}, {len(random.values)} eval sources)"
    return AgainstRandom(word, found.better_by, found.half_width, sentence)  # type: ignore[arg-type]


def compute_multiplier(sets: Mapping[str, MarkedSet], multiples: Sequence[int]) -> Multiplier | None:
    """How much more random data reaches the coreset's loss; None where no larger draws were tuned on."""
    curve = {
        factor: sets[draws.multiple(factor)].marks[LOSS]
        for factor in sorted({1, *multiples})
        if draws.multiple(factor) in sets
    }
    if len(curve) < 2:
        return None
    value, low, high = multiplier(sets[draws.CORESET].marks[LOSS], curve)
    largest = float(max(curve))
    interval = f"95%: {_shown(low, largest)} to {_shown(high, largest)}"
    capped = (min(value, largest), min(low, largest), min(high, largest))
    if not isfinite(value):
        sentence = f"random needs at least {largest:g} times the rows to do as well ({interval})"
        return Multiplier(*capped, "at least", sentence)
    if value <= 1:
        return Multiplier(*capped, "at most", f"random of the same size does as well or better ({interval})")
    return Multiplier(*capped, "", f"random needs {value:.2f} times the rows to do as well ({interval})")


def _shown(value: float, largest: float) -> str:
    return f"{value:.2f}" if isfinite(value) else f"over {largest:g}"
