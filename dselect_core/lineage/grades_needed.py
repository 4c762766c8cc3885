"""Which grades the recipes still need, and about how many they will: what a paid grader would be asked for.

A recipe needs next what it takes by the bounds of the grades (select/candidates.py). How many rows that will be in the
end depends on the grades that come. Where some are known, the rounds are played through with grades drawn from those,
seeded: that assumes that the rows to come are graded like them. Reads only.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from dselect_core.errors import DselectError
from dselect_core.kinds import kind_of, with_needs
from dselect_core.pool.corpus_index import Index, incomplete, index_of
from dselect_core.pool.pool_tables import load_pool
from dselect_core.scores.attempts import attempts
from dselect_core.scores.forward_scores import uncomputable_kinds
from dselect_core.scores.provenance import future_store_of_pool
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.candidates import Needed, bounds_suffice, grade_candidates, needed_grades
from dselect_core.select.prepare import GRADE, GRADES
from dselect_core.select.select import required_kinds
from dselect_core.settings.workspace import Workspace

FEWEST_KNOWN = 20
"""Grades from which others are guessed."""


@dataclass(frozen=True)
class GradesNeeded:
    """Rows of the pool by what is known of their grades.

    rows: of the pool. graded, failed: asked before, with a grade and without. recipes: those that read grades, with
    what they need next. every_row: {recipe, or `near_duplicates`: why every row has to be graded for it}.
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


def grades_needed(workspace: Workspace) -> GradesNeeded:
    """What the recipes of the settings need, over all sources whose other scores are made.

    Raises DselectError where no recipe reads grades, no source has the other scores yet, or a recipe cannot be met.
    """
    settings = workspace.settings
    specs = {name: spec for name, spec in settings.coresets.items() if GRADES in required_kinds(spec)}
    if not specs:
        raise DselectError("no recipe reads grades, so none are needed")
    others = frozenset(kind for spec in specs.values() for kind in required_kinds(spec)) - {GRADES}
    index = index_of(
        workspace, list(settings.sources), frozenset(with_needs(others)) - uncomputable_kinds(workspace).keys()
    )
    if not index.sources:
        raise DselectError("nothing is known of the grades needed: " + incomplete(index.excluded))
    pool = _with_known_grades(workspace, index, load_pool(workspace, index, others))
    every_row = {name: _why_every_row(spec.strategy) for name, spec in specs.items() if not bounds_suffice(spec)}
    near_duplicates = settings.near_duplicates
    if near_duplicates is not None and GRADES in near_duplicates.kinds:
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
    known = pool.scores[GRADE].drop_nulls()
    guess = None
    if not every_row and len(known) >= FEWEST_KNOWN:
        random = np.random.default_rng(0)

        def drawn(ids: pl.Series) -> pl.DataFrame:
            return pl.DataFrame({"sample_id": ids, GRADE: random.choice(known.to_numpy(), len(ids))})

        guess = sum(each.asked for each in grade_candidates(pool, specs.values(), drawn))
    failed = len(pool) - int(pool.ungraded.sum()) - len(known)
    return GradesNeeded(len(pool), len(known), failed, recipes, every_row, asked, guess)


def _why_every_row(strategy: str) -> str:
    return f"{strategy} as it is asked for reads all grades"


def _with_known_grades(workspace: Workspace, index: Index, pool: Pool) -> Pool:
    """The pool with the grades that the store has by the grader in force; the others are not asked for yet."""
    kind = kind_of(GRADES)
    of_sources = index.frame.explode("sources").partition_by("sources", as_dict=True)
    sources = {str(name): ids for (name,), ids in of_sources.items()}
    store = future_store_of_pool(workspace, kind, None, sources)
    ids = pool.scores.select("sample_id")
    columns = [name for name in kind.pool_columns() if name not in pool.scores.columns]
    known = ids.clear() if store is None else store.read(ids, [*columns, kind.reason_column])
    if known.is_empty():
        nothing = [pl.lit(None, pl.Float64).alias(name) for name in columns]
        return replace(pool, scores=pool.scores.with_columns(nothing), ungraded=np.ones(len(pool), dtype=bool))
    # A row that an outage kept from being asked counts no attempt.
    was_asked = known.filter(pl.col(GRADE).is_not_null() | (attempts(kind, workspace.settings) > 0)).select(
        "sample_id", *columns
    )
    scores = pool.scores.join(was_asked, on="sample_id", how="left", maintain_order="left")
    ungraded = ~pool.sample_ids.is_in(was_asked["sample_id"].implode()).to_numpy()
    return replace(pool, scores=scores, ungraded=ungraded)
