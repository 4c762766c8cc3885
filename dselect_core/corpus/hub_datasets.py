"""Hugging Face `datasets`: by hub name, as a folder of data files, or as a folder that `save_to_disk` wrote.

A hub dataset is pinned to the commit its revision stands for before it is read, so that its version is the commit
and what is read is what the version says. With `revision` set to a commit the hub is not asked. Rows are taken as
Arrow tables, so media columns are never decoded.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dselect_core.corpus.readers import BATCH_ROWS, RawRow, table_rows
from dselect_core.errors import DselectError

if TYPE_CHECKING:
    from datasets import Dataset

SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class SavedDataset:
    """A folder of `Dataset.save_to_disk`, local or remote. `version` is that of its files."""

    name: str
    version: str
    path: str
    storage_options: dict[str, Any]

    def rows(self, columns: Iterable[str]) -> Iterator[RawRow]:
        """All rows, numbered from 1. Raises DselectError when the folder cannot be loaded."""
        import datasets

        with _named(self.name, "Save it again with `save_to_disk`."):
            data = datasets.Dataset.load_from_disk(self.path, storage_options=self.storage_options or None)
            yield from _rows(data, columns)


@dataclass(frozen=True)
class LoadedDataset:
    """What `datasets.load_dataset` loads: a hub dataset (`revision` is a commit) or a folder of data files."""

    name: str
    version: str
    path: str
    config: str | None
    split: str
    revision: str | None

    def rows(self, columns: Iterable[str]) -> Iterator[RawRow]:
        """All rows of the split, numbered from 1. Raises DselectError when it cannot be loaded."""
        import datasets

        with _named(self.name, "Check `dataset`, `name` and `split`."):
            data = datasets.load_dataset(self.path, self.config, split=self.split, revision=self.revision)
            yield from _rows(data, columns)


def hub_dataset(dataset: str, config: str | None, split: str, revision: str | None) -> LoadedDataset:
    """A dataset of the hub at the commit that `revision` (by default main) now stands for.

    Raises DselectError when the hub does not know it or cannot be reached.
    """
    commit = revision
    if commit is None or not COMMIT.fullmatch(commit):
        from huggingface_hub import HfApi

        remedy = (
            "No folder has that name either: check it; `hf auth login` for a private dataset; "
            "set `revision` to a commit to work from the cache."
        )
        with _named(dataset, remedy):
            commit = HfApi().dataset_info(dataset, revision=revision).sha
    name = f"{dataset}/{config}:{split}" if config else f"{dataset}:{split}"
    return LoadedDataset(name, str(commit), dataset, config, split, commit)


def _rows(data: "Dataset", columns: Iterable[str]) -> Iterator[RawRow]:
    wanted = [name for name in data.column_names if name in set(columns)]
    tables = (data.select_columns(wanted) if wanted else data).with_format("arrow").iter(BATCH_ROWS)
    return table_rows(batch for table in tables for batch in table.to_batches())


@contextmanager
def _named(name: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the libraries promise no common class, and every failure here is about the input
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DselectError(f"{name}: cannot be loaded ({what}). {remedy}") from error
