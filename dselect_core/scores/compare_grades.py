"""Judges on the rows that they graded: two of them, or one with itself. What the stores have is compared, and nobody is
asked."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

import polars as pl

from dselect_core.corpus.sample import conform_samples
from dselect_core.errors import DselectError
from dselect_core.graders.agreement import Agreement, agreement
from dselect_core.kinds import kind_of
from dselect_core.scores.provenance import future_store, future_store_of_pool
from dselect_core.scores.repeats import repeats_of, with_itself
from dselect_core.select.judges_spec import GRADE, GRADES, kind_of_judge
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_with_metadata


@dataclass(frozen=True)
class Compared:
    """agreement: of the rows that both graded. apart: those whose grades are furthest apart, with what was said.

    apart: sample_id, source, first, second, first_reason, second_reason, messages.
    rows: that both graded. only_first, only_second: rows that one of them graded alone.
    """

    agreement: Agreement
    apart: pl.DataFrame = field(repr=False)
    rows: int
    only_first: int
    only_second: int


def compare_grades(workspace: Workspace, first: str, second: str, most_apart: int = 10) -> Compared:
    """The grades that two of the settings' `graders` gave to the landed rows.

    A judge with itself: the grades that it gave again to some rows, each two of a row. Raises DselectError where one is
    not named there, or there is no row that both graded.
    """
    samples = _landed_samples(workspace)
    if first == second:
        return _with_itself(workspace, first, samples, most_apart)
    of_first, of_second = (_grades(workspace, judge, samples) for judge in (first, second))
    both = of_first.join(of_second, on="sample_id", suffix="_of_second")
    if both.is_empty():
        raise DselectError(
            f"no row was graded by both {first} and {second}: let recipes read both, or have some rows graded by "
            "`dselect grades try 50 --grader …`, which takes the same rows for each"
        )
    found = agreement(both.select("sample_id", first=GRADE, second=f"{GRADE}_of_second"), most_apart)
    reasons = both.select("sample_id", first_reason="rationale", second_reason="rationale_of_second")
    apart = found.apart.join(reasons, on="sample_id", how="left", maintain_order="left")
    apart = apart.join(samples, on="sample_id", how="left", maintain_order="left")
    return Compared(found, apart, both.height, of_first.height - both.height, of_second.height - both.height)


def _with_itself(workspace: Workspace, judge: str, samples: pl.DataFrame, most_apart: int) -> Compared:
    """Over all sources; a reason is not kept beside each grade, so none is told."""
    frames = [
        _pairs_with_itself(workspace, judge, of_source["source"][0], of_source)
        for of_source in samples.partition_by("source", maintain_order=True)
    ]
    pairs = pl.concat(frames)
    if pairs.is_empty():
        raise DselectError(
            f"{judge} gave no grade twice: set `graders.{judge}.repeat: 3` and run `dselect refresh`, or name another "
            "grader to compare it with"
        )
    found = agreement(pairs, most_apart)
    told = found.apart.with_columns(first_reason=pl.lit(""), second_reason=pl.lit(""))
    apart = told.join(samples, on="sample_id", how="left", maintain_order="left")
    return Compared(found, apart, pairs["sample_id"].n_unique(), 0, 0)


@dataclass(frozen=True)
class Pair:
    """How far two judges agree on a source, or one with itself: then both have its name."""

    first: str
    second: str
    agreement: Agreement


def agreements_of(workspace: Workspace, source: str, kinds: Iterable[str]) -> list[Pair]:
    """Of each judge that repeats grades with itself, then of each two judges, where a row of the source has both.

    kinds: of the judges that are asked; others may not be there to be named. Raises DselectError where what a judge's
    provenance names cannot be read.
    """
    judges = [kind_of(name).maker for name in sorted(kinds) if kind_of(name).stored_as == GRADES]
    ids = read_with_metadata(workspace.samples(source), ["sample_id"])[0] if judges else pl.DataFrame()
    ids = ids.with_columns(source=pl.lit(source))
    pairs = []
    for judge in judges:
        spec = workspace.settings.grader_of(judge)
        if spec.repeat is not None:
            own = judge or spec.model or ""
            pairs.append(Pair(own, own, agreement(_pairs_with_itself(workspace, judge, source, ids))))
    named = [judge for judge in judges if judge is not None]
    graded = {judge: _grades(workspace, judge, ids) for judge in named if len(named) > 1}
    for first, second in combinations(graded, 2):
        of_second = graded[second].select("sample_id", second=GRADE)
        both = graded[first].select("sample_id", first=GRADE).join(of_second, on="sample_id")
        pairs.append(Pair(first, second, agreement(both)))
    return [pair for pair in pairs if pair.agreement.rows]


def _landed_samples(workspace: Workspace) -> pl.DataFrame:
    """sample_id, messages, source: each once, of the first source that holds it."""
    frames = []
    for source in sorted(workspace.settings.sources):
        try:
            samples, _ = read_with_metadata(workspace.samples(source))
        except FileNotFoundError:  # not landed
            continue
        frames.append(conform_samples(samples).select("sample_id", "messages", source=pl.lit(source)))
    if not frames:
        raise DselectError("no source has landed yet: run `dselect refresh`")
    return pl.concat(frames).unique("sample_id", keep="first", maintain_order=True)


def _pairs_with_itself(workspace: Workspace, judge: str | None, source: str, ids: pl.DataFrame) -> pl.DataFrame:
    """`with_itself` of a source's rows."""
    kind, of_source = kind_of(kind_of_judge(judge)), workspace.of_source(source)
    grades = future_store(of_source, kind, None)
    assert grades is not None  # no grade depends on the target model
    return with_itself(repeats_of(of_source, kind, ids), grades)


def _grades(workspace: Workspace, judge: str | None, samples: pl.DataFrame) -> pl.DataFrame:
    """sample_id, grade, rationale of the rows that the judge gave a grade, each as its source asks. samples: source."""
    sources = {of["source"][0]: of for of in samples.select("sample_id", "source").partition_by("source")}
    store = future_store_of_pool(workspace, kind_of(kind_of_judge(judge)), None, sources)
    assert store is not None  # likewise
    graded = store.read(samples.select("sample_id"), [GRADE, "rationale"])
    if graded.is_empty():
        return pl.DataFrame(schema={"sample_id": pl.String, GRADE: pl.Float64, "rationale": pl.String})
    return graded.select("sample_id", GRADE, "rationale").drop_nulls(GRADE)
