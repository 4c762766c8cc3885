"""A first dselect.yaml for a folder of files: one source for each file and each sub-folder.

It reads every file, so that the text says how many rows each has and how they were understood. One whose name says that
it is for measuring (test, valid, eval, dev, heldout) gets `role: eval`. What is not read is
named too, with the reason: a file that nobody mentions is rows that nobody misses.
"""

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.readers import DATA_NAME, READABLE_FORMATS
from dselect_core.corpus.source_files import list_source_files
from dselect_core.errors import DselectError
from dselect_core.escape import one_line
from dselect_core.select.strategies import TOP_K, all_strategies
from dselect_core.settings.settings import SourceSpec

# A name that says that its rows are for measuring. What they share with the others would spoil the measure.
_EVAL_NAME = re.compile(
    r"(?<![a-z])(evals?|evaluation|tests?|valid|validation|held[-_.]?out|dev)(?![a-z])", re.IGNORECASE
)
_EVAL_COMMENT = "eval, by its name: never chosen from; "
_NAMES_SHOWN = 5
_LONGEST_NAME = 100  # bytes; a source names folders, whose names have 255

_TEXT = """\
# dselect: what to choose from, with which model, by which recipes. Paths are relative to this file.
# All keys and their meaning: docs/configuration.md; JSON schema: dselect_core/settings/dselect.schema.json
storage: {storage}# tables, models and coresets; or s3://bucket/prefix
{reports}
sources:                           # the format of the rows is detected; `format:` sets it
{sources}{not_read}
# Without this, scores come from a small Llama that is tuned on a part of these rows. Name the model you will tune:
# model: {{path: Qwen/Qwen2.5-0.5B}}

# Without this, a built-in heuristic grades the responses for D3; it is no LLM, and every record says so:
# grader: {{base_url: https://api.openai.com/v1, model: gpt-4o-mini, api_key: {{env: OPENAI_API_KEY}}}}
# or a model that runs here, a reward model or a causal LM that is asked for yes or no:
# grader: {{reward_model: Skywork/Skywork-Reward-V2-Qwen3-0.6B, dtype: bfloat16}}
# grader: {{judge: Qwen/Qwen2.5-7B-Instruct, dtype: bfloat16}}

# Our own study (docs/evidence.md) found no strategy that beats a random draw of as many rows; d3 without `balance`,
# miwv and `topk:upd` were worse. So try what you choose: `trial: true` in a recipe compares it with random draws of its
# size, on the sources with `role: eval`, and `require: [beats_random]` holds it back until it wins.
coresets:  # strategy: {strategies}
  d3-10pct:     {{strategy: d3, budget: 10%, balance: source}}  # difficult, dependable, diverse; of every source
  mads-10pct:   {{strategy: mads, budget: 10%}}                 # coverage of the model's neurons
  random-10pct: {{strategy: random, budget: 10%}}               # what the others have to beat
  # miwv-1pct:  {{strategy: miwv, budget: 1%}}                  # where the model is weak
  # small:      {{strategy: d3, budget: 500}}                   # a number of rows
  # tokens:     {{strategy: d3, budget: 200000 tokens}}         # or of response tokens
"""

_REPORTS = """\
reports_url: http://127.0.0.1:3001  # where `dselect dev` serves the pages of the coresets, and the UI links to them
"""


class StarterConfig(NamedTuple):
    """text: of dselect.yaml; sources: {name: what was read of it}; not_read: lines on the files that no source has."""

    text: str
    sources: dict[str, str]
    not_read: list[str]


