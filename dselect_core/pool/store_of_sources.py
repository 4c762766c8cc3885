"""The scores of a kind whose provenance may differ between sources (grades by rubrics of their own), read as one store.

The rule for a sample that stands in several sources of the pool: each source's rows are scored as that source asks, and
the pool takes the score of the first of them by name. So what a source asks for touches the scores of its rows alone,
and a sample in two sources with two rubrics is graded twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from dselect_core.fingerprint import fingerprint
from dselect_core.storage.score_store import Store


def one_store(stores: Mapping[str, Store], rows: pl.DataFrame) -> Store:
    """The stores of the sources as one. rows: sample_id and `sources`, the names of those that hold the sample.

    Where all sources have the same store, it is that one.
    """
    by_source = {source: store.fingerprint for source, store in sorted(stores.items())}
    first = next(iter(stores.values()))
    if len(set(by_source.values())) == 1:
        return first
    names = pl.col("sources").list.sort().list.first()
    its_store = names.replace_strict(by_source, default=None, return_dtype=pl.String)
    owners = rows.select("sample_id", store=its_store).sort("sample_id")
    folder = first.folder.parent / fingerprint(by_source)
    return StoreOfSources(folder, first.keys, first.retry_column, by_source=dict(stores), owners=owners)


@dataclass(frozen=True)
class StoreOfSources(Store):
    """Several stores, each of which answers for its own rows; to be read only.

    folder: does not exist; its name is the hash of which source has which store. owners: sample_id, store (fingerprint
    of the one that answers).
    """

    by_source: Mapping[str, Store] = field(default_factory=dict, compare=False)
    owners: pl.DataFrame = field(default_factory=pl.DataFrame, compare=False)

    @property
    def provenance(self) -> dict[str, Any]:
        """What all sources share, and under `by source` what each has of its own."""
        all_of = {source: store.provenance for source, store in sorted(self.by_source.items())}
        shared = {
            key: value
            for key, value in next(iter(all_of.values())).items()
            if all(key in other and other[key] == value for other in all_of.values())
        }
        own = {source: {k: v for k, v in of.items() if k not in shared} for source, of in all_of.items()}
        return {**shared, "by source": own}

    def missing(self, rows: pl.DataFrame, *, include_failed: bool = True) -> pl.DataFrame:
        """Those of `rows` that their store lacks, as of any store."""
        left = rows
        for store, own in self._shares(rows):
            there = own.join(store.missing(own, include_failed=include_failed), on="sample_id", how="anti")
            left = left.join(there, on="sample_id", how="anti", maintain_order="left")
        return left

    def read(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The stored rows among `rows`, ascending by id, each from its own store."""
        found = [held for store, own in self._shares(rows) if (held := store.read(own, columns)).height]
        return pl.concat(found, how="diagonal").sort("sample_id") if found else rows.select("sample_id").clear()

    def _shares(self, rows: pl.DataFrame) -> Iterator[tuple[Store, pl.DataFrame]]:
        """Each store, and what of `rows` it answers for."""
        stores = {store.fingerprint: store for store in self.by_source.values()}
        for name, store in stores.items():
            yield store, rows.join(self.owners.filter(store=name), on="sample_id", how="semi", maintain_order="left")
