"""The rows of the study (evidence.py): a pool of train rows and held-out rows, as sources of a dselect project.

Every file and folder of a corpora folder is one source; dselect reads it, whatever its shape. Files of a folder whose
names begin with one of UNSEEN are kept out of the pool and make one held-out source of a kind that the pool lacks. Rows
longer than `longest` tokens are left out everywhere: that bounds what a trial costs, and the study says nothing of
longer ones. Rows of the pool share no 13 words in a row with a held-out row. Which rows are taken is decided by a hash
of their content, so it repeats. The model's special tokens, written out in a row (T0's answers end in `<|endoftext|>`),
are taken out, for what a model learns from them is a marker; a row whose answer is nothing else is left out.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evidence_reward

from dselect_core.api import read_rows
from dselect_core.settings.settings import SourceSpec

UNSEEN = ("cnn_", "common_gen", "gigaword", "multi_news", "samsum", "wiki_bio", "xsum")
"""T0's tasks of writing a text from another or from words: beginnings of their file names."""

PAIRS_FILE = "pairs.json"
"""Of rows that are in no source: what the reward model is tuned on (evidence_reward.py)."""

DATA = (".json", ".jsonl", ".parquet", ".gz", ".zst")


@dataclass(frozen=True)
class Sizes:
    """longest: tokens of a row's texts; pool: train rows in all; kept_out: rows of each corpus that are in no pool;
    held_out: of those, the rows of an eval source: the others are a target source; pairs: for the reward model.
    """

    longest: int = 160
    pool: int = 3000
    kept_out: int = 40
    held_out: int = 30
    pairs: int = evidence_reward.PAIRS


def prepare_rows(corpora: Path, tokenizer: Any, sizes: Sizes, folder: Path) -> dict[str, dict[str, int]]:
    """Write one JSONL of `messages` a source into `folder`, and PAIRS_FILE.

    Returns {source: its rows and response tokens}.

    Sources are pool-NAME, and held-NAME and target-NAME of as many rows each, with a NAME `unseen` where some files are
    kept out. The pool has equal shares of the corpora, and a corpus that has too few leaves its share to the others.
    """
    corpora_rows = {
        entry.name.split(".")[0]: _short_rows(entry, tokenizer, sizes.longest)
        for entry in sorted(corpora.iterdir())
        if entry.is_dir() or entry.suffix in DATA
    }
    train: dict[str, list[dict[str, Any]]] = {}
    sources: dict[str, list[dict[str, Any]]] = {}
    unseen: list[dict[str, Any]] = []
    for name, rows in corpora_rows.items():
        seen = [row for row in rows if not row["file"].startswith(UNSEEN)]
        unseen += [row for row in rows if row["file"].startswith(UNSEEN)]
        sources[f"held-{name}"], train[name] = seen[: sizes.kept_out], seen[sizes.kept_out :]
    if unseen:
        sources["held-unseen"] = sorted(unseen, key=_by_hash)[: sizes.kept_out]
    grams = {gram for rows in sources.values() for row in rows for gram in _grams(row)}
    train = {name: [row for row in rows if grams.isdisjoint(_grams(row))] for name, rows in train.items()}
    shares = _equal_shares({f"pool-{name}": len(rows) for name, rows in train.items()}, sizes.pool)
    sources |= {name: train[name.removeprefix("pool-")][:share] for name, share in shares.items()}
    left = {name: rows[shares[f"pool-{name}"] :] for name, rows in train.items()}
    of_pairs = _equal_shares({name: len(rows) for name, rows in left.items()}, sizes.pairs)
    pairs = [pair for name, count in of_pairs.items() for pair in evidence_reward.make_pairs(left[name], count)]
    for name in [name for name in sources if name not in shares]:
        kept_out = sources[name]
        sources[name], sources[f"target-{name.removeprefix('held-')}"] = (
            kept_out[: sizes.held_out],
            kept_out[sizes.held_out :],
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sources.items():
        lines = (json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / PAIRS_FILE).write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
    return {
        name: {"rows": len(rows), "response_tokens": sum(row["response_tokens"] for row in rows)}
        for name, rows in sorted(sources.items())
    }


def _short_rows(entry: Path, tokenizer: Any, longest: int) -> list[dict[str, Any]]:
    """Rows of a corpus of at most `longest` tokens that end in an answer, in the order of their hash."""
    samples = read_rows(SourceSpec(path=str(entry), on_bad_file="skip"), entry.name).samples
    special = re.compile("|".join(re.escape(token) for token in tokenizer.all_special_tokens))
    rows = []
    for sample in samples.iter_rows(named=True):
        messages = [
            {"role": each["role"], "content": special.sub("", each["content"] or "").strip()}
            for each in sample["messages"]
        ]
        counts = [len(ids) for ids in tokenizer([each["content"] for each in messages]).input_ids]
        if sum(counts) > longest or messages[-1]["role"] != "assistant" or not messages[-1]["content"]:
            continue
        answered = sum(n for n, each in zip(counts, messages, strict=True) if each["role"] == "assistant")
        file = Path(sample["origins"][0]["file"]).name if isinstance(sample["origins"], list) else ""
        rows.append({"id": sample["sample_id"], "messages": messages, "response_tokens": answered, "file": file})
    return sorted(rows, key=_by_hash)


def _grams(row: dict[str, Any]) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", " ".join(each["content"] for each in row["messages"]).lower())
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


def _by_hash(row: dict[str, Any]) -> str:
    return hashlib.sha256(f"study 2 {row['id']}".encode()).hexdigest()


def _equal_shares(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Rows of each: the smallest take what they have, and the others share the rest."""
    shares: dict[str, int] = {}
    for done, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        shares[name] = min(sizes[name], (total - sum(shares.values())) // (len(sizes) - done))
    return shares
