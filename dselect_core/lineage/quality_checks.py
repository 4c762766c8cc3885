"""What must hold before anything is chosen, and of what was: rows accounted for, scores that can be trusted.

The thresholds are those of the settings (`checks`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from dselect_core.coreset.manifest import NO_FAULTS, read_manifest, readable_manifest
from dselect_core.coreset.published import read_version
from dselect_core.corpus.raw_dataset import read_row_counts
from dselect_core.kinds import Column, kind_of
from dselect_core.lineage.alike_chosen import MOST_ROWS, alike_chosen
from dselect_core.lineage.score_drift import score_drift
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.near_duplicates import read_near_duplicates
from dselect_core.pool.overlap import short_reason
from dselect_core.pool.pool_tables import is_asked, pool_scores
from dselect_core.select.judges_spec import GRADE, GRADES
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet
from dselect_core.trials.standing import standing

# Fewer rows may be equal by chance.
CONSTANT_ROWS = 20
_TOLD = 10
"""Rows to blame that a verdict names."""


@dataclass(frozen=True)
class Verdict:
    """What a check found: a sentence for people, and figures by name."""

    passed: bool
    description: str
    facts: dict[str, Any] = field(default_factory=dict)


def rows_accounted_for(workspace: Workspace, source: str) -> Verdict:
    """rows in = samples + duplicates + quarantined, the last three counted again from the tables themselves."""
    account = read_row_counts(workspace, source)
    samples = read_parquet(workspace.samples(source))
    quarantined = read_parquet(workspace.quarantine(source))["row"].count()  # a file that was left out has no row
    sample_rows = int(samples["n_rows"].sum())
    origin_count = int(samples["origins"].list.len().sum())
    table_rows = sample_rows + quarantined
    duplicates = sample_rows - samples.height
    facts = {"rows": account["rows"], "samples": samples.height, "duplicates": duplicates, "quarantined": quarantined}
    if account["rows"] == table_rows and origin_count == sample_rows:
        counts = f"{samples.height} samples + {duplicates} duplicates + {quarantined} quarantined"
        return Verdict(True, f"{account['rows']} rows = {counts}", facts)
    return Verdict(False, f"rows are missing: {account['rows']} read, {table_rows} found in the tables", facts)


def quarantine_is_small(workspace: Workspace, source: str) -> Verdict:
    """At most `checks.quarantine` of the rows that were read are in quarantine, and no file was left out."""
    account = read_row_counts(workspace, source)
    share = account["quarantined"] / max(1, account["rows"])
    bad_files = account.get("bad files", 0)  # version 0.2 did not count them
    left_out = f"; {bad_files} bad files were left out" if bad_files else ""
    passed = share <= workspace.settings.checks.quarantine and not bad_files
    facts: dict[str, Any] = {"share": share, "bad files": bad_files}
    if not passed:
        rows = read_parquet(workspace.quarantine(source)).head(_TOLD).select("file", "row", "reason").iter_rows()
        facts["rows"] = [f"{file}, row {row}: {why}" for file, row, why in rows]
    return Verdict(passed, f"{share:.1%} of the rows are in quarantine{left_out}", facts)


def scores_are_sound(workspace: Workspace, kinds: frozenset[str]) -> Verdict:
    """One provenance a kind; no column that has a range mostly null, constant, or out of it, over the pool."""
    index = read_index(workspace)
    faults = [
        f"{kind}: scores of {len(fingerprints)} provenances"
        for kind, fingerprints in index.fingerprints.items()
        if len(fingerprints) > 1 and kind not in index.stores
    ]
    facts: dict[str, Any] = {}
    for name in sorted(kinds):
        kind = kind_of(name)
        columns = [column for column in kind.columns if column.value_range is not None]
        if columns and (len(index.fingerprints.get(name, [])) == 1 or name in index.stores):
            table = pool_scores(workspace, index, name)
            for column in columns:
                named = kind.named(column.name)
                found = _faults(column, named, table, kind.may_be_constant(table), workspace.settings.checks.nulls)
                faults += found.faults
                facts[f"{named} null share"] = found.null_share
                if found.rows:
                    facts[f"{named} rows"] = found.rows
    return Verdict(not faults, "; ".join(faults) or "every score column is filled, varied and in range", facts)


def candidate_grades_are_sound(workspace: Workspace) -> Verdict:
    """The grades that were asked for: not mostly null, constant, or out of their range."""
    kind = kind_of(GRADES)
    table = read_parquet(workspace.pool_table(GRADES)).filter(is_asked(kind))
    grade = next(column for column in kind.columns if column.name == GRADE)
    may_be_constant = table.is_empty() or kind.may_be_constant(table)
    found = _faults(grade, grade.name, table, may_be_constant, workspace.settings.checks.nulls)
    told = "; ".join(found.faults) or "the grades that were asked for are filled, varied and in range"
    return Verdict(not found.faults, told, {"grade null share": found.null_share, "grade rows": found.rows})


def few_near_duplicates(workspace: Workspace) -> Verdict:
    """At most `checks.near_duplicates` of the pool is not chosen because it is alike to what is kept."""
    found, rows = read_near_duplicates(workspace), read_index(workspace).frame.height
    share = found.table.height / max(1, rows)
    description = (
        f"{found.table.height} of {rows} samples ({share:.1%}) are near-duplicates of {found.groups} that are kept"
    )
    passed = share <= workspace.settings.checks.near_duplicates
    if not passed:
        description += (
            "; are they? The vectors of a language model are all alike to some degree: look at the examples, and raise "
            "`near_duplicates.threshold` or name an encoder under `embeddings`"
        )
    return Verdict(passed, description, {"near-duplicates": found.table.height, "share": share})


def sources_kept(workspace: Workspace, recipe: str) -> Verdict:
    """No source left the coreset since it was made last, but those that the settings do not choose from any more."""
    left = (read_manifest(workspace, recipe) or {}).get("sources_left", {})
    lost = {source: why for source, why in left.items() if why not in NO_FAULTS}
    told = "; ".join(f"{source} left: {why}" for source, why in left.items())
    return Verdict(not lost, told or "every source of the last coreset is still in the pool", {"left": len(left)})


def not_collapsed(workspace: Workspace, recipe: str) -> Verdict:
    """The coreset is not nearly all of one source, nor of lengths far from the pool's (select/composition.py)."""
    found = (read_manifest(workspace, recipe) or {}).get("composition")
    if found is None:
        return Verdict(True, "made by an earlier version, which did not look", {"known": False})
    told = "; ".join(found["collapsed"])
    return Verdict(not told, told or "sources and lengths are not far from the pool's", {"known": True})


