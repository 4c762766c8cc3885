"""What must hold before anything is chosen: every row accounted for, and scores that can be trusted."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from dselect_core.corpus.raw_dataset import account_of
from dselect_core.pool.corpus_index import pool_scores, read_index
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet

NULL_SHARE = 0.5
QUARANTINE_SHARE = 0.05
# Fewer rows may be equal by chance.
CONSTANT_ROWS = 20
# Column: (kind, lowest, highest), both included.
RANGES: dict[str, tuple[str, float, float]] = {
    "upd": ("difficulty", 0.0, 1.0),
    "loss": ("difficulty", 0.0, float("inf")),
    "entropy": ("difficulty", 0.0, float("inf")),
    "grade": ("grades", 0.0, 1.0),
}


@dataclass(frozen=True)
class Verdict:
    passed: bool
    description: str
    facts: dict[str, Any] = field(default_factory=dict)


def rows_accounted_for(workspace: Workspace, source: str) -> Verdict:
    """rows in = samples + duplicates + quarantined, the last three counted again from the tables themselves."""
    account = account_of(workspace, source)
    samples = read_parquet(workspace.samples(source))
    quarantined = read_parquet(workspace.quarantine(source)).height
    held = int(samples["n_rows"].sum())
    origins = int(samples["origins"].list.len().sum())
    found = held + quarantined
    duplicates = held - samples.height
    facts = {"rows": account["rows"], "samples": samples.height, "duplicates": duplicates, "quarantined": quarantined}
    passed = account["rows"] == found and origins == held
    told = f"{account['rows']} rows = {samples.height} samples + {duplicates} duplicates + {quarantined} quarantined"
    missing = f"rows are missing: {account['rows']} read, {found} found in the tables"
    return Verdict(passed, told if passed else missing, facts)


def quarantine_is_small(workspace: Workspace, source: str) -> Verdict:
    account = account_of(workspace, source)
    share = account["quarantined"] / max(1, account["rows"])
    return Verdict(share <= QUARANTINE_SHARE, f"{share:.1%} of the rows are in quarantine", {"share": share})


def scores_are_sound(workspace: Workspace, kinds: frozenset[str]) -> Verdict:
    """One recipe a kind; no column mostly null, constant, or out of its range, over the pool.

    The builtin heuristic may well find nothing wrong anywhere; a judge that gives every row one grade is broken.
    """
    index = read_index(workspace)
    faults = [f"{kind}: scores of {len(made)} recipes" for kind, made in index.fingerprints.items() if len(made) > 1]
    facts: dict[str, Any] = {}
    one_recipe = {kind for kind, made in index.fingerprints.items() if len(made) == 1}
    read = {kind for kind, _, _ in RANGES.values()} & kinds & one_recipe
    tables = {kind: pool_scores(workspace, index, kind) for kind in sorted(read)}
    for column, (kind, low, high) in RANGES.items():
        if kind not in tables:
            continue
        table = tables[kind]
        values = table[column].cast(pl.Float64)
        nulls = values.null_count() / len(values)
        present = values.drop_nulls()
        facts[f"{column} null share"] = nulls
        if nulls > NULL_SHARE:
            faults.append(f"{column}: {nulls:.0%} null")
        may_be_constant = column == "grade" and set(table["scale"]) == {"heuristic"}
        if len(present) >= CONSTANT_ROWS and present.n_unique() == 1 and not may_be_constant:
            faults.append(f"{column}: the same value, {present[0]}, in all {len(present)} rows")
        if not (present.is_finite() & present.is_between(low, high)).all():
            faults.append(f"{column}: values outside [{low:g}, {high:g}]")
    return Verdict(not faults, "; ".join(faults) or "every score column is filled, varied and in range", facts)


def every_source_complete(workspace: Workspace) -> Verdict:
    index = read_index(workspace)
    told = "; ".join(f"{name}: {reason}" for name, reason in index.excluded.items())
    return Verdict(not index.excluded, told or "no source is left out", {"excluded": len(index.excluded)})
