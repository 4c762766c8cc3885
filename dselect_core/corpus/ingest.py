"""Read a whole source: from its settings to its distinct samples, its quarantine and counts of all rows.

Always rows = samples + duplicates + quarantined. A duplicate is a valid row whose sample an earlier row of the source
already has. `rows` is counted where rows are read and the others where rows end up, so the sum is a real check. A file
that is valid and has no rows (`[]`, a table or a compressed stream of nothing) is an empty shard; it is an error only
when the source has no other rows. A file of no bytes is always bad.

A file that is bad as a whole gives all its rows or none. By `on_bad_file` of the source it is an error, or it is left
out: then quarantine names it, with the reason and no row number, and its rows count nowhere.

Trade-off: the samples, the origins and the quarantine of a source are held in memory; files are not.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from dselect_core.corpus.formats import (
    ALL_KEYS,
    KNOWN_FORMATS,
    Conversation,
    Layout,
    choose_layout,
    describe_misfit,
    read_row,
)
from dselect_core.corpus.raw_row import RawRow
from dselect_core.corpus.readers import READABLE_FORMATS
from dselect_core.corpus.sample import QUARANTINE, SAMPLES, BadRow, sample_id
from dselect_core.corpus.source_files import SourceFile, list_source_files
from dselect_core.errors import DselectError
from dselect_core.redact import redact
from dselect_core.settings.settings import SourceSpec

VOTING_ROWS = 1000
"""How many rows vote on the layout of a file; if none of them has the shape of any, the next as many vote."""

_VOTING_BYTES = 1 << 23
# A file of which so many first rows fit no layout is bad as a whole, however many follow.
_CHUNKS_WITHOUT_LAYOUT = 100
_CHUNK_SAMPLES = 20_000
_EXCERPT_CHARACTERS = 200
_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class FileCount:
    """Counts of one file. format, layout: what its rows were read as; both None for an empty shard."""

    file: str
    format: str | None
    layout: str | None
    rows: int
    quarantined: int


@dataclass(frozen=True)
class IngestedSource:
    """A source as tables and counts.

    samples, quarantine: tables of the schemas SAMPLES and QUARANTINE; rows: all that were read; duplicates: valid rows
    whose sample an earlier row has; files: those that were read; bad_files: {name: reason} of those that were left out;
    skipped: names of files in its folders that are no data files; signature: of its files as they were listed before
    they were read.
    """

    source: str
    samples: pl.DataFrame
    quarantine: pl.DataFrame
    rows: int
    duplicates: int
    files: list[FileCount]
    bad_files: dict[str, str]
    skipped: list[str]
    signature: str

    @property
    def quarantined(self) -> int:
        """Number of rows in quarantine, which also names files."""
        return self.quarantine["row"].count()

    @property
    def formats(self) -> list[str]:
        """The formats of the files, most frequent first."""
        return [name for name, _ in Counter(file.format for file in self.files if file.format).most_common()]

    @property
    def balances(self) -> bool:
        """Whether rows = samples + duplicates + quarantined."""
        return self.rows == self.samples.height + self.duplicates + self.quarantined


@dataclass
class _Tally:
    """What has been read of a source so far."""

    source: str
    rows: int = 0
    duplicates: int = 0
    conversations: dict[str, Conversation] = field(default_factory=dict)
    origins: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    quarantine: list[tuple[str, int | None, str, str]] = field(default_factory=list)

    def merge(self, other: "_Tally") -> None:
        """Add what was read of a whole file."""
        self.rows += other.rows
        self.duplicates += other.duplicates
        for id, conversation in other.conversations.items():
            if id in self.conversations:
                self.duplicates += 1
            else:
                self.conversations[id] = conversation
        for id, origins in other.origins.items():
            self.origins.setdefault(id, []).extend(origins)
        self.quarantine += other.quarantine

    def add(self, file: str, raw: RawRow, layout: Layout | None) -> None:
        try:
            if raw.error is not None:
                raise BadRow(raw.error)
            if layout is None:
                raise BadRow(f"no known format; {_list_keys([raw])}")
            conversation = read_row(raw.value, layout)
        except BadRow as reason:
            text = _printable(str(reason)[:_REASON_CHARACTERS])
            self.quarantine.append((file, raw.number, text, _excerpt(raw)))
            return
        id = sample_id(conversation.messages, conversation.tools)
        if id in self.conversations:
            self.duplicates += 1
        else:
            self.conversations[id] = conversation
        self.origins.setdefault(id, []).append((file, raw.number))

    def take_samples(self) -> pl.DataFrame:
        """The samples as a table. It removes them from the tally, so that memory never holds all of them twice."""
        ids = sorted(self.conversations)
        chunks = [self._take_chunk(ids[start : start + _CHUNK_SAMPLES]) for start in range(0, len(ids), _CHUNK_SAMPLES)]
        return pl.concat(chunks) if chunks else SAMPLES.to_frame()

    def _take_chunk(self, ids: list[str]) -> pl.DataFrame:
        origins = [
            [{"source": self.source, "file": file, "row": row} for file, row in sorted(self.origins.pop(id))]
            for id in ids
        ]
        conversations = [self.conversations.pop(id) for id in ids]
        columns = {
            "sample_id": ids,
            "messages": [conversation.messages for conversation in conversations],
            "tools": [conversation.tools for conversation in conversations],
            "n_rows": [len(rows) for rows in origins],
            "origins": origins,
        }
        import pyarrow as pa  # here, for a refresh with nothing to do lands no row

        # Through Arrow, because polars makes one frame per nested list from Python objects.
        schema = SAMPLES.to_frame().to_arrow().schema
        return pl.DataFrame(pa.Table.from_pydict(columns, schema=schema), schema=SAMPLES)

    def quarantine_table(self) -> pl.DataFrame:
        rows = sorted(self.quarantine, key=lambda row: (row[0], row[1] or 0))
        return pl.DataFrame([(self.source, *row) for row in rows], schema=QUARANTINE, orient="row")


def ingest(source: str, spec: SourceSpec) -> IngestedSource:
    """Read a whole source. source: its name in dselect.yaml, which every origin shows.

    Raises DselectError, naming the file and the remedy, for a file that is bad as a whole: missing, empty, torn, in no
    readable format, or without a row of a known format (or of the one the spec names). Where the spec skips bad files,
    only when no file is good. A bad row raises nothing.
    """
    listing = list_source_files(spec)
    tally = _Tally(source)
    files: list[FileCount] = []
    bad_files: dict[str, str] = {}
    for file in listing.files:
        try:
            files.append(_ingest_file(file, spec, tally))
        except DselectError as error:
            if spec.on_bad_file == "fail":
                raise
            name, why = redact(file.name), redact(str(error))
            bad_files[name] = why
            tally.quarantine.append((name, None, _printable(f"bad file: {why}"[:_REASON_CHARACTERS]), ""))
    if not tally.rows:
        if bad_files:
            others = f" (the other {len(bad_files) - 1} bad files too)" if len(bad_files) > 1 else ""
            raise DselectError(f"no file of source {source} has rows. {next(iter(bad_files.values()))}{others}")
        others = f" (and {len(files) - 1} other files)" if files[1:] else ""
        raise DselectError(f"{files[0].file}{others}: no rows. Remove source {source}, or fill it.")
    return IngestedSource(
        source=source,
        samples=tally.take_samples(),
        quarantine=tally.quarantine_table(),
        rows=tally.rows,
        duplicates=tally.duplicates,
        files=files,
        bad_files=bad_files,
        skipped=[redact(file) for file in listing.skipped],
        signature=listing.signature(spec),
    )


def _ingest_file(file: SourceFile, spec: SourceSpec, tally: _Tally) -> FileCount:
    """Reads a file, and adds it to the tally when it was read to its end."""
    of_file = _Tally(tally.source)
    name = redact(file.name)  # what is stored and shown; the address may hold a password

    def counted_rows() -> Iterator[RawRow]:
        for raw in file.rows(ALL_KEYS, spec.max_row_bytes):
            of_file.rows += 1
            yield raw

    rows = counted_rows()
    layout: Layout | None = None
    first_voters: list[RawRow] = []
    chunks = 0
    while layout is None and chunks < _CHUNKS_WITHOUT_LAYOUT and (voters := _take_voters(rows)):
        chunks += 1
        layout = choose_layout((raw.value for raw in voters), spec.format)
        first_voters = first_voters or voters
        for raw in voters:
            of_file.add(name, raw, layout)
    if not first_voters:
        return FileCount(name, None, None, 0, 0)
    if layout is None:
        raise _no_format_error(name, spec, first_voters)
    for raw in rows:
        of_file.add(name, raw, layout)
    tally.merge(of_file)
    return FileCount(name, layout.format, str(layout), of_file.rows, len(of_file.quarantine))


def _take_voters(rows: Iterator[RawRow]) -> list[RawRow]:
    """The next rows that vote on the layout: VOTING_ROWS of them, fewer where they are large."""
    voters: list[RawRow] = []
    size = 0
    for raw in rows:
        voters.append(raw)
        size += raw.size
        if len(voters) == VOTING_ROWS or size > _VOTING_BYTES:
            break
    return voters


def _no_format_error(name: str, spec: SourceSpec, rows: list[RawRow]) -> DselectError:
    broken = [raw for raw in rows if raw.error is not None]
    if len(broken) == len(rows):
        return DselectError(
            f"{name}: no row can be read (row {broken[0].number}: {broken[0].error}). Readable are {READABLE_FORMATS}."
        )
    if misfit := next(filter(None, (describe_misfit(raw.value) for raw in rows)), None):
        return DselectError(f"{name}: {misfit}. A turn is {{role, content}}, {{from, value}} or text.")
    keys = f"{_list_keys(rows)} (rows looked at: {len(rows)})"
    if spec.format == "auto":
        return DselectError(f"{name}: no row has a known format; {keys}. Known are {KNOWN_FORMATS}: rename the keys.")
    actual = choose_layout(raw.value for raw in rows)
    remedy = "Rename the keys."
    if actual:
        remedy = f"They look like {actual}: set `format: {actual.format}`, or remove `format`."
    return DselectError(f"{name}: no row fits `format: {spec.format}`; {keys}. {remedy}")


def _list_keys(rows: list[RawRow]) -> str:
    keys = Counter(str(key) for raw in rows if isinstance(raw.value, dict) for key in raw.value)
    most_common = [_printable(key)[:40] for key, _ in keys.most_common(12)]
    return f"keys found: {', '.join(most_common)}" if most_common else "no JSON objects found"


def _excerpt(raw: RawRow) -> str:
    if raw.text is not None:
        # A character has at most four bytes, so this slice holds the whole excerpt of a line of any length.
        text = raw.text[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", "replace")
        return _printable(text.strip()[:_EXCERPT_CHARACTERS])
    return _printable(json.dumps(raw.value, ensure_ascii=False, default=repr)[:_EXCERPT_CHARACTERS])


def _printable(text: str) -> str:
    """The text without what a table or a terminal cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
