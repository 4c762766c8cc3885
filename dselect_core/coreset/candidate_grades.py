"""Grades of the rows that can still be chosen, and of no others (`grader: {candidates: only}`), made over the pool.

The grades that the store knows count, whoever asked for them. Then rows are bought in rounds until the coreset of every
recipe that reads grades is certain (select/candidates.py), and appended to the store under the provenance that they
have anyway: with `candidates: all` none of them is bought again. The pool's table has a row a sample; one that was not
asked for has no grade and the reason NOT_GRADED. It also says for which recipes, over what, it is enough, so that no
coreset is made from a table that is behind.

Trade-off: rows of all recipes are asked for together, so another recipe's grades move this table, and a coreset that
reads grades is written again with the same rows.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl

from dselect_core.coreset.spec import read_spec, spec_version
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.graders.spend import Purpose, spend_figures
from dselect_core.kinds import NOT_TRIED, TRIED_AGAIN, FromSamples, Kind, kind_of
from dselect_core.pool.corpus_index import Index, is_over_pool, read_index
from dselect_core.pool.near_duplicates import near_duplicates_version
from dselect_core.pool.pool_tables import NOT_GRADED, is_asked, load_pool, pool_samples, version_of_pool
from dselect_core.progress import Progress
from dselect_core.scores.attempts import attempts
from dselect_core.scores.provenance import future_store, store_of
from dselect_core.scores.same_answers import StoreWithSameAnswers
from dselect_core.scores.score_table import TableReport, version_of
from dselect_core.scores.update import compute_from_samples, require_complete
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.candidates import grade_candidates, in_turns, needed_grades
from dselect_core.select.judges_spec import GRADE, GRADES
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import required_kinds
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_with_metadata, write_parquet
from dselect_core.storage.score_store import COMPACT_MIN_PARTS, Store

ASSET = "candidate_grades"
"""The asset that makes them; it has no partitions."""

FEWEST_KNOWN = 20
"""Grades from which others are guessed."""

_CERTAIN, _REFUSED = "certain", "refused"  # keys of the table's metadata


@dataclass(frozen=True)
class CandidateGrades:
    """What an update did. table: a row a sample of the pool. asked: rows of it that were ever asked for, failed: those
    without success. rounds: in which this update asked. refused: {recipe: why it cannot be met}."""

    table: TableReport
    asked: int
    failed: int
    rounds: int
    refused: Mapping[str, str]

    @property
    def not_bought(self) -> int:
        """Rows that were not asked for."""
        return self.table.frame.height - self.asked


def reading_grades(specs: Mapping[str, CoresetSpec]) -> dict[str, CoresetSpec]:
    """The recipes that read grades."""
    return {name: spec for name, spec in specs.items() if GRADES in required_kinds(spec)}


def other_kinds(specs: Iterable[CoresetSpec]) -> frozenset[str]:
    """What recipes read beside grades."""
    return frozenset(kind for spec in specs for kind in required_kinds(spec)) - {GRADES}


def with_known_grades(workspace: Workspace, pool: Pool, store: Store | None, name: str = GRADES) -> Pool:
    """The pool with the grades that the store has. `Pool.ungraded`: all others, also failed ones that are tried again.

    store: None where nothing is known. name: the kind, of several judges.
    """
    kind = kind_of(name)
    ids = pool.scores.select("sample_id")
    columns = [name for name in kind.pool_columns() if name not in pool.scores.columns]
    known = ids.clear() if store is None else store.read(ids, [*columns, kind.reason_column])
    if known.is_empty():
        nothing = [pl.lit(None, pl.Float64).alias(name) for name in columns]
        return replace(pool, scores=pool.scores.with_columns(nothing), ungraded=np.ones(len(pool), dtype=bool))
    asked = known.filter(~_is_tried_again(workspace.settings, kind)).select("sample_id", *columns)
    scores = pool.scores.join(asked, on="sample_id", how="left", maintain_order="left")
    ungraded = ~pool.sample_ids.is_in(asked["sample_id"].implode()).to_numpy()
    return replace(pool, scores=scores, ungraded=ungraded)


def needed_next(pool: Pool, specs: Iterable[CoresetSpec]) -> pl.Series:
    """The ids that recipes need first. A recipe that cannot be met needs none."""
    needed = []
    for spec in specs:
        with suppress(DselectError):
            needed.append(needed_grades(pool, spec))
    return in_turns(needed)


def guess_rows(pool: Pool, specs: Iterable[CoresetSpec]) -> int | None:
    """About how many rows will be asked for: the rounds, with grades drawn from the known ones, seeded.

    That assumes that the rows to come are graded like those. None where too few are known. A recipe that cannot be met
    asks for none.
    """
    known = pool.scores[GRADE].drop_nulls().to_numpy()
    if len(known) < FEWEST_KNOWN:
        return None
    random = np.random.default_rng(0)

    def drawn(ids: pl.Series) -> pl.DataFrame:
        return pl.DataFrame({"sample_id": ids, GRADE: random.choice(known, len(ids))})

    return sum(each.asked for each in grade_candidates(pool, specs, drawn, on_refused=lambda spec, error: None))


def update_candidate_grades(
    workspace: Workspace, progress: Progress | None = None, purpose: Purpose | None = None
) -> CandidateGrades:
    """Buy what the recorded recipes still need over the pool of the corpus index, and write the pool's table.

    Raises DselectError when rows could not be asked for (a cap, an outage); what was bought is kept, and the table is
    that of before, with which `require_certain` lets no recipe pass that needs more.
    """
    purpose = purpose or Purpose()
    index, kind, store = read_index(workspace), kind_of(GRADES), store_of(workspace, GRADES)
    if isinstance(store, StoreWithSameAnswers):
        store.adopt(index.frame.select("sample_id"))
    specs = reading_grades(_recorded(workspace))
    pool = with_known_grades(workspace, load_pool(workspace, index, other_kinds(specs.values())), store)
    buyer = _Buyer(workspace, index, store, purpose, progress)
    refused: dict[str, str] = {}

    def on_refused(spec: CoresetSpec, error: DselectError) -> None:
        refused.update({name: str(error) for name, each in specs.items() if each == spec})

    rounds = -1  # the first has asked for nothing
    for each in grade_candidates(pool, specs.values(), buyer.grade, on_refused=on_refused):
        pool, rounds = each.pool, rounds + 1
    if buyer.bought:
        store.compact(COMPACT_MIN_PARTS)
    assert pool.ungraded is not None
    asked = _asked_rows(pool)
    stored = store.read(asked)
    require_complete(store, asked, stored)
    version = grades_version(pool, store.fingerprint)
    certain = {name: _read_by(workspace, index, spec) for name, spec in specs.items() if name not in refused}
    metadata = {"fingerprint": store.fingerprint, "version": version}
    metadata |= {_CERTAIN: json.dumps(certain), _REFUSED: json.dumps(refused)}
    table = _table(index, kind, stored)
    write_parquet(table, workspace.pool_table(GRADES), metadata)
    computation, figures = kind.computed_by(workspace.settings), kind.figures(table)
    if isinstance(computation, FromSamples) and computation.paid:
        figures = figures | spend_figures(workspace, purpose)
    reused = asked.height - buyer.bought
    report = TableReport(
        table, kind.value, version, store.fingerprint, buyer.bought, reused, None, store.skipped, figures
    )
    failed = asked.height - stored[GRADE].count() if stored.height else 0
    return CandidateGrades(report, asked.height, failed, rounds, refused)


def grades_version(pool: Pool, grades_fingerprint: str) -> str:
    """Version of the grades of a pool with `Pool.ungraded`: it moves with a row that was asked for, and with a null."""
    known = pool.scores.filter(~pl.Series(pool.ungraded)).select("sample_id", GRADE)
    return version_of(known, GRADE, grades_fingerprint)


def require_certain(workspace: Workspace, index: Index, recipe: str, spec: CoresetSpec) -> None:
    """Raises DselectError where the pool's table of grades is not enough for the recipe as it is recorded."""
    try:
        metadata = read_metadata(workspace.pool_table(GRADES))
    except FileNotFoundError:
        metadata = {}
    if why := json.loads(metadata.get(_REFUSED, "{}")).get(recipe):
        raise DselectError(f"recipe {recipe}: {why}")
    in_force = future_store(workspace, kind_of(GRADES), None)
    is_in_force = in_force is not None and metadata.get("fingerprint") == in_force.fingerprint
    if not is_in_force or json.loads(metadata[_CERTAIN]).get(recipe) != _read_by(workspace, index, spec):
        raise DselectError(
            f"recipe {recipe}: rows that it could choose are not graded yet, see {ASSET}; nothing is chosen by some of "
            "the grades. Run `dselect refresh` again"
        )