def beats_random(workspace: Workspace, recipe: str) -> Verdict | None:
    """The trial's verdict on the coreset as it is now; None where there is none, for then nothing is known."""
    spec = workspace.settings.coresets.get(recipe)
    if spec is None or not spec.trial:
        return None
    tried = standing(workspace, recipe)
    if tried.report is None or not tried.holds:
        return None
    against = tried.report.against_random
    facts = {"better by": against.better_by, "half width": against.half_width, "verdict": against.word}
    return Verdict(against.word == "better", against.sentence, facts)


def requirements_met(workspace: Workspace, recipe: str) -> Verdict:
    """Whether all that the recipe requires of its coreset holds. What is not known yet does not hold."""
    spec = workspace.settings.coresets.get(recipe)
    if spec is None or not spec.require:
        return Verdict(True, "the recipe requires nothing")
    beats = beats_random(workspace, recipe)
    if beats is None:
        why = standing(workspace, recipe).why
        return Verdict(False, f"it requires beats_random, and its trial has not said so: {why}", {"known": False})
    return Verdict(beats.passed, f"it requires beats_random: {beats.description}", {"known": True, **beats.facts})


def held_back(workspace: Workspace, recipes: Iterable[str] | None = None) -> dict[str, str]:
    """{recipe: why} of the made coresets (of all recipes, by default) that lack what their recipes require."""
    specs = workspace.settings.coresets
    required = [name for name in (specs if recipes is None else recipes) if specs[name].require]
    made = [name for name in required if readable_manifest(workspace, name) is not None]
    verdicts = {name: requirements_met(workspace, name) for name in made}
    return {name: verdict.description for name, verdict in verdicts.items() if not verdict.passed}


class _Found(NamedTuple):
    """What is wrong with one column of scores. null_share: of its rows; rows: some that are to blame."""

    faults: list[str]
    null_share: float
    rows: list[str]


def _faults(column: Column, named: str, table: pl.DataFrame, may_be_constant: bool, most_nulls: float) -> _Found:
    assert column.value_range is not None
    low, high = column.value_range
    values = table[column.name].cast(pl.Float64)
    null_share = values.null_count() / max(1, len(values))
    present = values.drop_nulls()
    faults, blamed = [], pl.repeat(False, len(values), eager=True)
    if null_share > most_nulls:
        faults.append(f"{named}: {null_share:.0%} null")
        blamed |= values.is_null()
    if len(present) >= CONSTANT_ROWS and present.n_unique() == 1 and not may_be_constant:
        faults.append(f"{named}: the same value, {present[0]}, in all {len(present)} rows")
    outside = ~(values.is_finite() & values.is_between(low, high)).fill_null(True)
    if outside.any():
        faults.append(f"{named}: values outside [{low:g}, {high:g}]")
        blamed |= outside
    return _Found(faults, null_share, table["sample_id"].filter(blamed).head(_TOLD).to_list())


