"""The built-in corpus as files: three sources in three formats, and the labels in a folder of their own."""

import csv
import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from demo.corpus.assemble import Label, generate
from dselect_core.errors import DselectError

SOURCES = {
    "arithmetic_and_units": "arithmetic_and_units.json",
    "text_and_code": "text_and_code.jsonl",
    "conversations": "conversations.jsonl.gz",
}
"""File of each source: an Alpaca JSON array, OpenAI messages as JSONL, ShareGPT as gzipped JSONL."""
LABELS = "labels/labels.csv"
HELD_OUT = "held_out.jsonl"
"""Rows that are not chosen from: trials measure on them."""


def write_corpus(folder: Path, seed: int = 0) -> dict[str, Path]:
    """Write the corpus of a seed into `folder`; returns the path of each source, of `held_out` and of `labels`.

    Same seed, same bytes (on one version of Python and zlib; the rows are the same on all). An existing
    file is replaced. Raises DselectError where the folder cannot be written.
    """
    corpus = generate(seed)
    paths = {source: folder / name for source, name in SOURCES.items()} | {
        "held_out": folder / HELD_OUT,
        "labels": folder / LABELS,
    }
    contents = {
        "arithmetic_and_units": json.dumps(corpus.rows["arithmetic_and_units"], ensure_ascii=False, indent=1).encode(),
        "text_and_code": _lines(corpus.rows["text_and_code"]),
        "conversations": gzip.compress(_lines(corpus.rows["conversations"]), mtime=0),
        "held_out": _lines(corpus.held_out),
        "labels": _table(corpus.labels),
    }
    try:
        paths["labels"].parent.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            path.write_bytes(contents[name])
    except OSError as error:
        raise DselectError(f"{error.filename or folder}: cannot write the built-in corpus: {error.strerror}") from None
    return paths


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(labels: Iterable[Label]) -> bytes:
    """CSV with a header; a missing value is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Label))
    writer.writerows(astuple(label) for label in labels)
    return text.getvalue().encode()
