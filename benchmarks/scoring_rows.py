"""The bed of the scoring benchmark: real rows with their shots, and a random Llama saved where peers can open it.

Rows are whole components of the 1-nearest-neighbour graph over a larger pool, so that as many of them are somebody's
shot as in the corpus. The graph is our own `neighbors.nearest` over hashed words of the prompts: cheap, and not the
model's, so the neighbours are known before anything is scored, as with a separate encoder.

What this trades off: conversations of one turn only (peers know no others), responses that begin with a space are
left out (a peer that tokenises prompt and response in one go would merge it into the prompt), and texts are cut, a
prompt at its end, so that every row is scored whole by every side, also behind its shot.
"""

import math
import random
import re
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.sample import SAMPLES, sample_id
from dselect_core.lm.builtin_model import train_tokenizer
from dselect_core.neighbors.nearest import nearest
from dselect_core.settings.settings import SourceSpec, WarmupSpec

POOL_PER_SOURCE = 3_000
TOKENIZER_VOCABULARY = 16_000
BUCKETS = 1_024
_TEMPLATE_TOKENS = 64  # more than ours and any peer's template puts around a row


@dataclass(frozen=True)
class Rows:
    """samples: SAMPLES, ascending by id; shots: sample_id, shot_id, in the same order; vectors: [n, BUCKETS], what
    the shots follow from; window: tokens that hold a row behind its shot; pool_shared: share of the pool's rows that
    are somebody's shot."""

    samples: pl.DataFrame
    shots: pl.DataFrame
    vectors: np.ndarray
    tokenizer: Any
    window: int
    pool_shared: float

    @property
    def shared(self) -> float:
        return self.shots["shot_id"].n_unique() / self.samples.height

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(prompt, response) of each row."""
        return [(prompt["content"], answer["content"]) for prompt, answer in self.samples["messages"].to_list()]


def take(corpora: Path, rows: int, cut: int, seed: int = 0, tokenizer: Any = None) -> Rows:
    """`rows` rows of the corpora (each file or folder is a source), none longer than `cut` tokens.

    tokenizer: a real model's; by default one that is trained on the pool.
    """
    pool = _pool(corpora, seed)
    tokenizer = tokenizer or train_tokenizer(pool, WarmupSpec(vocab_size=TOKENIZER_VOCABULARY, window=8 * cut))
    pool = _frame([_cut(messages, tokenizer, cut) for messages in pool["messages"].to_list()])
    vectors = _vectors([messages[0]["content"] for messages in pool["messages"].to_list()])
    pairs = nearest(pool["sample_id"], vectors)
    chosen = _components(pairs, rows, seed)
    return Rows(
        samples=pool[chosen],
        shots=pairs[chosen].select("sample_id", "shot_id"),
        vectors=vectors[chosen],
        tokenizer=tokenizer,
        window=2 * (cut + _TEMPLATE_TOKENS),
        pool_shared=pairs["shot_id"].n_unique() / pool.height,
    )


def _pool(corpora: Path, seed: int) -> pl.DataFrame:
    kept: list[list[dict[str, str]]] = []
    for entry in sorted(p for p in corpora.iterdir() if p.is_dir() or ".json" in p.name):
        single = [
            messages
            for messages in ingest(entry.name.split(".")[0], SourceSpec(path=str(entry))).samples["messages"].to_list()
            if [m["role"] for m in messages] == ["user", "assistant"] and not messages[1]["content"][0].isspace()
        ]
        kept += random.Random(seed).sample(single, min(POOL_PER_SOURCE, len(single)))
    return _frame(kept)


def _frame(conversations: list[list[dict[str, str]]]) -> pl.DataFrame:
    by_id = {sample_id(messages): messages for messages in conversations}
    return pl.DataFrame(
        [
            {"sample_id": key, "messages": by_id[key], "n_rows": 1, "origins": [{"source": "s", "file": "f", "row": i}]}
            for i, key in enumerate(sorted(by_id), 1)
        ],
        schema=SAMPLES,
    )


def _cut(messages: list[dict[str, str]], tokenizer: Any, cut: int) -> list[dict[str, str]]:
    """The prompt to three quarters of `cut` tokens, the response to what that leaves."""
    prompt, used = _head(messages[0]["content"], tokenizer, cut * 3 // 4)
    answer, _ = _head(messages[1]["content"], tokenizer, cut - used)
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _head(text: str, tokenizer: Any, tokens: int) -> tuple[str, int]:
    encoded = tokenizer(text[: 16 * tokens], add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    if len(offsets) <= tokens:
        return text[: 16 * tokens].rstrip(), len(offsets)
    return text[: offsets[tokens][0]].rstrip(), tokens


def _vectors(prompts: list[str]) -> np.ndarray:
    """Words hashed into BUCKETS, √count · idf: float32 [n, BUCKETS]; a prompt without words is NaN."""
    counts = [Counter(zlib.crc32(w.encode()) % BUCKETS for w in re.findall(r"\w+", p.lower())) for p in prompts]
    documents = Counter(bucket for count in counts for bucket in count)
    vectors = np.zeros((len(prompts), BUCKETS), dtype=np.float32)
    for row, count in enumerate(counts):
        for bucket, times in count.items():
            vectors[row, bucket] = math.sqrt(times) * math.log(1 + len(prompts) / documents[bucket])
    vectors[~vectors.any(axis=1)] = np.nan
    return vectors


def _components(pairs: pl.DataFrame, rows: int, seed: int) -> list[int]:
    """Positions, ascending, of `rows` rows that are whole components of the graph, drawn at random."""
    row_of = {key: i for i, key in enumerate(pairs["sample_id"])}
    root = list(range(pairs.height))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, shot in enumerate(pairs["shot_id"]):
        if shot is not None:
            root[top(i)] = top(row_of[shot])
    members = defaultdict(list)
    for i in range(pairs.height):
        members[top(i)].append(i)
    groups = [group for group in members.values() if len(group) > 1]
    random.Random(seed).shuffle(groups)
    chosen: list[int] = []
    for group in groups:
        left = rows - len(chosen) - len(group)
        if left == 0 or left > 1:  # no component is of one row
            chosen += group
    if len(chosen) < rows:
        raise SystemExit(f"the corpora give {len(chosen)} rows in whole components, not {rows}: ask for fewer")
    return sorted(chosen)


def save_model(folder: Path, rows: Rows, vocabulary: int) -> Path:
    """A random Llama (6 layers, hidden 384) with spread logits, and the tokenizer, in `folder`.

    The tokenizer's ids lie below `vocabulary`, which is the size of the embedding and of the output layer.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        max_position_embeddings=rows.window,
        initializer_range=0.1,  # at the usual 0.02 every entropy is ln V
        tie_word_embeddings=False,
        bos_token_id=rows.tokenizer.bos_token_id,
        eos_token_id=rows.tokenizer.eos_token_id,
        pad_token_id=rows.tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    rows.tokenizer.save_pretrained(folder)
    return folder