def why_tried_again(workspace: Workspace) -> str | None:
    """Why the table is to be made again although nothing moved: grades are gone from the store, or are tried again."""
    kind, found = kind_of(GRADES), _asked_of_table(workspace)
    if found is None:
        return None
    asked, made_by = found
    store = workspace.open_store(GRADES, made_by)
    if store.missing(asked.drop_nulls(GRADE).select("sample_id"), include_failed=False).height:
        return "scores are gone from the store"
    again = asked.filter(_is_tried_again(workspace.settings, kind)).height
    return f"{again} failed {GRADES} {TRIED_AGAIN}" if again else None


def given_up_candidates(workspace: Workspace) -> int:
    """Rows of the pool's table that were tried so often in vain that they are not tried again."""
    found = _asked_of_table(workspace)
    if found is None or kind_of(GRADES).retry(workspace.settings) is None:
        return 0
    failed = found[0].filter(pl.col(GRADE).is_null())
    return failed.height - failed.filter(_is_tried_again(workspace.settings, kind_of(GRADES))).height


def _asked_of_table(workspace: Workspace) -> tuple[pl.DataFrame, str] | None:
    """Rows of the pool's table that were asked for, and the fingerprint they were made by; None: there is no table."""
    kind = kind_of(GRADES)
    try:
        table, metadata = read_with_metadata(
            workspace.pool_table(GRADES), ["sample_id", kind.value, kind.reason_column]
        )
        return table.filter(is_asked(kind)), metadata["fingerprint"]
    except (FileNotFoundError, DselectError, KeyError):
        return None


