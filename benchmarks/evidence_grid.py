"""The runs of the study (evidence.py), in the order in which they are worth most, by any number of processes.

A cell is a budget, in rows or in response tokens: its strategies, three seeds each, and the random draws that they are
held to. Draws of as many tokens are of the budget itself, so all strategies of a cell share them. Runs and marks are
those of `dselect_core.trials`: kept as soon as they are there, so a grid that was stopped goes on. A process claims a
run before it tunes it; the claim of a process that is gone does not count.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dselect_core.errors import DselectError
from dselect_core.pool.near_duplicates import read_near_duplicates
from dselect_core.runs.run_store import Run, TrainingSet, of_samples
from dselect_core.settings.settings import load_settings
from dselect_core.settings.workspace import Workspace
from dselect_core.trials import draws
from dselect_core.trials.training_sets import runs_of
from dselect_core.trials.trial import Trial
from dselect_core.trials.tune_and_measure import TrialWork, training_samples


@dataclass(frozen=True)
class Cell:
    """A budget. share: percent of the pool; by_tokens: of its response tokens, else of its rows."""

    share: int
    by_tokens: bool

    @property
    def name(self) -> str:
        """As the recipes of the cell end."""
        return f"{self.share}pct" + ("-tokens" if self.by_tokens else "")

    def trial(self, workspace: Workspace, strategy: str) -> Trial:
        """A strategy's trial with the baselines of the cell alone."""
        recipe = f"{strategy}-{self.name}"
        trial = Trial.of(workspace, recipe)
        if not self.by_tokens:
            return replace(trial, runs=[*trial.runs, *runs_of(draws_of_different(workspace, trial), trial.model)])
        lengths = {
            name: s.response_tokens for name, s in trial.pool.candidates.items() if s.response_tokens is not None
        }
        tokens = int(workspace.settings.coresets[recipe].budget.value)
        drawn = []
        for number in range(workspace.settings.trials.draws):
            order = draws.draw_order(list(lengths), number)
            for name, each in ((draws.TOKENS, order), (SHORTEST, sorted(order, key=lengths.__getitem__))):
                drawn.append(of_samples(name, number, draws.take_tokens(each, lengths, tokens)))
        coreset = [run for run in trial.runs if run.training_set.name == draws.CORESET]
        return replace(trial, runs=[*coreset, *runs_of(drawn, trial.model)])


DIFFERENT = f"{draws.RANDOM} without near-duplicates"
"""Draws of as many rows from what `near_duplicates` leaves of the pool."""

SHORTEST = f"{draws.RANDOM} shortest"
"""As many response tokens in the shortest answers, drawn among those of one length: what brevity alone brings."""

DIFFERENT_PROJECT = Path("different") / "dselect.yaml"
"""Beside the study's settings: those of the same pool with `near_duplicates`."""


def draws_of_different(workspace: Workspace, trial: Trial) -> list[TrainingSet]:
    """Sets of the name DIFFERENT, each of what stands first in a draw's order; none where the project is not made."""
    project = Path(workspace.root.path).parent / DIFFERENT_PROJECT
    if not project.exists():
        return []
    alike = set(read_near_duplicates(open_workspace(project)).table["sample_id"])
    different = [sample_id for sample_id in trial.pool.candidates if sample_id not in alike]
    return [
        of_samples(DIFFERENT, number, draws.draw_order(different, number)[: len(trial.pool.chosen)])
        for number in range(workspace.settings.trials.draws)
    ]


def open_workspace(config: Path) -> Workspace:
    """The study's project."""
    return Workspace(load_settings(config))


@dataclass(frozen=True)
class Stage:
    """A part of a cell: seeds of the strategies' runs, and numbers of the draws by the name of their set."""

    cell: Cell
    seeds: tuple[int, ...]
    drawn: dict[str, tuple[int, ...]]

    def holds(self, run: Run) -> bool:
        """Whether a run of the cell is of this stage."""
        numbers = {draws.CORESET: self.seeds, **self.drawn}
        return run.training_set.number in numbers.get(run.training_set.name, ())


def stages(shares: Sequence[int]) -> Iterator[Stage]:
    """The whole grid, a budget after the other, by rows before by tokens: a seed of each strategy before the others,
    for one run can be held to single draws.
    """
    seeds, numbers = (0, 1, 2), tuple(range(5))
    drawn = {draws.RANDOM: numbers, draws.BALANCED: numbers, DIFFERENT: numbers}
    drawn_tokens = {draws.TOKENS: numbers, SHORTEST: numbers[:2]}  # of some 1,500 rows each
    for share in shares:
        rows, tokens = Cell(share, by_tokens=False), Cell(share, by_tokens=True)
        for cell, draws_of_cell in ((rows, drawn), (tokens, drawn_tokens)):
            yield Stage(cell, (0,), draws_of_cell)
            yield Stage(cell, seeds, draws_of_cell)


def cells(shares: Sequence[int]) -> list[Cell]:
    """The cells of the grid, each once, in its order."""
    return list(dict.fromkeys(stage.cell for stage in stages(shares)))


def run_stage(workspace: Workspace, stage: Stage, strategies: list[str], until: float, log: Path) -> int:
    """Tune and measure what no process has, until a time (as time.time()); returns the number of runs it did."""
    torch.set_num_threads(1)
    todo: dict[str, tuple[str, Trial, Run]] = {}
    for name in strategies:
        try:
            trial = stage.cell.trial(workspace, name)
        except DselectError as error:
            print(f"{stage.cell.name} {name}: {error}", flush=True)
            continue
        for run in trial.runs:
            if stage.holds(run):
                todo.setdefault(run.fingerprint, (name, trial, run))
    order = sorted(todo.values(), key=lambda each: (not _is_draw(each[2]), each[2].training_set.number))
    samples = training_samples(workspace, [run for _, _, run in order])
    done = 0
    for name, trial, run in order:
        if time.time() > until:
            break
        if not trial.missing_marks(run.fingerprint) or not _claim(log.parent / "claims", run.fingerprint):
            continue
        if not done and _claim(log.parent / "claims", trial.untuned):
            TrialWork(trial).measure_untuned()
        start, cpu = time.time(), time.process_time()
        TrialWork(trial).tune(run, samples)
        done += 1
        facts = trial.store.facts(run) or {}
        told = [
            time.strftime("%H:%M:%S"),
            stage.cell.name,
            name if run.training_set.name == draws.CORESET else run.training_set.name,
            str(run.training_set.number),
            f"rows={len(run.training_set.ids)}",
            f"tokens={facts.get('tokens')}",
            f"steps={facts.get('steps')}",
            f"wall={time.time() - start:.0f}",
            f"cpu={time.process_time() - cpu:.0f}",
            f"loss={_mean_loss(trial, run):.4f}",
        ]
        with log.open("a") as file:
            file.write(" ".join(told) + "\n")
    return done


def _mean_loss(trial: Trial, run: Run) -> float:
    means = []
    for wanted in trial.measurements:
        marks = trial.store.marks(run.fingerprint, wanted.name)
        assert marks is not None
        found = marks.drop_nulls()
        means.append(float((found["loss"] * found["tokens"]).sum() / found["tokens"].sum()))
    return sum(means) / len(means)


def _is_draw(run: Run) -> bool:
    return draws.is_drawn(run.training_set.name)


def _claim(folder: Path, run: str) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / run
    if place.exists() and not _alive(int(place.read_text() or 0)):
        place.unlink()
    try:
        with place.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def _alive(process: int) -> bool:
    return process > 0 and Path(f"/proc/{process}").exists()
