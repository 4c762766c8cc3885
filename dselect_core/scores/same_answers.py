"""Answers that were bought under another provenance and are the same under this one: nothing is bought twice for them.

Criteria that are combined in another way, or a limit of tokens that a version of dselect before kept in the provenance:
the judge was asked the same, so a store finds the rows of its like, with the values that its own provenance makes of
them. A plan only looks; an update writes them into its own store, where the pool finds them by one fingerprint.

Trade-off: such rows lie on the disk twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.errors import DamagedFileError
from dselect_core.kinds import Kind
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.deduplicate import sort_and_deduplicate
from dselect_core.storage.folder_listing import list_tree
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import PROVENANCE, PROVENANCE_OF_0_1, WRITTEN_AT


def stores_of_kind(workspace: Workspace, name: str) -> Iterator[tuple[Store, dict[str, Any]]]:
    """Every store of a kind with its provenance, by fingerprint; those whose provenance cannot be read are left out."""
    files = (path.partition("/") for path in list_tree(workspace.kind_folder(name)))
    for fingerprint in sorted({folder for folder, _, file in files if file in (PROVENANCE, PROVENANCE_OF_0_1)}):
        store = workspace.open_store(name, fingerprint)
        try:
            yield store, store.provenance
        except (DamagedFileError, FileNotFoundError):
            continue


def with_same_answers(workspace: Workspace, kind: Kind, store: Store, provenance: Mapping[str, Any]) -> Store:
    """The store, with what others of its kind hold of the same answers; itself where there are none."""
    key = None if kind.answers is None else kind.answers.key(provenance)
    if key is None:
        return store
    assert kind.answers is not None
    others = tuple(
        other
        for other, its_provenance in stores_of_kind(workspace, kind.name)
        if other.fingerprint != store.fingerprint and kind.answers.key(its_provenance) == key
    )
    if not others:
        return store
    own = (store.folder, store.keys, store.retry_column, store.array_column, store.skipped)
    return StoreWithSameAnswers(*own, others=others, kind=kind, made_by=provenance)


@dataclass(frozen=True)
class StoreWithSameAnswers(Store):
    """A store without vectors that also finds the rows of `others`, where it has no value of its own.

    made_by: its provenance, by which their values are made.
    """

    others: tuple[Store, ...] = ()
    kind: Kind | None = None
    made_by: Mapping[str, Any] | None = None

    def missing(self, rows: pl.DataFrame, *, include_failed: bool = True) -> pl.DataFrame:
        """As of any store; a row that one of the others holds is not missing."""
        left = super().missing(rows, include_failed=include_failed)
        for other in self.others if left.height else ():
            left = other.missing(left, include_failed=include_failed)
        return left

    def read(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """As of any store; the same columns, those of the kind, whichever store they are of."""
        given = self._given(super().missing(rows))
        if given.is_empty():
            return super().read(rows, columns)
        own = _with_time(super().read(rows), super().read(rows, [WRITTEN_AT]))
        both = sort_and_deduplicate(pl.concat([own, given], how="diagonal"), self.keys, self.retry_column)
        return both.drop(WRITTEN_AT) if columns is None else both.select(list(dict.fromkeys([*self.keys, *columns])))

    def adopt(self, rows: pl.DataFrame) -> int:
        """Write into the store itself what the others hold of `rows`; returns how many rows that were."""
        given = self._given(super().missing(rows))
        if self.retry_column is not None and given.height:
            # What failed here was tried later than there.
            untried = super().missing(given.select(self.keys), include_failed=False)
            is_untried = pl.col(self.keys[0]).is_in(untried[self.keys[0]].implode())
            given = given.filter(is_untried | pl.col(self.retry_column).is_not_null())
        self.append(given)
        return given.height

    def _given(self, lacking: pl.DataFrame) -> pl.DataFrame:
        """What the others hold of rows, one row per key, with the values of this provenance."""
        assert self.kind is not None and self.kind.answers is not None and self.made_by is not None
        found = [
            _with_time(held, other.read(lacking, [WRITTEN_AT]))
            for other in self.others
            if lacking.height and (held := other.read(lacking)).height
        ]
        if not found:
            return lacking.select(self.keys).clear()
        frame = sort_and_deduplicate(pl.concat(found, how="diagonal"), self.keys, self.retry_column)
        values = self.kind.answers.values(frame, self.made_by)
        return self.kind.conforming(values.drop(WRITTEN_AT)).with_columns(values[WRITTEN_AT])


def _with_time(rows: pl.DataFrame, times: pl.DataFrame) -> pl.DataFrame:
    """The rows with the time at which they were written; `times` has a row for each, where there are any."""
    return rows.join(times, on="sample_id", how="left") if rows.height else rows