def _is_tried_again(settings: Settings, kind: Kind) -> pl.Expr:
    """Of stored rows: failed, and to be asked for again. A row that an outage kept from being asked has no attempt."""
    limit = kind.give_up_after(settings)
    if kind.retry(settings) is None:
        return pl.lit(False)
    failed = pl.col(kind.value).is_null()
    return failed if limit is None else failed & (attempts(kind, settings) < limit)


def _recorded(workspace: Workspace) -> dict[str, CoresetSpec]:
    """The recipes of the settings as they are recorded; without those that are not yet."""
    specs = {}
    for name in workspace.settings.coresets:
        try:
            specs[name] = read_spec(workspace, name)
        except FileNotFoundError:
            continue  # it lands later, and then this is made again
    return specs


def _read_by(workspace: Workspace, index: Index, spec: CoresetSpec) -> str:
    """Hash of all that decides which grades the recipe needs."""
    kinds = (kind_of(name) for name in sorted(other_kinds([spec])))
    over_pool = [version_of_pool(workspace, index, k) for k in kinds if is_over_pool(workspace.settings, k)]
    return fingerprint([spec_version(spec), index.version, near_duplicates_version(workspace), over_pool])


def _asked_rows(pool: Pool) -> pl.DataFrame:
    """sample_id of the rows that have a grade, or failed."""
    return pool.scores.filter(~pl.Series(pool.ungraded)).select("sample_id")


def _table(index: Index, kind: Kind, stored: pl.DataFrame) -> pl.DataFrame:
    """A row a sample of the pool, with the stored rows of those that were asked for."""
    rows = pl.concat([pl.DataFrame(schema=kind.schema()), stored], how="diagonal").with_columns(was_asked=True)
    table = index.frame.select("sample_id").join(rows, on="sample_id", how="left", maintain_order="left")
    reason = pl.when(pl.col("was_asked")).then(kind.reason_column).otherwise(pl.lit(NOT_GRADED))
    return table.with_columns(reason.alias(kind.reason_column)).drop("was_asked")


@dataclass
class _Buyer:
    """Has rows graded, and keeps them. bought: rows so far."""

    workspace: Workspace
    index: Index
    store: Store
    purpose: Purpose
    progress: Progress | None
    bought: int = field(default=0)

    @cached_property
    def _samples(self) -> pl.DataFrame:
        return pool_samples(self.workspace, self.index)

    def grade(self, ids: pl.Series) -> pl.DataFrame:
        """sample_id, grade. Raises DselectError where one of the rows could not be asked for."""
        kind, wanted = kind_of(GRADES), pl.DataFrame({"sample_id": ids})
        samples = wanted.join(self._samples, on="sample_id", how="left", maintain_order="left")
        try:
            compute_from_samples(self.workspace, kind, self.store, samples, self.purpose, self._told(len(ids)))
        except DselectError as error:
            raise DselectError(f"{self._not_asked(len(ids))}{error}") from error
        graded = self.store.read(wanted, [kind.value, kind.reason_column])
        require_complete(self.store, wanted, graded)
        # A heuristic and a model that runs here are always asked.
        not_asked = pl.col(kind.value).is_null() & (attempts(kind, self.workspace.settings) == 0)
        missed = graded.filter(not_asked)[kind.reason_column]
        self.bought += len(ids) - len(missed)
        if len(missed):
            raise DselectError(f"{self._not_asked(len(missed))}{missed[0].removeprefix(NOT_TRIED)}")
        return graded.select("sample_id", GRADE)

    def _not_asked(self, rows: int) -> str:
        return (
            f"at least {rows} rows that can still be chosen are not graded, so no coreset that reads grades is made "
            f"({self.bought} rows were graded and are kept): "
        )

    def _told(self, rows: int) -> Progress | None:
        """The progress of a round, told as that of all rounds so far."""
        if self.progress is None:
            return None
        inner, before = self.progress, self.bought

        def tell(done: int, total: int, reused: int = 0) -> None:
            inner(before + done, before + rows, reused)

        return tell
