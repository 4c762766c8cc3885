"""A starting dselect.yaml for a folder of files: one source a file, or a sub-folder of files of one kind."""

from pathlib import Path

from dselect_core.corpus.ingest import ingest
from dselect_core.errors import DselectError
from dselect_core.select.strategies import TOP_K, all_strategies
from dselect_core.settings.settings import SourceSpec

# What a source's files are called; compressed ones end in .gz or .zst on top of it.
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")
_COMPRESSED = (".gz", ".zst")

_TEXT = """\
# dselect: what to choose from, with which model, by which recipes. Paths are relative to this file.
# All keys and their meaning: docs/configuration.md; an editor can check against dselect.schema.json of the package.
storage: .dselect                  # tables, models and coresets; or s3://bucket/prefix

sources:                           # the format of the rows is detected, and can be named with `format:`
{sources}
# A small Llama tuned on a part of these rows. Replace it by the model you are going to tune:
# model: {{path: Qwen/Qwen2.5-0.5B}}

# D3's dependability. Without this, the builtin heuristic grades (it is no LLM, and says so in every record):
# grader: {{base_url: https://api.openai.com/v1, model: gpt-4o-mini, api_key: {{env: OPENAI_API_KEY}}}}

coresets:  # strategy: {strategies}
  d3-10pct:   {{strategy: d3, budget: 10%}}            # difficult, dependable, diverse
  miwv-1pct:  {{strategy: miwv, budget: 1%}}           # where the model is weak
  mads-15pct: {{strategy: mads, budget: 15%}}          # coverage of the model's neurons
  # small:    {{strategy: d3, budget: 500}}            # a number of rows
  # tokens:   {{strategy: d3, budget: 200000 tokens}}  # or of response tokens
"""


def starting_config(folder: Path, relative_to: Path) -> tuple[str, dict[str, str]]:
    """The YAML text, and for each source what was found. Reads the files, to say what is in them.

    Raises DselectError when the folder holds no data file that can be read.
    """
    found = _sources(folder)
    lines, told = [], {}
    for name, path in found.items():
        told[name] = _told(name, path)
        shown = path.resolve()
        shown_text = str(shown.relative_to(relative_to)) if shown.is_relative_to(relative_to) else str(shown)
        lines.append(f"  {name}: {{path: {_quoted(shown_text)}}}".ljust(44) + f"  # {told[name]}\n")
    strategies = " | ".join([*all_strategies(), f"{TOP_K}<column>"])
    return _TEXT.format(sources="".join(lines), strategies=strategies), told


def _sources(folder: Path) -> dict[str, Path]:
    if not folder.exists():
        raise DselectError(f"{folder}: no such file or folder")
    entries = [folder] if folder.is_file() else sorted(folder.iterdir())
    found: dict[str, Path] = {}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if any(_is_data(p) for p in entry.rglob("*")):
                found[_name(entry.name, found)] = entry
        elif _is_data(entry):
            found[_name(_stem(entry), found)] = entry
    if not found:
        raise DselectError(f"{folder}: no data files. Readable are {', '.join(_SUFFIXES)}, plain, .gz or .zst.")
    return found


def _is_data(path: Path) -> bool:
    return path.is_file() and Path(_uncompressed(path.name)).suffix.lower() in _SUFFIXES


def _uncompressed(name: str) -> str:
    return next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)


def _stem(path: Path) -> str:
    return Path(_uncompressed(path.name)).stem


def _name(stem: str, taken: dict[str, Path]) -> str:
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem).strip(".") or "source"
    return name if name not in taken else next(n for i in range(2, 10**6) if (n := f"{name}-{i}") not in taken)


def _quoted(path: str) -> str:
    return path if all(c.isalnum() or c in "-_./" for c in path) else "'" + path.replace("'", "''") + "'"


def _told(name: str, path: Path) -> str:
    try:
        seen = ingest(name, SourceSpec(path=str(path)))
    except DselectError as error:
        return f"cannot be read: {error}".replace("\n", " ")
    return (
        f"{seen.rows:,} rows in {len(seen.files)} file(s), {', '.join(seen.formats)}: {seen.samples.height:,} samples, "
        f"{seen.duplicates:,} duplicates, {seen.quarantined:,} quarantined"
    )
