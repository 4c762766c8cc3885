"""What the pool shares with eval sources: such rows would make a trial measure memory, so they are held out.

A sample of the pool is held out, by the first that holds, when
  1. an eval or target source holds it too (the same id);
  2. its prompt is that of an eval sample: all text in front of the last response;
  3. it shares WORDS words in a row with the prompt or the response of an eval sample. This is the rule by which GPT-3's
     training data was filtered (arXiv 2005.14165, appendix C), which ignored sequences found in more than 10 documents;
     here none is ignored, so that the answer for a row depends on that row alone.
Texts are compared as words: NFKC, casefolded, everything but letters and digits taken for a space. System prompts do
not count, for whole datasets share one; nor do calls and definitions of tools. A text of fewer words than WORDS is
compared as a prompt only.

Word sequences are compared as 64-bit hashes in one pass over the pool, and every hit word by word. [ours]
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from dselect_core.corpus.sample import conform_samples
from dselect_core.select.eligibility import NEAR_DUPLICATE

WORDS = 13
"""Words in a row that two texts must share."""

REVISION = 1
"""Goes up when the rule finds other rows, or says another reason."""

HELD_OUT = "held out: "
"""How every reason of `reasons` begins."""

SCHEMA = {"sample_id": pl.String(), "reason": pl.String()}

_WORD = re.compile(r"[^\W_]+")
_BLOCK = 8192  # rows of the pool at a time: bounds the memory
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word of a sequence drops out of its hash
_TURN = pl.element().struct
_TEXT = pl.concat_str(_TURN.field("reasoning_content"), _TURN.field("content"), separator="\n", ignore_nulls=True)
_TEXTS = pl.col("messages").list.eval(pl.when(_TURN.field("role") != "system").then(_TEXT))


class EvalSamples(NamedTuple):
    """A source that is not chosen from. samples: a SAMPLES frame; is_eval: not a target, so its texts count too."""

    name: str
    samples: pl.DataFrame
    is_eval: bool = True


class _Owner(NamedTuple):
    """The eval sample that a text is of."""

    source: str
    sample_id: str

    def __str__(self) -> str:
        return f"(sample {self.sample_id[:12]} of {self.source})"


class EvalTexts:
    """The samples of eval and target sources, as the pool is compared with them."""

    def __init__(self, sources: Iterable[EvalSamples]) -> None:
        self._ids: dict[str, str] = {}
        self._prompts: dict[str, _Owner] = {}
        self._owners: list[_Owner] = []  # of each text with sequences, in the order of source and id
        self._texts: list[list[str]] = []
        for source in sorted(sources, key=lambda source: (not source.is_eval, source.name)):
            kind = "an eval" if source.is_eval else "a target"
            for sample_id in source.samples["sample_id"]:
                self._ids.setdefault(sample_id, f"{HELD_OUT}it is a sample of {kind} source ({source.name})")
            if source.is_eval:
                self._add_texts(source)
        rows, self._starts, hashes = _sequences(pl.Series([" ".join(words) for words in self._texts], dtype=pl.String))
        by_hash = np.argsort(hashes, kind="stable")
        self._hashes, self._rows, self._starts = hashes[by_hash], rows[by_hash], self._starts[by_hash]

    def _add_texts(self, source: EvalSamples) -> None:
        for sample_id, prompt, words_of_prompt, words_of_response in _texts(source.samples.sort("sample_id")):
            owner = _Owner(source.name, sample_id)
            self._prompts.setdefault(prompt, owner)
            for words in (words_of_prompt, words_of_response):
                if len(words) >= WORDS:
                    self._owners.append(owner)
                    self._texts.append(words)

    def reasons(self, pool: pl.DataFrame) -> pl.DataFrame:
        """SCHEMA: the samples of the pool that are held out, by id, each with the reason. pool: a SAMPLES frame."""
        found: list[tuple[str, str]] = []
        for block in pool.sort("sample_id").iter_slices(_BLOCK):
            found += self._reasons_of_block(block)
        return pl.DataFrame(found, schema=SCHEMA, orient="row")

    def _reasons_of_block(self, block: pl.DataFrame) -> Iterator[tuple[str, str]]:
        samples = list(_texts(block))
        conversations = [[*prompt, *response] for _, _, prompt, response in samples]
        shared = self._shared_sequences(conversations)
        for row, (sample_id, prompt, *_) in enumerate(samples):
            if sample_id in self._ids:
                yield sample_id, self._ids[sample_id]
            elif prompt in self._prompts:
                yield sample_id, f"{HELD_OUT}its prompt is that of an eval sample {self._prompts[prompt]}"
            elif row in shared:
                owner = self._owners[shared[row]]
                yield sample_id, f"{HELD_OUT}shares {WORDS} words in a row with an eval sample {owner}"

    def _shared_sequences(self, conversations: list[list[str]]) -> dict[int, int]:
        """{row: the first eval text that it shares a sequence with}."""
        if not len(self._hashes):
            return {}
        rows, starts, hashes = _sequences(pl.Series([" ".join(words) for words in conversations], dtype=pl.String))
        first = np.searchsorted(self._hashes, hashes)
        hits = np.flatnonzero(self._hashes[np.minimum(first, len(self._hashes) - 1)] == hashes)
        shared: dict[int, int] = {}
        for hit in hits:
            row, start = int(rows[hit]), int(starts[hit])
            words = conversations[row][start : start + WORDS]
            for place in range(int(first[hit]), len(self._hashes)):
                text, begin = int(self._rows[place]), int(self._starts[place])
                # Equal hashes stand by text, so the first equal one is the first text that has these words.
                if self._hashes[place] != hashes[hit] or text >= shared.get(row, len(self._texts)):
                    break
                if self._texts[text][begin : begin + WORDS] == words:
                    shared[row] = text
                    break
        return shared


def normalised_words(text: str) -> list[str]:
    """The words that texts are compared by."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def short_reason(reason: str) -> str:
    """A reason without the sample and the source that it names, to count by."""
    return reason.split(" (", 1)[0] if reason.startswith((HELD_OUT, NEAR_DUPLICATE)) else reason


def source_of_reason(reason: str) -> str:
    """The eval or target source that a reason names."""
    return reason.split(" (", 1)[1].removesuffix(")").rsplit(" ", 1)[-1]


def _texts(samples: pl.DataFrame) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(sample_id, prompt to compare as a whole, words of the prompt, words of the response), in the order of rows."""
    texts = conform_samples(samples).select("sample_id", texts=_TEXTS)
    for sample_id, turns in texts.iter_rows():
        prompt = "\n".join(text for text in turns[:-1] if text)
        words = normalised_words(prompt)
        # A prompt of signs alone has no words; as an empty text it would equal every other.
        whole = " ".join(words) or f"\n{' '.join(unicodedata.normalize('NFKC', prompt).split())}"
        yield sample_id, whole, words, normalised_words(turns[-1] or "")


def _sequences(texts: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, first word, hash) of every WORDS words in a row of each text, in order. texts: words with a space between.

    int64, int64, uint64.
    """
    words = texts.str.split(" ")
    counts = words.list.len().to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    total = len(rows) - WORDS + 1
    if total <= 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64)
    starts = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    of_words = words.explode(keep_nulls=True, empty_as_null=True).hash().to_numpy()
    hashes = np.zeros(total, np.uint64)
    for place in range(WORDS):
        hashes *= _FACTOR
        hashes += of_words[place : place + total]
    whole = rows[:total] == rows[WORDS - 1 :]
    return rows[:total][whole], starts[:total][whole], hashes[whole]
