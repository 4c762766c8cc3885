"""The tables of the study (evidence.py), from the runs that are there: as Markdown, and as CSV to dispute them with.

summary.csv: a strategy in a cell on an eval source, against random draws; runs.csv: each run, its training set and its
losses; losses.csv: the loss of every eval row (named by its hash) in every run; coresets.csv: what each strategy took.
No text of a row is in any of them. Runs that are in the files and not in the store can be put back into it: a study
goes on from its files alone, on another machine.
"""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from evidence_grid import DIFFERENT, SHORTEST, Cell
from measure import table as markdown

from dselect_core.runs.run_store import Run
from dselect_core.settings.workspace import Workspace
from dselect_core.trials import draws
from dselect_core.trials.compare_sets import MarkedSet
from dselect_core.trials.make_trial import marked_sets
from dselect_core.trials.report import ALL
from dselect_core.trials.statistics import Marks, difference
from dselect_core.trials.trial import Trial


@dataclass(frozen=True)
class Tried:
    """A strategy in a cell: its trial with the runs that are there, and the marks of each set of them."""

    cell: Cell
    strategy: str
    trial: Trial
    sets: dict[str, MarkedSet]

    @property
    def random(self) -> str:
        """The set that the verdict is held to."""
        return draws.TOKENS if self.cell.by_tokens else draws.RANDOM


def read_tried(workspace: Workspace, cells: list[Cell], strategies: list[str]) -> list[Tried]:
    """What was tried, as far as it was: at least one seed, and two draws to hold it to."""
    found = []
    for cell in cells:
        for name in strategies:
            if not workspace.coreset(f"{name}-{cell.name}").exists():
                continue
            trial = cell.trial(workspace, name)
            trial = replace(trial, runs=[run for run in trial.runs if not trial.missing_marks(run.fingerprint)])
            names = Counter(run.training_set.name for run in trial.runs)
            tried = Tried(cell, name, trial, {})
            if names[draws.CORESET] and names[tried.random] > 1:
                found.append(replace(tried, sets=marked_sets(trial)))
    return found


def summary(tried: list[Tried]) -> pl.DataFrame:
    """A row for each strategy, cell and eval source; the other draws of a cell are strategies too."""
    rows = []
    told = set()
    for each in tried:
        rows += _summary_rows(each, each.strategy, each.sets[draws.CORESET])
        for name in (draws.BALANCED, DIFFERENT, SHORTEST):
            if name in each.sets and (each.cell, name) not in told:
                told.add((each.cell, name))
                rows += _summary_rows(each, name, each.sets[name])
    return pl.DataFrame(rows)


def _summary_rows(tried: Tried, name: str, marked: MarkedSet) -> Iterator[dict[str, Any]]:
    random = tried.sets[tried.random]
    ours, theirs = marked.marks["loss"], random.marks["loss"]
    tokens = [count for count in marked.response_tokens if count is not None]
    for source in (ALL, *ours.values):
        one, other = (ours, theirs) if source == ALL else (ours.only(source), theirs.only(source))
        found = difference(one, other, drawn=True, higher_is_better=False)
        word = "better" if found.low > 0 else "worse" if found.high < 0 else "no difference"
        yield {
            "budget": tried.cell.name,
            "strategy": name,
            "eval": source,
            "runs": one.runs,
            "rows": round(statistics.mean(marked.rows)),
            "response_tokens": round(statistics.mean(tokens)),
            "loss": _mean(one),
            "random_loss": _mean(other),
            "random_sd": float(other.per_run().std(ddof=1)),
            "draws": other.runs,
            "better_by": found.better_by,
            "low": found.low,
            "high": found.high,
            "verdict": word,
        }


def _mean(marks: Marks) -> float:
    return float(marks.per_run().mean())