def scores_have_not_drifted(workspace: Workspace, kinds: frozenset[str]) -> Verdict:
    """No score of the pool is distributed farther than `checks.drift` from what it was (score_drift.py)."""
    found, most = score_drift(workspace, kinds), workspace.settings.checks.drift
    told = "; ".join(
        f"{each.column}: {each.distance:.3f} from the last pool's ({each.rows_before:,} rows, now {each.rows:,})"
        for each in found
        if each.distance > most
    )
    facts = {f"{each.column} distance": each.distance for each in found}
    return Verdict(
        not told, told or "every score is distributed as in the last pool, or has none to compare with", facts
    )


def few_chosen_are_alike(workspace: Workspace, recipe: str) -> Verdict:
    """At most `checks.alike_chosen` of the chosen rows are alike to another chosen one (alike_chosen.py)."""
    order: pl.DataFrame = read_version(workspace.coreset(recipe), lambda made: made.read_table("order.parquet"))
    spec, chosen = workspace.settings.checks, order["sample_id"]
    found = alike_chosen(workspace, read_index(workspace), chosen, spec.alike)
    if found is None:
        return Verdict(True, "the pool has no embeddings, so nobody looked", {"known": False})
    looked_at = min(len(chosen), MOST_ROWS)
    share = found.height / max(1, looked_at)
    facts: dict[str, Any] = {"alike": found.height, "share": share}
    if found.height:
        pairs = found.head(_TOLD).iter_rows()
        facts["rows"] = [f"{one} and {other}: cosine {cosine:.4f}" for one, other, cosine in pairs]
    told = (
        f"{found.height} of the first {looked_at} rows ({share:.1%}) have another at a cosine of {spec.alike:g} or more"
    )
    return Verdict(share <= spec.alike_chosen, told, facts)


def losses_do_not_depend_on_the_batch(workspace: Workspace) -> Verdict:
    """No sample of a probe has another loss alone than in a batch, beyond float noise (batch_invariance.py)."""
    from dselect_core.lineage.batch_invariance import batch_differences  # opens the model

    found = batch_differences(workspace)
    if found is None:
        return Verdict(True, "no row has a loss, so nobody looked", {"known": False})
    rows, noise = found
    most = workspace.settings.checks.batch_difference
    most = noise if most is None else most
    off = rows.filter(pl.col("difference") > most)
    facts: dict[str, Any] = {"probed": rows.height, "largest_difference": float(rows["difference"][0])}
    if off.height:
        told = off.head(_TOLD).select("sample_id", "in_batch", "alone").iter_rows()
        facts["rows"] = [f"{name}: {in_batch:.5f} in a batch, {alone:.5f} alone" for name, in_batch, alone in told]
    told_of = (
        f"{off.height} of {rows.height} rows have a loss that differs by more than {most:g} nats alone and in a batch"
    )
    return Verdict(off.is_empty(), f"{told_of}; the largest difference is {facts['largest_difference']:.2g}", facts)


def every_source_complete(workspace: Workspace) -> Verdict:
    """No source is left out of the pool; the reasons of those that are."""
    index = read_index(workspace)
    excluded = "; ".join(f"{name}: {reason}" for name, reason in index.excluded.items())
    return Verdict(not index.excluded, excluded or "no source is left out", {"excluded": len(index.excluded)})


def little_is_held_out(workspace: Workspace) -> Verdict:
    """At most `checks.held_out` of the pool is held out for what it shares with eval sources.

    More is a sign that one was copied into the pool, or that both are of one template.
    """
    index = read_index(workspace)
    held_out, rows = index.held_out.rows.height, index.frame.height
    share = held_out / max(1, rows)
    reasons = index.held_out.rows["reason"].map_elements(short_reason, return_dtype=pl.String).value_counts(sort=True)
    told = "".join(f"; {reason}: {count}" for reason, count in reasons.iter_rows())
    told += "".join(f"; because of {source}: {count}" for source, count in index.held_out.by_source.items())
    description = f"{held_out} of {rows} samples ({share:.1%}) are held out{told}"
    return Verdict(share <= workspace.settings.checks.held_out, description, {"held out": held_out, "share": share})
