"""Land a source: write its samples and its quarantine as tables in the storage, with a version.

The version is the hash of the sample ids. So the same rows in another order, or split over other files, change nothing
downstream. A source that was removed from the settings lands with zero rows (a tombstone), because a partition that
disappears would trigger nothing downstream.
"""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from dselect_core.corpus.ingest import IngestedSource, ingest
from dselect_core.corpus.sample import QUARANTINE, SAMPLES, conform_samples
from dselect_core.corpus.source_files import files_signature
from dselect_core.errors import DselectError
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.settings.settings import SourceSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped
from dselect_core.storage.files import read_metadata, read_parquet, read_where, write_parquet

TOMBSTONE = "gone"
"""The signature of a source that is not in the settings."""

_LANDING_REVISION = 2
"""Of how files are read. When it is raised every source lands once more; samples that stay the same keep their ids."""

_GROUP_ROWS = 16_384  # by ascending id: whoever wants one sample, or some, has little more than these in memory
_ROW_COUNTS = "account"  # metadata key, as version 0.1 named it
ORIGINS = "origins"
"""Metadata key of the samples: `origins_version` of them. Version 0.2 did not write it."""


@dataclass(frozen=True)
class LandedSource:
    """A source as `land_source` wrote it.

    version: hash of the sample ids; origins: of where they stand (`origins_version`); signature: of spec and files, as
    listed before they were read; row_counts: rows, samples, duplicates, quarantined, files, bad files; samples,
    quarantine: tables of the schemas SAMPLES and QUARANTINE; ingested: what was read, None for a source that is not in
    the settings.
    """

    version: str
    origins: str
    signature: str
    row_counts: dict[str, int]
    samples: pl.DataFrame
    quarantine: pl.DataFrame
    ingested: IngestedSource | None


def source_signature(workspace: Workspace, source: str) -> str:
    """Hash of a source's spec and files (size, etag or time), without reading them; TOMBSTONE when it has no spec.

    Raises DselectError when a file cannot be listed.
    """
    spec = workspace.settings.sources.get(source)
    if spec is None:
        return TOMBSTONE
    return _signature(spec, files_signature(spec))


def _signature(spec: SourceSpec, of_files: str) -> str:
    # What a source is for changes nothing of its rows.
    return fingerprint([_LANDING_REVISION, spec.model_dump(exclude={"storage_options", "role"}), of_files])


# {(source, signature): what `preview_samples` read}
_previews: dict[tuple[str, str], IngestedSource] = {}


def preview_samples(workspace: Workspace, source: str) -> pl.DataFrame:
    """The samples that `land_source` would write, as a SAMPLES table; nothing is written.

    `land_source` in the same process does not read the files again. Raises like `land_source`.
    """
    spec = workspace.settings.sources.get(source)
    if spec is None:
        return pl.DataFrame(schema=SAMPLES)
    ingested = ingest(source, spec)
    _previews[source, _signature(spec, ingested.signature)] = ingested
    return ingested.samples


def land_source(workspace: Workspace, source: str) -> LandedSource:
    """Read one source and write its tables.

    Raises DselectError naming a file that is bad as a whole. Then nothing is written, so what landed last stays in the
    pool, and the message says so.
    """
    spec = workspace.settings.sources.get(source)
    if spec is None:
        ingested = None
        samples, quarantine = pl.DataFrame(schema=SAMPLES), pl.DataFrame(schema=QUARANTINE)
        row_counts = {"rows": 0, "samples": 0, "duplicates": 0, "quarantined": 0, "files": 0, "bad files": 0}
        signature = TOMBSTONE
    else:
        try:
            ingested = _previews.pop((source, source_signature(workspace, source)), None) or ingest(source, spec)
        except DselectError as error:
            raise DselectError(f"{error}{_what_stays(workspace, source)}") from None
        samples, quarantine = ingested.samples, ingested.quarantine
        row_counts = {
            "rows": ingested.rows,
            "samples": samples.height,
            "duplicates": ingested.duplicates,
            "quarantined": ingested.quarantined,
            "files": len(ingested.files),
            "bad files": len(ingested.bad_files),
        }
        # Of the listing from before the reading, so that a change during the reading shows next time.
        signature = _signature(spec, ingested.signature)
    version = digest(samples["sample_id"])
    raise_if_stopped()  # nothing lands after it
    write_parquet(quarantine, workspace.quarantine(source))
    metadata = {"version": version, ORIGINS: origins_version(samples), _ROW_COUNTS: json.dumps(row_counts)}
    write_parquet(samples, workspace.samples(source), metadata, _GROUP_ROWS)
    return LandedSource(version, metadata[ORIGINS], signature, row_counts, samples, quarantine, ingested)


def origins_version(samples: pl.DataFrame) -> str:
    """Hash of the files and rows where each sample stands. It moves where a file is renamed; the version does not."""
    return digest([samples.select("sample_id", "n_rows", "origins").sort("sample_id").write_ndjson()])


def read_samples(workspace: Workspace, source: str, ids: pl.Series | None = None) -> pl.DataFrame:
    """The SAMPLES frame of a source, also where an older version wrote it. Raises FileNotFoundError.

    ids: only those samples; the text of others is not kept in memory. None: all.
    """
    path = workspace.samples(source)
    if ids is None:
        return conform_samples(read_parquet(path))
    return conform_samples(read_where(path, pl.col("sample_id").is_in(ids.implode())))


def samples_that_begin(workspace: Workspace, source: str, beginning: str) -> pl.DataFrame:
    """As `read_samples`, those whose id begins so (hex digits)."""
    # The range beside it lets whole groups of rows be passed over; `g` comes after all hex digits.
    id = pl.col("sample_id")
    in_range = (id >= beginning) & (id < beginning + "g")
    return conform_samples(read_where(workspace.samples(source), in_range & id.str.starts_with(beginning)))


def _what_stays(workspace: Workspace, source: str) -> str:
    """What is left of a source that cannot be read, as the end of a message."""
    try:
        samples = read_row_counts(workspace, source)["samples"]
    except DselectError:
        return ""
    return f" Until then the {samples:,} samples of {source} that landed last stay in the pool."


def read_row_counts(workspace: Workspace, source: str) -> dict[str, Any]:
    """The `row_counts` that `land_source` wrote. Raises DselectError when the source has not landed."""
    path = workspace.samples(source)
    try:
        row_counts: dict[str, Any] = json.loads(read_metadata(path)[_ROW_COUNTS])
    except (FileNotFoundError, KeyError):
        raise DselectError(f"{path}: source {source} has not landed; materialise raw_dataset[{source}]") from None
    return row_counts
