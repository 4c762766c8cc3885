"""Datasets of Hugging Face: by hub name, as a folder of data files, or as a folder that `save_to_disk` wrote.

A hub dataset is pinned to a commit before it is read. So its version is the commit, and exactly that commit is read.
Where `revision` is a commit already, the hub is not asked. Rows are read as Arrow tables, so media columns are never
decoded.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dselect_core.corpus.raw_row import RawRow
from dselect_core.errors import DselectError

if TYPE_CHECKING:
    from datasets import Dataset

STATE_FILE, SPLITS_FILE = "state.json", "dataset_dict.json"
"""What `save_to_disk` writes into the folder of a dataset, and into the folder above its splits."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class SavedDataset:
    """A folder that `Dataset.save_to_disk` wrote, local or remote. version: a hash of its files' versions."""

    name: str
    version: str
    path: str
    storage_options: dict[str, Any]

    def rows(self, columns: Iterable[str], max_row_bytes: int) -> Iterator[RawRow]:
        """All rows, numbered from 1. Only `columns` are read, if it has any of them.

        A row of more than `max_row_bytes` is one with an error. Raises DselectError when the folder cannot be loaded.
        """
        import datasets

        with _naming_dataset(self.name, "Save it again with `save_to_disk`."):
            dataset = datasets.Dataset.load_from_disk(self.path, storage_options=self.storage_options or None)
            yield from _rows(dataset, columns, max_row_bytes)


@dataclass(frozen=True)
class LoadedDataset:
    """What `datasets.load_dataset` loads: a hub dataset (`revision` is a commit) or a folder of data files."""

    name: str
    version: str
    path: str
    config: str | None
    split: str
    revision: str | None

    def rows(self, columns: Iterable[str], max_row_bytes: int) -> Iterator[RawRow]:
        """All rows of the split, numbered from 1. Only `columns` are read, if it has any of them.

        A row of more than `max_row_bytes` is one with an error. Raises DselectError when the dataset cannot be loaded.
        """
        import datasets

        with _naming_dataset(self.name, "Check `dataset`, `name` and `split`."):
            dataset = datasets.load_dataset(self.path, self.config, split=self.split, revision=self.revision)
            yield from _rows(dataset, columns, max_row_bytes)


def pin_hub_dataset(dataset: str, config: str | None, split: str, revision: str | None) -> LoadedDataset:
    """A hub dataset at the commit that `revision` (None: main) points to now.

    Raises DselectError when the hub does not have it or cannot be reached.
    """
    commit = revision
    if commit is None or not _COMMIT.fullmatch(commit):
        from huggingface_hub import HfApi

        remedy = (
            "No folder has that name either: check it; `hf auth login` for a private dataset; "
            "set `revision` to a commit to work from the cache."
        )
        with _naming_dataset(dataset, remedy):
            commit = HfApi().dataset_info(dataset, revision=revision).sha
    name = f"{dataset}/{config}:{split}" if config else f"{dataset}:{split}"
    return LoadedDataset(name, str(commit), dataset, config, split, commit)


def _rows(dataset: "Dataset", columns: Iterable[str], max_row_bytes: int) -> Iterator[RawRow]:
    from dselect_core.corpus.table_rows import BATCH_ROWS, read_table_rows  # pyarrow, which a listing does without

    wanted = set(columns)
    present = [name for name in dataset.column_names if name in wanted]
    tables = (dataset.select_columns(present) if present else dataset).with_format("arrow").iter(BATCH_ROWS)
    return read_table_rows((batch for table in tables for batch in table.to_batches()), max_row_bytes)


@contextmanager
def _naming_dataset(name: str, remedy: str) -> Iterator[None]:
    """Turns any error of the libraries into a DselectError: they share no class, and all are about this dataset."""
    try:
        yield
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DselectError(f"{name}: cannot be loaded ({what}). {remedy}") from error