def make_starter_config(
    folder: Path, relative_to: Path, *, project: Path | None = None, storage: str = ".dselect"
) -> StarterConfig:
    """A dselect.yaml for a folder of data files (or one file).

    Paths below `relative_to` (the folder of dselect.yaml), or below the project that it is in, are written relative to
    it. storage: where tables go, as it is to be written. A source that cannot be read
    stays in the text, with the reason. Raises DselectError when there is no data file.
    """
    sources, left_out = _sources(folder)
    not_read = [_describe_left_out(reason, names) for reason, names in sorted(left_out.items())]
    if not sources:
        raise DselectError("; ".join([f"{folder}: no data files. Readable are {READABLE_FORMATS}", *not_read]))
    descriptions = {name: _describe(name, path) for name, path in sources.items()}
    held_out = {name for name in sources if _EVAL_NAME.search(name)}
    if len(held_out) == len(sources):
        held_out.clear()  # without a source to choose from nothing would be chosen
    lines = []
    for name, path in sources.items():
        absolute = path.resolve()
        is_inside = absolute.is_relative_to(project or relative_to)
        written = os.path.relpath(absolute, relative_to) if is_inside else absolute
        role, comment = (", role: eval", _EVAL_COMMENT) if name in held_out else ("", "")
        entry = f"  {name}: {{path: {_quoted(str(written))}{role}}}"
        lines.append(f"{entry.ljust(44)}  # {comment}{descriptions[name]}\n")
    strategies = " | ".join([*all_strategies(), f"{TOP_K}<column>"])
    comments = "".join(f"  # {line}\n" for line in not_read)
    return StarterConfig(
        _TEXT.format(
            storage=f"{_quoted(storage).ljust(25)} ",
            # A project's own UI is started otherwise, and serves none.
            reports=_REPORTS if project is None else "",
            sources="".join(lines),
            not_read=comments,
            strategies=strategies,
        ),
        descriptions,
        not_read,
    )


def _sources(folder: Path) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """{source: file or folder}, and {reason: names} of the files that are in none."""
    if not folder.exists():
        raise DselectError(f"{folder}: no such file or folder")
    root = folder.parent if folder.is_file() else folder
    sources: dict[str, Path] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for entry in [folder] if folder.is_file() else sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not _is_utf8(entry.name):
            left_out["the name is not UTF-8, so dselect.yaml cannot hold it; rename it"].append(_shown(entry, root))
        elif entry.is_dir():
            try:
                listing = list_source_files(SourceSpec(path=str(entry)))
            except DselectError:
                left_out["no data files in it"].append(_shown(entry, root))
                continue
            sources[_source_name(entry.name, sources)] = entry
            for skipped in listing.skipped:
                left_out[_why_not_read(Path(skipped))].append(_shown(Path(skipped), root))
        elif DATA_NAME.search(entry.name):
            sources[_source_name(DATA_NAME.sub("", entry.name), sources)] = entry
        else:
            left_out[_why_not_read(entry)].append(_shown(entry, root))
    return sources, left_out


def _why_not_read(path: Path) -> str:
    if DATA_NAME.search(path.name):
        return "hidden by the name of the file or its folder"
    kind = path.suffix.removeprefix(".").upper()
    return one_line(kind) if kind else "no ending of a data file"


def _describe_left_out(reason: str, names: list[str]) -> str:
    others = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"not read: {reason}: {', '.join(names[:_NAMES_SHOWN])}{others}"


def _shown(path: Path, root: Path) -> str:
    # The paths of a listing may be relative to the working directory, as `root` may.
    absolute = path.absolute()
    return one_line(str(absolute.relative_to(root.absolute()) if absolute.is_relative_to(root.absolute()) else path))


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _source_name(stem: str, taken: dict[str, Path]) -> str:
    name = re.sub(r"\.{2,}", ".", "".join(c if c.isalnum() or c in "-_." else "_" for c in stem))
    name = name.encode("utf-8")[:_LONGEST_NAME].decode("utf-8", "ignore").strip(".") or "source"
    return name if name not in taken else next(n for i in range(2, 10**6) if (n := f"{name}-{i}") not in taken)


def _quoted(path: str) -> str:
    if all(c.isalnum() or c in "-_./" for c in path):
        return path
    if path.isprintable():
        return "'" + path.replace("'", "''") + "'"
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in path) + '"'


def _describe(name: str, path: Path) -> str:
    try:
        ingested = ingest(name, SourceSpec(path=str(path)))
    except DselectError as error:
        return one_line(f"cannot be read: {error}")
    return (
        f"{ingested.rows:,} rows in {len(ingested.files)} file(s), {', '.join(ingested.formats)}: "
        f"{ingested.samples.height:,} samples, {ingested.duplicates:,} duplicates, "
        f"{ingested.quarantined:,} quarantined"
    )
