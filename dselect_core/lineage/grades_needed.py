"""Which grades the recipes still need, and about how many they will: what a paid grader would be asked for.

A recipe needs next what it takes by the bounds of the grades (select/candidates.py). How many rows that will be in the
end depends on the grades that come. Where some are known, the rounds are played through with grades drawn from those,
seeded: that assumes that the rows to come are graded like them. Reads only.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from dselect_core.coreset.candidate_grades import guess_rows, with_known_grades
from dselect_core.errors import DselectError
from dselect_core.kinds import kind_of, with_needs
from dselect_core.pool.corpus_index import Index, incomplete, index_of
from dselect_core.pool.pool_tables import load_pool
from dselect_core.scores.forward_scores import uncomputable_kinds
from dselect_core.scores.provenance import future_store_of_pool
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.candidates import Needed, bounds_suffice, needed_grades
from dselect_core.select.judges_spec import GRADE, GRADES, JudgesSpec
from dselect_core.select.select import required_kinds
from dselect_core.settings.workspace import Workspace


@dataclass(frozen=True)
class GradesNeeded:
    """Rows of the pool by what is known of their grades.

    rows: of the pool. graded, failed: asked before, with a grade and for good without. recipes: those that read
    grades, with what they need next. every_row: {recipe, or `near_duplicates`: why every row has to be graded for it}.
    next_ids: what all of them need next, each once. expected: how many rows are asked for in the end; None where too
    few grades are known to guess from, or every row is needed.
    """

    rows: int
    graded: int
    failed: int
    recipes: dict[str, Needed]
    every_row: dict[str, str]
    next_ids: pl.Series = field(repr=False)
    expected: int | None

    @property
    def ungraded(self) -> int:
        """Rows that nobody asked for yet: the most that is needed."""
        return self.rows - self.graded - self.failed


def grades_needed(workspace: Workspace, judges: JudgesSpec | None = None) -> GradesNeeded:
    """What the recipes of the settings need, over all sources whose other scores are made.

    judges: only of the recipes that read these judges' grades so; a row is graded when all of them were asked. Raises
    DselectError where no recipe reads grades, no source has the other scores yet, or a recipe cannot be met.
    """
    settings = workspace.settings
    specs = {name: spec for name, spec in settings.coresets.items() if spec.reads_grades and spec.grade == judges}
    if not specs:
        raise DselectError("no recipe reads grades, so none are needed")
    kinds = frozenset({GRADES}) if judges is None else judges.kinds
    others = frozenset(kind for spec in specs.values() for kind in required_kinds(spec)) - kinds
    index = index_of(
        workspace, list(settings.sources), frozenset(with_needs(others)) - uncomputable_kinds(workspace).keys()
    )
    if not index.sources:
        raise DselectError("nothing is known of the grades needed: " + incomplete(index.excluded))
    ungraded = load_pool(workspace, index, others)
    pool = _combined(ungraded, judges, [_graded_by(workspace, index, ungraded, kind) for kind in sorted(kinds)])
    every_row = {name: _why_every_row(spec.strategy) for name, spec in specs.items() if not bounds_suffice(spec)}
    near_duplicates = settings.near_duplicates
    if near_duplicates is not None and near_duplicates.reads_grades and near_duplicates.grade == judges:
        every_row["near_duplicates"] = "keep: best compares the grades of all samples that are alike"
    recipes: dict[str, Needed] = {}
    for name, spec in specs.items():
        try:
            recipes[name] = needed_grades(pool, spec)
        except DselectError as error:
            raise DselectError(f"coreset {name}: {error}") from None
    assert pool.ungraded is not None
    if every_row:
        asked = pool.sample_ids.filter(pl.Series(pool.ungraded))
    else:
        asked = pl.concat([each.sample_ids for each in recipes.values()]).unique(maintain_order=True)
    guess = None if every_row else guess_rows(pool, specs.values())
    known = pool.scores[GRADE].count()
    failed = len(pool) - int(pool.ungraded.sum()) - known
    return GradesNeeded(len(pool), known, failed, recipes, every_row, asked, guess)


def _why_every_row(strategy: str) -> str:
    return f"{strategy} as it is asked for reads all grades"


def _graded_by(workspace: Workspace, index: Index, pool: Pool, name: str) -> Pool:
    """The pool with the grades of one judge that are known."""
    of_sources = index.frame.explode("sources").partition_by("sources", as_dict=True)
    sources = {str(source): ids for (source,), ids in of_sources.items()}
    return with_known_grades(workspace, pool, future_store_of_pool(workspace, kind_of(name), None, sources), name)


def _combined(pool: Pool, judges: JudgesSpec | None, graded: list[Pool]) -> Pool:
    """The pool with what several judges' grades are together. graded: of each of them, by name."""
    if judges is None or len(graded) == 1:
        return graded[0]
    together = judges.combined([each.scores for each in graded])
    scores = pool.scores.join(together, on="sample_id", how="left", maintain_order="left")
    ungraded = np.any([each.ungraded for each in graded if each.ungraded is not None], axis=0)
    return replace(pool, scores=scores, ungraded=ungraded)
