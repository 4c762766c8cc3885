"""A first dselect.yaml for a folder of files: one source for each file and each sub-folder.

It reads every file, so that the text says how many rows each has and how they were understood.
"""

from pathlib import Path

from dselect_core.corpus.ingest import ingest
from dselect_core.errors import DselectError
from dselect_core.select.strategies import TOP_K, all_strategies
from dselect_core.settings.settings import SourceSpec

# Names of data files end so; a compressed file has its own ending after it.
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")
_COMPRESSED = (".gz", ".zst")

_TEXT = """\
# dselect: what to choose from, with which model, by which recipes. Paths are relative to this file.
# All keys and their meaning: docs/configuration.md; JSON schema: dselect_core/settings/dselect.schema.json
storage: .dselect                  # tables, models and coresets; or s3://bucket/prefix

sources:                           # the format of the rows is detected; `format:` sets it
{sources}
# Without this, scores come from a small Llama that is tuned on a part of these rows. Name the model you will tune:
# model: {{path: Qwen/Qwen2.5-0.5B}}

# Without this, a built-in heuristic grades the responses for D3; it is no LLM, and every record says so:
# grader: {{base_url: https://api.openai.com/v1, model: gpt-4o-mini, api_key: {{env: OPENAI_API_KEY}}}}

coresets:  # strategy: {strategies}
  d3-10pct:   {{strategy: d3, budget: 10%}}            # difficult, dependable, diverse
  miwv-1pct:  {{strategy: miwv, budget: 1%}}           # where the model is weak
  mads-15pct: {{strategy: mads, budget: 15%}}          # coverage of the model's neurons
  # small:    {{strategy: d3, budget: 500}}            # a number of rows
  # tokens:   {{strategy: d3, budget: 200000 tokens}}  # or of response tokens
"""


def make_starter_config(folder: Path, relative_to: Path) -> tuple[str, dict[str, str]]:
    """The text of a dselect.yaml for a folder of data files (or one file), and {source: what was read of it}.

    Paths below `relative_to` (the folder of dselect.yaml) are written relative to it. A source that cannot be read
    stays in the text, with the reason. Raises DselectError when there is no data file.
    """
    sources = _sources(folder)
    descriptions = {name: _describe(name, path) for name, path in sources.items()}
    lines = []
    for name, path in sources.items():
        absolute = path.resolve()
        written = absolute.relative_to(relative_to) if absolute.is_relative_to(relative_to) else absolute
        lines.append(f"  {name}: {{path: {_quoted(str(written))}}}".ljust(44) + f"  # {descriptions[name]}\n")
    strategies = " | ".join([*all_strategies(), f"{TOP_K}<column>"])
    return _TEXT.format(sources="".join(lines), strategies=strategies), descriptions


def _sources(folder: Path) -> dict[str, Path]:
    if not folder.exists():
        raise DselectError(f"{folder}: no such file or folder")
    entries = [folder] if folder.is_file() else sorted(folder.iterdir())
    sources: dict[str, Path] = {}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if any(_is_data(p) for p in entry.rglob("*")):
                sources[_source_name(entry.name, sources)] = entry
        elif _is_data(entry):
            sources[_source_name(_stem(entry), sources)] = entry
    if not sources:
        raise DselectError(f"{folder}: no data files. Readable are {', '.join(_SUFFIXES)}, plain, .gz or .zst.")
    return sources


def _is_data(path: Path) -> bool:
    return path.is_file() and Path(_uncompressed(path.name)).suffix.lower() in _SUFFIXES


def _uncompressed(name: str) -> str:
    return next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)


def _stem(path: Path) -> str:
    return Path(_uncompressed(path.name)).stem


def _source_name(stem: str, taken: dict[str, Path]) -> str:
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem).strip(".") or "source"
    return name if name not in taken else next(n for i in range(2, 10**6) if (n := f"{name}-{i}") not in taken)


def _quoted(path: str) -> str:
    return path if all(c.isalnum() or c in "-_./" for c in path) else "'" + path.replace("'", "''") + "'"


def _describe(name: str, path: Path) -> str:
    try:
        ingested = ingest(name, SourceSpec(path=str(path)))
    except DselectError as error:
        return f"cannot be read: {error}".replace("\n", " ")
    return (
        f"{ingested.rows:,} rows in {len(ingested.files)} file(s), {', '.join(ingested.formats)}: "
        f"{ingested.samples.height:,} samples, {ingested.duplicates:,} duplicates, "
        f"{ingested.quarantined:,} quarantined"
    )
