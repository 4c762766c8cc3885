"""What was tuned for trials and what was measured of it, kept so that nothing is tuned or measured twice.

runs/<run>/…                  runs (runs/run_store.py)
marks/<run>/<marks>.parquet   what was measured of a run: a metric on one eval set, or a task
tokens/<marks>.json           how many tokens it took, for the plans of other runs; of tasks alone

Without kept weights (`keep_models: false`) a new eval set or task tunes again.
"""

from typing import Any

import polars as pl
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.fingerprint import fingerprint
from dselect_core.runs.run_store import RunStore
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_parquet, write_parquet
from dselect_core.storage.json_file import read_json, write_json


class MarkStore(RunStore):
    """The runs of a workspace's trials, and their marks. What is damaged counts as not there, and is made again."""

    def __init__(self, workspace: Workspace):
        super().__init__(workspace.trials / "runs")
        self._marks = workspace.trials / "marks"
        self._tokens = workspace.trials / "tokens"

    def marks(self, run: str, name: str) -> pl.DataFrame | None:
        """What was measured under a name (`marks_name`); None where it was not yet. run: its fingerprint."""
        try:
            return read_parquet(self._marks_file(run, name))
        except (FileNotFoundError, DamagedFileError):
            return None

    def write_marks(self, run: str, name: str, marks: pl.DataFrame) -> None:
        """Keep what was measured."""
        write_parquet(marks, self._marks_file(run, name))

    def tokens_of(self, name: str) -> int | None:
        """What marks of that name took when they were measured last; None where that is not known."""
        try:
            return int(read_json(self._tokens / f"{name}.json")["tokens"])
        except (FileNotFoundError, DamagedFileError):
            return None

    def write_tokens(self, name: str, tokens: int) -> None:
        """Keep what marks of that name took."""
        write_json({"tokens": tokens}, self._tokens / f"{name}.json")

    def _marks_file(self, run: str, name: str) -> UPath:
        file: UPath = self._marks / run / f"{name}.parquet"
        return file


def marks_name(metric: str, eval_version: str, how: dict[str, Any]) -> str:
    """Names marks by what was measured, on which samples or by which definition, and how these are rendered."""
    return f"{metric}-{fingerprint([eval_version, how])[:16]}"
