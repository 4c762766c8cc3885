"""The batches that are not collected yet, on record in the storage: what was asked, and how far it came.

    batches/<key>.parquet       the requests, with all that is needed to read their replies
    batches/<key>.json          the record; a batch is there when this is

The record is written before each call that changes something at the endpoint, and after it, so a process that is killed
anywhere leaves a batch that the next one can go on with:

    not reserved            nothing was sent: the batch is dropped, its rows are asked for anew
    reserved                its money is in the ledger; its file may be uploaded, and is uploaded again
    file_id                 the file is there; no batch was made of it
    may_exist               a batch may have been made: it is looked for among the endpoint's batches
    batch_id                it was made

A batch is of one question (the fingerprint of a grader's provenance) and of one source, whose runs collect it.

Trade-off: in an object store two processes that grade one source at once do not see one another's batches.
"""

import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import polars as pl
from upath import UPath

from dselect_core.errors import DamagedFileError
from dselect_core.storage.files import read_with_metadata, write_parquet
from dselect_core.storage.folder_listing import list_folder
from dselect_core.storage.folder_lock import one_at_a_time
from dselect_core.storage.json_file import read_json, write_json

REQUESTS: dict[str, pl.DataType] = {
    "custom_id": pl.String(),
    "sample_id": pl.String(),
    "body": pl.String(),
    "most_prompt_tokens": pl.Int64(),
    "tries": pl.Int64(),
    "first_error": pl.String(),
    "first_prompt_tokens": pl.Int64(),
    "first_completion_tokens": pl.Int64(),
}
"""Columns of the requests. custom_id: of the sample and of how often it was asked. body: as JSON. tries: of the same
request that failed before. first_*: of the reply that this one is to repair; null where there is none.
"""

_RECORD = re.compile(r"([0-9a-f]{32})\.json")
_REMEDY = (
    "What was asked is not known any more. Look for the batch at the endpoint, and remove both files of that name to "
    "ask its rows again."
)


@dataclass(frozen=True)
class Batch:
    """One batch on record. usd: reserved for it at most, null where no price is known. address: of the endpoint.

    begun_at: when it was written; its calls stand in that month's ledger. usd_prompt, usd_completion: per million.
    judge: its name among `graders` then, under whose caps it is.
    """

    key: str
    question: str
    source: str | None
    run: str
    model: str
    address: str | None
    begun_at: datetime
    rows: int
    max_tokens: int
    usd_prompt: float | None
    usd_completion: float | None
    usd: float | None
    judge: str | None = None
    is_reserved: bool = False
    file_id: str | None = None
    may_exist: bool = False
    batch_id: str | None = None

    @property
    def name(self) -> str:
        """What a person knows it by: the endpoint's id, or that it has none yet."""
        return self.batch_id or f"{self.key[:8]} (not submitted yet)"

    @property
    def since(self) -> str:
        """`2026-11-27 19:46 UTC`."""
        return f"{self.begun_at:%Y-%m-%d %H:%M} UTC"


def new_key() -> str:
    """Of a batch that is about to be written."""
    return uuid4().hex


@dataclass(frozen=True)
class Shelf:
    """The batches of a storage."""

    folder: UPath

    def locked(self) -> AbstractContextManager[None]:
        """No other process of this machine submits or collects meanwhile."""
        return one_at_a_time(self.folder, "grader: another process works on batches; this one waits until it is done.")

    def batches(self) -> list[Batch]:
        """All, the oldest first. Raises DamagedFileError."""
        found = []
        for entry in list_folder(self.folder, _RECORD):
            if _RECORD.fullmatch(entry.name):
                try:
                    found.append(self._read(entry.name))
                except FileNotFoundError:  # collected meanwhile
                    continue
        return sorted(found, key=lambda batch: (batch.begun_at, batch.key))

    def _read(self, name: str) -> Batch:
        path = self.folder / name
        try:
            value = read_json(path)
            return Batch(**value | {"begun_at": datetime.fromisoformat(value["begun_at"]).astimezone(UTC)})
        except (DamagedFileError, KeyError, TypeError, ValueError):
            raise DamagedFileError(path, "it is no record of a batch", _REMEDY) from None

    def add(self, batch: Batch, requests: pl.DataFrame) -> None:
        """Put a batch on record, with its requests (REQUESTS)."""
        write_parquet(requests, self._requests(batch))
        self.write(batch)

    def write(self, batch: Batch, **changes: Any) -> Batch:
        """The batch with these changes, which are on record when this returns."""
        changed = replace(batch, **changes)
        write_json(asdict(changed) | {"begun_at": changed.begun_at.isoformat()}, self.folder / f"{changed.key}.json")
        return changed

    def requests(self, batch: Batch, columns: list[str] | None = None) -> pl.DataFrame:
        """REQUESTS of a batch. Raises DamagedFileError."""
        path = self._requests(batch)
        try:
            return read_with_metadata(path, columns)[0]
        except (FileNotFoundError, DamagedFileError):
            raise DamagedFileError(path, "it is not what was written", _REMEDY) from None

    def samples(self, question: str) -> pl.DataFrame:
        """sample_id of the rows that are in a batch of this question. Raises DamagedFileError."""
        tables = [self.requests(batch, ["sample_id"]) for batch in self.batches() if batch.question == question]
        return pl.concat([*tables, pl.DataFrame(schema={"sample_id": pl.String})]).unique()

    def remove(self, batch: Batch) -> None:
        """Take a batch off the record: it was collected, or nothing was sent."""
        (self.folder / f"{batch.key}.json").unlink(missing_ok=True)
        self._requests(batch).unlink(missing_ok=True)

    def _requests(self, batch: Batch) -> UPath:
        return self.folder / f"{batch.key}.parquet"
