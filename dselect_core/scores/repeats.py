"""Grades given again, to a part of a source's rows: how far a judge agrees with itself (`repeat` of a grader).

Whoever says 3 for a row today and 5 tomorrow cannot tell that row from others by one grade. The rows are the
`repeat_rows` with the lowest ids of the source. An id is a hash, so that is a random draw, the same whoever asks, and a
new row takes the place of another only where its id is lower. The n-th grades lie in a store of their own, whose
provenance is the judge's and `repeat: n`; no recipe reads them, and they move nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from dselect_core.kinds import Kind
from dselect_core.scores.attempts import attempts
from dselect_core.scores.provenance import future_store
from dselect_core.select.judges_spec import GRADE, GRADES
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.score_store import Store


@dataclass(frozen=True)
class Repeat:
    """One more grading of some rows. rows: sample_id, all of them; missing: those that were not graded again yet.

    number: 2 for the first one after the grades themselves. workspace: under whose settings the judge gives them.
    """

    number: int
    workspace: Workspace = field(repr=False)
    store: Store
    rows: pl.DataFrame = field(repr=False)
    missing: pl.DataFrame = field(repr=False)


def repeats_of(workspace: Workspace, kind: Kind, samples: pl.DataFrame) -> list[Repeat]:
    """What the settings ask to be repeated of a judge's grades for a source; none for other kinds of score.

    workspace: of the source. samples: sample_id, of it. Reads only. Raises DselectError where the provenance cannot be
    read.
    """
    if kind.stored_as != GRADES:
        return []
    spec = workspace.settings.grader_of(kind.maker)
    if spec.repeat is None:
        return []
    rows = samples.select("sample_id").sort("sample_id").head(spec.repeat_rows)
    repeats = []
    for number in range(2, spec.repeat + 1):
        of_turn = Workspace(workspace.settings.with_graders([spec.again(number)]))
        store = future_store(of_turn, kind, None)
        assert store is not None  # no grade depends on the target model
        repeats.append(Repeat(number, of_turn, store, rows, _missing(of_turn, kind, store, rows)))
    return repeats


def with_itself(repeats: Sequence[Repeat], grades: Store) -> pl.DataFrame:
    """sample_id, first, second: two grades of a row by one judge, for each two of its gradings.

    grades: the store of its grades, which are the first of them.
    """
    pairs = [pl.DataFrame(schema={"sample_id": pl.String, "first": pl.Float64, "second": pl.Float64})]
    for repeat in repeats:
        stores = [grades, *(earlier.store for earlier in repeats if earlier.number < repeat.number)]
        later = _graded(repeat.store, repeat.rows).rename({GRADE: "second"})
        pairs += [_graded(store, repeat.rows).rename({GRADE: "first"}).join(later, on="sample_id") for store in stores]
    return pl.concat(pairs)


def _graded(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    graded = store.read(rows, [GRADE])
    schema = {"sample_id": pl.String, GRADE: pl.Float64}
    return pl.DataFrame(schema=schema) if graded.is_empty() else graded.drop_nulls(GRADE)


def _missing(workspace: Workspace, kind: Kind, store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows without a grade there, but those that were tried as often as the settings allow."""
    missing, limit = store.missing(rows), kind.give_up_after(workspace.settings)
    failed = store.read(missing, [kind.value, kind.reason_column]) if limit is not None else rows.clear()
    if failed.is_empty():
        return missing
    given_up = failed.filter(attempts(kind, workspace.settings) >= limit)
    return missing.join(given_up, on="sample_id", how="anti", maintain_order="left")