def runs(tried: list[Tried]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(a row for each run with its mean losses, a row for each eval row with its loss in each run)."""
    rows: dict[str, dict[str, Any]] = {}
    by_row: dict[tuple[str, str], dict[str, Any]] = {}
    for each in tried:
        for run in each.trial.runs:
            key = run_name(each.cell, each.strategy, run)
            if key in rows:
                continue
            facts = each.trial.store.facts(run) or {}
            rows[key] = {
                "run": key,
                "made_from": run.fingerprint,
                "rows": len(run.training_set.ids),
                "response_tokens": facts.get("response_tokens"),
                "tokens": facts.get("tokens"),
                "steps": facts.get("steps"),
                "seconds": facts.get("seconds"),
            } | _marks(each.trial, run.fingerprint, key, by_row)
    if tried:
        rows["untuned"] = {"run": "untuned", "made_from": tried[0].trial.untuned} | _marks(
            tried[0].trial, tried[0].trial.untuned, "untuned", by_row
        )
    return pl.DataFrame(list(rows.values()), infer_schema_length=None), pl.DataFrame(
        list(by_row.values()), infer_schema_length=None
    )


def _marks(trial: Trial, run: str, key: str, by_row: dict[tuple[str, str], dict[str, Any]]) -> dict[str, float]:
    means = {}
    for wanted in trial.measurements:
        marks = trial.store.marks(run, wanted.name)
        assert marks is not None
        found = marks.drop_nulls()
        means[wanted.eval_set.name] = float((found["loss"] * found["tokens"]).sum() / found["tokens"].sum())
        for sample_id, loss, tokens in found.iter_rows():
            place = by_row.setdefault((wanted.eval_set.name, sample_id), {})
            place |= {"eval": wanted.eval_set.name, "sample_id": sample_id, "tokens": tokens, key: round(loss, 5)}
    return {name: round(mean, 5) for name, mean in means.items()}


def run_name(cell: Cell, strategy: str, run: Run) -> str:
    """A run in the files: its cell, what was tuned on, and its number."""
    name = strategy if run.training_set.name == draws.CORESET else run.training_set.name
    return f"{cell.name} {name} {run.training_set.number}"


def restore(workspace: Workspace, cells: list[Cell], strategies: list[str], folder: Path) -> int:
    """Put the runs of `folder`'s files into the store, without weights; returns how many.

    Only those of exactly the training set, model and settings that the workspace would tune: `made_from` says so.
    """
    try:
        tuned, losses = (pl.read_csv(folder / f"{name}.csv", infer_schema_length=None) for name in ("runs", "losses"))
    except FileNotFoundError:
        return 0
    if "made_from" not in tuned.columns:
        return 0  # of an earlier form, which does not say what its runs were made from
    known = {row["run"]: row for row in tuned.iter_rows(named=True)}
    restored = 0
    for cell in cells:
        for strategy in strategies:
            if not workspace.coreset(f"{strategy}-{cell.name}").exists():
                continue
            trial = cell.trial(workspace, strategy)
            wanted = [("untuned", trial.untuned, None)]
            wanted += [(run_name(cell, strategy, run), run.fingerprint, run) for run in trial.runs]
            for name, made_from, run in wanted:
                row = known.get(name)
                if row is None or row["made_from"] != made_from or not trial.missing_marks(made_from):
                    continue
                for measured in trial.measurements:
                    marks = losses.filter(eval=measured.eval_set.name).select(
                        "sample_id", pl.col(name).alias("loss"), "tokens"
                    )
                    trial.store.write_marks(made_from, measured.name, marks)
                if run is not None:
                    facts = {key: row[key] for key in ("rows", "response_tokens", "tokens", "steps", "seconds")}
                    trial.store.write(run, facts, None)
                restored += 1
    return restored


def coresets(tried: list[Tried]) -> pl.DataFrame:
    """What each strategy took: rows and shares by source, and lengths. Random: what the pool is."""
    rows = []
    seen: set[tuple[str, str]] = set()
    for each in tried:
        for run in each.trial.runs:
            name = each.strategy if run.training_set.name == draws.CORESET else run.training_set.name
            if run.training_set.number == 0 and (each.cell.name, name) not in seen:
                seen.add((each.cell.name, name))
                rows.append({"budget": each.cell.name, "strategy": name} | _taken(each.trial, run))
    return pl.DataFrame(rows, infer_schema_length=None)


def _taken(trial: Trial, run: Run) -> dict[str, Any]:
    samples = [trial.pool.candidates[sample_id] for sample_id in run.training_set.ids]
    lengths = [sample.response_tokens or 0 for sample in samples]
    prompts = [sample.prompt_tokens or 0 for sample in samples]
    sources = Counter(sample.source.removeprefix("pool-") for sample in samples)
    return {
        "rows": len(samples),
        "response_tokens": sum(lengths),
        "median_response": statistics.median(lengths),
        "median_prompt": statistics.median(prompts),
        "one_token_responses": sum(length <= 2 for length in lengths),
    } | {
        source: sources[source]
        for source in sorted({each.source.removeprefix("pool-") for each in trial.pool.candidates.values()})
    }


def told(frame: pl.DataFrame, taken: pl.DataFrame) -> str:
    """The summary as Markdown: a table a budget, best first."""
    parts = []
    sources = [name for name in frame["eval"].unique(maintain_order=True) if name != ALL]
    for budget in frame["budget"].unique(maintain_order=True):
        of_budget = frame.filter(pl.col("budget") == budget)
        overall = of_budget.filter(pl.col("eval") == ALL).sort("better_by", descending=True)
        lines = []
        for row in overall.iter_rows(named=True):
            of = of_budget.filter(pl.col("strategy") == row["strategy"])
            by_source = dict(of.select("eval", pl.struct("better_by", "verdict")).iter_rows())
            what = taken.filter((pl.col("budget") == budget) & (pl.col("strategy") == row["strategy"]))
            lines.append(
                [
                    row["strategy"],
                    f"{row['better_by']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
                    row["verdict"],
                    *(_told_source(by_source[source]) for source in sources),
                    str(row["runs"]),
                    str(row["rows"]),
                    f"{row['response_tokens']:,}",
                    f"{what['median_response'].item():g}" if what.height else "",
                ]
            )
        first = overall.row(0, named=True)
        heading = (
            f"**{budget}** (random: {first['random_loss']:.3f} ± {first['random_sd']:.3f} over {first['draws']} draws)"
        )
        columns = ["strategy", "better than random by", "verdict", *(s.removeprefix("held-") for s in sources)]
        columns += ["runs", "rows", "response tokens", "median"]
        parts.append(f"{heading}\n\n{markdown(columns, lines)}")
    return "\n\n".join(parts)


def overview(frame: pl.DataFrame) -> str:
    """The README's table: a row for each strategy, a column for each budget, best on average first."""
    overall = frame.filter(pl.col("eval") == ALL)
    budgets = overall["budget"].unique(maintain_order=True).to_list()
    cells = {(row["strategy"], row["budget"]): row for row in overall.iter_rows(named=True)}
    by_mean = overall.group_by("strategy").agg(pl.col("better_by").mean()).sort("better_by", descending=True)
    lines = [[name, *(_told_interval(cells.get((name, budget))) for budget in budgets)] for name in by_mean["strategy"]]
    return markdown(["strategy", *budgets], lines)


def _told_interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['better_by']:+.3f} ± {(found['high'] - found['low']) / 2:.3f}{_mark(found)}"


def _told_source(found: dict[str, Any]) -> str:
    return f"{found['better_by']:+.3f}{_mark(found)}"


def _mark(found: dict[str, Any]) -> str:
    return {"better": " ▲", "worse": " ▼"}.get(found["verdict"], "")


def write_tables(workspace: Workspace, cells: list[Cell], strategies: list[str], folder: Path) -> str:
    """Write the CSVs into `folder` (created); returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    tried = read_tried(workspace, cells, strategies)
    frame, taken = summary(tried), coresets(tried)
    by_run, by_row = runs(tried)
    for name, each in (("summary", frame), ("runs", by_run), ("losses", by_row), ("coresets", taken)):
        each.write_csv(folder / f"{name}.csv", float_precision=5)
    return f"{overview(frame)}\n\n{told(frame, taken)}"
