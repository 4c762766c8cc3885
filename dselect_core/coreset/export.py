"""The files of a coreset: for a trainer (JSONL, Parquet, Alpaca JSON, a `datasets` folder) and for the record.

How they become visible is another matter: published.py. One file after the other is made, and no two are held at once.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import polars as pl
import yaml
from upath import UPath

from dselect_core.coreset.published import FILES, MANIFEST, PublishedVersion, read_version, write_in_place
from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples, message_text, trim_fields
from dselect_core.errors import DselectError
from dselect_core.escape import markdown_cell, markdown_table, visible
from dselect_core.fingerprint import digest
from dselect_core.pool.overlap import short_reason
from dselect_core.redact import redact
from dselect_core.select.select import Selection
from dselect_core.storage.files import sealed_parquet_bytes, write_bytes
from dselect_core.storage.json_file import json_bytes

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


Writer = Callable[[UPath, Iterable[tuple[str, bytes]], dict[str, Any]], object]
"""Writes files, (name, content), and a manifest to a folder: `publish` or `write_in_place`."""


def write_coreset(
    folder: UPath,
    selection: Selection,
    samples: pl.DataFrame,
    manifest: dict[str, Any],
    changes: pl.DataFrame | None = None,
    write: Writer = write_in_place,
) -> dict[str, int]:
    """Write the coreset to `folder` (local or object store) and return the counts that went into its manifest.

    samples: frame with sample_id, messages, tools, n_rows, origins; more rows than were chosen are fine.
    manifest: what the caller knows of the recipe (JSON values; `recipe` names it, a `counts` mapping is kept and added
        to). changes: as diff.py makes them; None: no such file.

    Files, rows in rank order:
      changes.parquet  `changes`
      order.parquet    the selection's order: sample_id, rank, gain, scores
      coreset.jsonl    {"sample_id", "messages"} per line, and "tools" where the conversation has some
      coreset.parquet  sample_id, rank, messages, (tools,) origins, n_rows, gain, scores
      alpaca.json      [{"instruction", "input", "output"}], plus "system" where there is one. Single-turn samples only;
                       the whole user turn is the instruction, for an Alpaca row's two parts are one turn by then.
                       Reasoning stands in think tags in front of the output. Samples with tools are left out
      dataset/         a folder for `datasets.load_dataset`: messages, sample_id, and a card
      manifest.json    `manifest` with the counts, and how many were excluded for which reason; `too_alike` counts what
                       was passed over where that left the budget unfilled; chosen against pool by source and length;
                       the rows of each group of a `quota` or `balance`; how `targeted` searched where that was not
                       exact, and the recall; size and hash of every file

    Raises DselectError when a chosen sample is not among `samples`.
    """
    absent = selection.order.join(samples, on="sample_id", how="anti")
    if len(absent):
        raise DselectError(
            f"{folder}: {len(absent)} chosen samples are not in the corpus, {absent['sample_id'][0]} the first: "
            f"the scores are of another state of it; refresh both and select again"
        )
    of_sample = ["messages", "tools", "origins", "n_rows"]
    texts = conform_samples(samples).select("sample_id", *of_sample)
    # The pool may carry n_rows beside the scores; the corpus says it once for all.
    steps = selection.order.drop(of_sample, strict=False)
    chosen = steps.join(texts, on="sample_id", how="left", maintain_order="left")
    chosen = chosen.select("sample_id", "rank", *of_sample, pl.exclude("sample_id", "rank", *of_sample))
    lines = [_line(*row) for row in chosen.select("sample_id", "messages", "tools").iter_rows()]
    single_turn = _alpaca(chosen.select("messages", "tools").iter_rows())
    with_tools = sum(_has_tools(*row) for row in chosen.select("messages", "tools").iter_rows())
    chosen = trim_fields(chosen)
    counts = {
        "rows": selection.rows,
        "pool": selection.pool_size,
        "excluded": len(selection.excluded),
        "alpaca_rows": len(single_turn),
        "alpaca_left_out_multi_turn": selection.rows - len(single_turn) - with_tools,
    }
    if with_tools:
        counts["alpaca_left_out_tools"] = with_tools
    if selection.tokens is not None:
        counts["response_tokens"] = selection.tokens
    if selection.passes is not None:
        counts["passes"] = selection.passes
    if selection.too_alike is not None:
        counts["too_alike"] = selection.too_alike
    record = {
        **manifest,
        "counts": {**manifest.get("counts", {}), **counts},
        "excluded_reasons": counted_reasons(selection.excluded["reason"]),
        "composition": selection.composition.as_json(),
        **({} if selection.mixture is None else {"mixture": selection.mixture.to_dicts()}),
        **({"search": selection.facts} if selection.facts else {}),
    }

    dataset = chosen.select(name for name in ("messages", "tools", "sample_id") if name in chosen.columns)

    def files() -> Iterator[tuple[str, bytes]]:
        yield "order.parquet", sealed_parquet_bytes(selection.order)
        if changes is not None:
            yield "changes.parquet", sealed_parquet_bytes(changes)
        yield "coreset.jsonl", "".join(lines).encode()
        yield "coreset.parquet", sealed_parquet_bytes(chosen)
        yield "alpaca.json", (json.dumps(single_turn, ensure_ascii=False, indent=1) + "\n").encode()
        yield "dataset/data/train-00000-of-00001.parquet", sealed_parquet_bytes(dataset)
        card = _card(record, _per_source(chosen), digest(chosen["sample_id"]), _features(dataset.schema))
        yield "dataset/README.md", card.encode()

    write(folder, files(), record)
    return counts


def _line(sample_id: str, messages: list[dict[str, str | None]], tools: str | None) -> str:
    """A sample as a line of JSON: fields that it lacks are left out, calls and tools are objects."""
    own = {} if tools is None else {"tools": chat_tools(tools)}
    line = {"sample_id": sample_id, "messages": chat_messages(messages), **own}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


def _features(schema: pl.Schema) -> list[dict[str, Any]]:
    """The columns of the dataset as its card names them: all text, and messages a list of texts by name."""
    messages = schema["messages"]
    assert isinstance(messages, pl.List)
    assert isinstance(messages.inner, pl.Struct)
    fields = [{"name": field.name, "dtype": "string"} for field in messages.inner.fields]
    return [
        {"name": name, "list": fields} if name == "messages" else {"name": name, "dtype": "string"} for name in schema
    ]


def _alpaca(conversations: Iterable[tuple[list[dict[str, str | None]], str | None]]) -> list[dict[str, str]]:
    rows = []
    for messages, tools in conversations:
        if _has_tools(messages, tools):
            continue
        match [message["role"] for message in messages]:
            case ["user", "assistant"]:
                system = {}
            case ["system", "user", "assistant"]:
                system = {"system": message_text(messages[0])}
            case _:
                continue
        question, answer = messages[-2:]
        output = message_text(answer, reasoning=True)
        rows.append({**system, "instruction": message_text(question), "input": "", "output": output})
    return rows


def _has_tools(messages: list[dict[str, str | None]], tools: str | None) -> bool:
    return tools is not None or any(m["role"] == "tool" or m.get("tool_calls") is not None for m in messages)


def counted_reasons(reasons: pl.Series) -> dict[str, int]:
    """{reason: samples}; what is held out counts by the rule, and not by the eval sample that each names."""
    short = reasons.map_elements(short_reason, return_dtype=pl.String)
    return dict(short.value_counts().sort("reason").iter_rows())


def _per_source(chosen: pl.DataFrame) -> dict[str, int]:
    """Chosen samples by source; one that several sources hold counts for each, whose terms it keeps."""
    sources = chosen.select("sample_id", source=pl.col("origins").list.eval(pl.element().struct.field("source")))
    source_of_sample = sources.explode("source").drop_nulls().unique()
    return dict(source_of_sample.group_by("source").len().sort("source").iter_rows())


def _card(record: dict[str, Any], per_source: dict[str, int], content: str, features: list[dict[str, Any]]) -> str:
    """The dataset card: YAML front matter that `datasets` reads, then recipe, counts and origin in words.

    `content` is the hash of the chosen ids. `datasets` keys its cache on the card's configs and not on the files they
    name, so without it a rewritten coreset, or another recipe's, would load as whichever was loaded first.
    """
    counts = record["counts"]
    name = visible(redact(str(record.get("recipe", "coreset"))))
    front = {
        "pretty_name": name,
        "task_categories": ["text-generation"],
        "size_categories": [next((size for limit, size in _SIZES if counts["rows"] < limit), "n>10M")],
        "tags": ["dselect", "coreset", "instruction-tuning"],
        "configs": [
            {
                "config_name": "default",
                "description": f"samples {content}",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
        # The Parquet writer's types are Arrow's large ones; trainers expect, and other datasets have, the plain ones.
        "dataset_info": {"features": features},
    }
    recipe = {key: value for key, value in record.items() if isinstance(value, str | int | float)}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# {markdown_cell(name)}",
            "",
            f"{counts['rows']} samples for instruction tuning, chosen by dselect from a pool of {counts['pool']}.",
            "Each row: `messages` (role, content), in the order of choice, and `sample_id`, the hash of its content.",
            "",
            *_table("Recipe", recipe),
            *_table("Counts", counts),
            *_table("Chosen samples by source", per_source),
            "A sample that several sources hold counts for each of them. The samples keep the terms of their sources.",
            "",
        ]
    )


def _table(title: str, rows: dict[str, Any]) -> list[str]:
    # Keys and values are names, settings and reasons of whoever wrote them, and this page is shown to others.
    shown = [(redact(key), redact(value) if isinstance(value, str) else value) for key, value in rows.items()]
    return [f"## {title}", "", markdown_table(["", ""], shown), ""]


_EXPORTS = {
    "messages": ["coreset.jsonl"],
    "parquet": ["coreset.parquet"],
    "alpaca": ["alpaca.json"],
    "dataset": ["dataset/README.md", "dataset/data/train-00000-of-00001.parquet"],
    "all": [name for name in FILES if name != "changes.parquet"],
}


def export_coreset(folder: UPath, target: str, form: str) -> list[UPath]:
    """Copy a made coreset, whole (`all`) or in one form, to a folder or object-store prefix; returns what was written.

    All files are of one version, also where another is published meanwhile. Raises DselectError for an unknown form,
    when the coreset is not made, and for a file that is missing or damaged.
    """
    if form not in _EXPORTS:
        raise DselectError(f"unknown format {form!r}; known: {', '.join(_EXPORTS)}")
    names = _EXPORTS[form]

    def copy(version: PublishedVersion) -> list[UPath]:
        for name in names:
            data = json_bytes(version.manifest_elsewhere) if name == MANIFEST else version.read(name)
            write_bytes(data, UPath(target) / name)
        return [UPath(target) / name for name in names]

    try:
        return read_version(folder, copy)
    except FileNotFoundError as error:
        if not (folder / MANIFEST).exists():
            raise DselectError(f"{folder}: this coreset is not made yet; run `dselect refresh`") from None
        raise DselectError(f"{folder}: a file of this coreset is gone ({error}); run `dselect refresh`") from None
