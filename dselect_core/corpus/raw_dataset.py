"""Land a source: its samples and quarantine as tables in the storage, under a version that is their content.

The version hashes the sample ids only: re-landing the same rows in another order, or split over other
files, moves nothing downstream. A source that is gone from the settings is landed with zero rows (a
tombstone), because taking its partition away would tell nobody.
"""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.corpus.ingest import Ingested, ingest
from dselect_core.corpus.sample import QUARANTINE, SAMPLES
from dselect_core.corpus.source_files import signature
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.settings.settings import SourceSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, write_parquet

TOMBSTONE = "gone"


@dataclass(frozen=True)
class Landed:
    """version: hash of the ids; signature: what was seen of the files before reading; account: counts of rows."""

    version: str
    signature: str
    account: dict[str, int]
    samples: pl.DataFrame
    quarantine: pl.DataFrame
    ingested: Ingested | None


def source_signature(workspace: Workspace, source: str) -> str:
    """A cheap hash of a source's spec and files (size, etag or time); `gone` when the settings have it no more."""
    spec = workspace.settings.sources.get(source)
    if spec is None:
        return TOMBSTONE
    return _signature(spec, signature(spec))


def _signature(spec: SourceSpec, of_files: str) -> str:
    return fingerprint([spec.model_dump(exclude={"storage_options"}), of_files])


_seen: dict[tuple[str, str], Ingested] = {}


def look(workspace: Workspace, source: str) -> pl.DataFrame:
    """The samples `land` would write, written nowhere; `land` in the same process does not read the files again.

    Raises as `land`.
    """
    spec = workspace.settings.sources.get(source)
    if spec is None:
        return pl.DataFrame(schema=SAMPLES)
    ingested = ingest(source, spec)
    _seen[source, _signature(spec, ingested.signature)] = ingested
    return ingested.samples


def land(workspace: Workspace, source: str) -> Landed:
    """Ingest one source and write its tables. Raises DselectError naming the file that is bad as a whole."""
    spec = workspace.settings.sources.get(source)
    if spec is None:
        ingested = None
        samples, quarantine = pl.DataFrame(schema=SAMPLES), pl.DataFrame(schema=QUARANTINE)
        account = {"rows": 0, "samples": 0, "duplicates": 0, "quarantined": 0, "files": 0}
        seen = TOMBSTONE
    else:
        ingested = _seen.pop((source, source_signature(workspace, source)), None) or ingest(source, spec)
        samples, quarantine = ingested.samples, ingested.quarantine
        account = {
            "rows": ingested.rows,
            "samples": samples.height,
            "duplicates": ingested.duplicates,
            "quarantined": ingested.quarantined,
            "files": len(ingested.files),
        }
        # Of the listing that was read, so that a change while reading is seen next time.
        seen = _signature(spec, ingested.signature)
    version = digest(samples["sample_id"])
    write_parquet(quarantine, workspace.quarantine(source))
    write_parquet(samples, workspace.samples(source), {"version": version, "account": json.dumps(account)})
    return Landed(version, seen, account, samples, quarantine, ingested)


def account_of(workspace: Workspace, source: str) -> dict[str, Any]:
    """The account of rows that was written with a source's samples."""
    path = workspace.samples(source)
    try:
        account: dict[str, Any] = json.loads(read_metadata(path)["account"])
    except (FileNotFoundError, KeyError):
        raise DselectError(f"{path}: source {source} has not landed; materialise raw_dataset[{source}]") from None
    return account
