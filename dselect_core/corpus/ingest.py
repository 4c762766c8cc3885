"""The front door: a source's spec to its distinct samples, its quarantine, and an account of every row.

Always rows = samples + duplicates + quarantined, where a duplicate is a valid row whose sample an earlier row of
the same source already held. `rows` is counted where rows are read and the rest where they end up, so the sum is a
check and not a definition. A whole file that says it has no rows (`[]`, a table or a compressed stream of nothing)
is an empty shard and no error, unless the source has nothing else; a file of no bytes is one. Samples are held in
memory, files are not (a JSON array is, while it is read).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import polars as pl
import pyarrow as pa

from dselect_core.corpus.formats import KEYS, KNOWN, Layout, choose, read
from dselect_core.corpus.readers import READABLE, RawRow
from dselect_core.corpus.sample import QUARANTINE, SAMPLES, BadRow, Message, sample_id
from dselect_core.corpus.source_files import Part, find, signature, signature_of
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec

__all__ = ["FileCount", "Ingested", "ingest", "signature"]

WINDOW = 1000
"""Rows that vote on a file's layout; if none of them fits any, the next as many."""
CHUNK = 20_000
EXCERPT = 200


@dataclass(frozen=True)
class FileCount:
    """One file's rows, how many went to quarantine, and what its rows were read as: the format, and with its keys
    the layout; both null for an empty shard."""

    file: str
    format: str | None
    layout: str | None
    rows: int
    quarantined: int


@dataclass(frozen=True)
class Ingested:
    """A source as tables (schemas SAMPLES and QUARANTINE) and counts. `skipped` are files in its folders not read."""

    source: str
    samples: pl.DataFrame
    quarantine: pl.DataFrame
    rows: int
    duplicates: int
    files: list[FileCount]
    skipped: list[str]
    signature: str

    @property
    def quarantined(self) -> int:
        return self.quarantine.height

    @property
    def formats(self) -> list[str]:
        """The formats of the files, most frequent first."""
        return [name for name, _ in Counter(file.format for file in self.files if file.format).most_common()]

    @property
    def balances(self) -> bool:
        """Whether rows in = samples + duplicates + quarantined."""
        return self.rows == self.samples.height + self.duplicates + self.quarantined


@dataclass
class _Tally:
    source: str
    rows: int = 0
    duplicates: int = 0
    messages: dict[str, list[Message]] = field(default_factory=dict)
    origins: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    quarantine: list[tuple[str, int, str, str]] = field(default_factory=list)

    def add(self, file: str, raw: RawRow, layout: Layout | None) -> None:
        try:
            if raw.error is not None:
                raise BadRow(raw.error)
            if layout is None:
                raise BadRow(f"no known format; {_keys([raw])}")
            messages = read(raw.value, layout)
        except BadRow as reason:
            self.quarantine.append((file, raw.number, _tabular(str(reason)), _excerpt(raw)))
            return
        key = sample_id(messages)
        if key in self.messages:
            self.duplicates += 1
        else:
            self.messages[key] = messages
        self.origins.setdefault(key, []).append((file, raw.number))

    def samples_frame(self) -> pl.DataFrame:
        """The samples as a table. They leave the tally on the way, so that memory holds few of them twice."""
        ids = sorted(self.messages)
        chunks = [self._take(ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)]
        return pl.concat(chunks) if chunks else SAMPLES.to_frame()

    def _take(self, ids: list[str]) -> pl.DataFrame:
        origins = [
            [{"source": self.source, "file": file, "row": row} for file, row in sorted(self.origins.pop(key))]
            for key in ids
        ]
        columns = {
            "sample_id": ids,
            "messages": [self.messages.pop(key) for key in ids],
            "n_rows": [len(rows) for rows in origins],
            "origins": origins,
        }
        # Through Arrow, because polars makes one frame per nested list when it is given Python objects.
        schema = SAMPLES.to_frame().to_arrow().schema
        return pl.DataFrame(pa.Table.from_pydict(columns, schema=schema), schema=SAMPLES)

    def quarantine_frame(self) -> pl.DataFrame:
        return pl.DataFrame([(self.source, *row) for row in sorted(self.quarantine)], schema=QUARANTINE, orient="row")


def ingest(source: str, spec: SourceSpec) -> Ingested:
    """Read a whole source. `source` is its name in dselect.yaml and stands in every origin.

    Raises DselectError, naming the file and the remedy, for a file that is bad as a whole: missing, empty, torn, not
    of a readable kind, or without a row of a known (or of the named) format. A bad row never raises.
    """
    found = find(spec)
    tally = _Tally(source)
    files = [_ingest_part(part, spec, tally) for part in found.parts]
    if not tally.rows:
        others = f" (and {len(files) - 1} other files)" if files[1:] else ""
        raise DselectError(f"{files[0].file}{others}: no rows. Remove source {source}, or fill it.")
    return Ingested(
        source=source,
        samples=tally.samples_frame(),
        quarantine=tally.quarantine_frame(),
        rows=tally.rows,
        duplicates=tally.duplicates,
        files=files,
        skipped=found.skipped,
        signature=signature_of(spec, found),
    )


def _ingest_part(part: Part, spec: SourceSpec, tally: _Tally) -> FileCount:
    rows_before, bad_before = tally.rows, len(tally.quarantine)

    def counted() -> Iterator[RawRow]:
        for raw in part.rows(KEYS):
            tally.rows += 1
            yield raw

    rows = counted()
    layout: Layout | None = None
    first: list[RawRow] = []
    while layout is None and (window := list(islice(rows, WINDOW))):
        layout = choose((raw.value for raw in window), spec.format)
        first = first or window
        for raw in window:
            tally.add(part.name, raw, layout)
    if not first:
        return FileCount(part.name, None, None, 0, 0)
    if layout is None:
        raise _no_format(part.name, spec, first)
    for raw in rows:
        tally.add(part.name, raw, layout)
    bad = len(tally.quarantine) - bad_before
    return FileCount(part.name, layout.format, str(layout), tally.rows - rows_before, bad)


def _no_format(name: str, spec: SourceSpec, rows: list[RawRow]) -> DselectError:
    broken = [raw for raw in rows if raw.error is not None]
    if len(broken) == len(rows):
        return DselectError(
            f"{name}: not JSON in any row (row {broken[0].number}: {broken[0].error}). Readable are {READABLE}."
        )
    found = f"{_keys(rows)} (rows looked at: {len(rows)})"
    if spec.format == "auto":
        return DselectError(f"{name}: no row has a known format; {found}. Known are {KNOWN}: rename the keys.")
    seen = choose(raw.value for raw in rows)
    remedy = f"They look like {seen}: set `format: {seen.format}`, or remove `format`." if seen else "Rename the keys."
    return DselectError(f"{name}: no row fits `format: {spec.format}`; {found}. {remedy}")


def _keys(rows: list[RawRow]) -> str:
    keys = Counter(str(key) for raw in rows if isinstance(raw.value, dict) for key in raw.value)
    shown = [_tabular(key)[:40] for key, _ in keys.most_common(12)]
    return f"keys found: {', '.join(shown)}" if shown else "no JSON objects found"


def _excerpt(raw: RawRow) -> str:
    if raw.text is not None:
        # Four bytes make at most one character, so this much holds the excerpt of a line of any length.
        return _tabular(raw.text[: 4 * EXCERPT].decode("utf-8", "replace").strip()[:EXCERPT])
    return _tabular(json.dumps(raw.value, ensure_ascii=False, default=repr)[:EXCERPT])


def _tabular(text: str) -> str:
    """Text that any table and terminal can hold."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
