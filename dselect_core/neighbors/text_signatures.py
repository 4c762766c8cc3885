"""MinHash signatures of whole samples (Broder 1997), by datasketch: what share of their words in a row two texts have.

A sample is the set of all SHINGLE words in a row of its turns, compared as overlap.py compares words; system prompts
and definitions of tools do not count, for whole datasets share them. The share of equal values of two signatures
estimates the Jaccard index of the two sets, with a standard error of 0.035 at 0.8.
A text of fewer words is one shingle.

Signatures are kept under the ids of their samples, so that a new sample costs its own, and another threshold none.
"""

from collections.abc import Iterable

import numpy as np
import polars as pl
from upath import UPath

from dselect_core.corpus.sample import conform_samples
from dselect_core.errors import DselectError
from dselect_core.pool.overlap import normalised_words
from dselect_core.stop import raise_if_stopped
from dselect_core.storage.files import read_with_metadata, write_parquet

REVISION = 1
"""Goes up when a text has another signature."""

VALUES = 128
"""Values of a signature."""

SHINGLE = 5
"""Words in a row."""

RECALL = 0.99
"""Of pairs exactly as alike as the threshold, the share that is compared at least."""

_SCHEMA: dict[str, pl.DataType] = {"sample_id": pl.String(), "signature": pl.Array(pl.UInt32(), VALUES)}
_BLOCK = 4096
_TURN = pl.element().struct
_TEXT = pl.concat_str(
    *(_TURN.field(name) for name in ("reasoning_content", "content", "tool_calls")), separator="\n", ignore_nulls=True
)
_TEXTS = pl.col("messages").list.eval(pl.when(_TURN.field("role") != "system").then(_TEXT)).list.drop_nulls()


def signatures(samples: pl.DataFrame) -> pl.DataFrame:
    """sample_id and signature of a SAMPLES frame, in its order."""
    from datasketch import MinHash

    frames = [pl.DataFrame(schema=_SCHEMA)]
    for block in samples.iter_slices(_BLOCK):
        raise_if_stopped()
        texts = conform_samples(block).select(_TEXTS.list.join("\n")).to_series()
        hashed = MinHash.generator((_shingles(text) for text in texts), num_perm=VALUES, seed=1, scheme="affine32")
        values = np.array([each.hashvalues for each in hashed], np.uint32)
        frames.append(pl.DataFrame({"sample_id": block["sample_id"], "signature": values}, schema=_SCHEMA))
    return pl.concat(frames)


def kept_signatures(path: UPath) -> pl.DataFrame:
    """The signatures that were made last; none where there are none of this revision."""
    try:
        table, metadata = read_with_metadata(path)
    except (FileNotFoundError, DselectError):
        return pl.DataFrame(schema=_SCHEMA)
    return table if metadata.get("revision") == str(REVISION) else pl.DataFrame(schema=_SCHEMA)


def update_signatures(path: UPath, ids: pl.DataFrame, texts: Iterable[pl.DataFrame] | None) -> pl.DataFrame:
    """Signatures of `ids`, those that are kept at `path` and those made of `texts`, SAMPLES frames; kept from now on.

    A sample may stand in several frames.
    """
    frames = [kept_signatures(path).join(ids, on="sample_id", how="semi")]
    for samples in texts or ():
        known = pl.concat([frame.select("sample_id") for frame in frames])
        frames.append(signatures(samples.join(ids, on="sample_id", how="semi").join(known, on="sample_id", how="anti")))
    table = pl.concat(frames).sort("sample_id")
    write_parquet(table, path, {"revision": str(REVISION)})
    return table


class AlikeTexts:
    """The kept ones of m samples, found by the bands of their signatures that are equal (LSH).

    A pair as alike as the threshold shares a band with a probability of RECALL at least.
    """

    def __init__(self, values: np.ndarray, threshold: float) -> None:
        """values: uint32 [m, VALUES]."""
        self._values, self._least = values, int(np.ceil(threshold * VALUES - 1e-9))
        self._buckets = buckets(values, threshold)
        self._kept: dict[tuple[int, int], list[int]] = {}

    def most_alike(self, row: int) -> tuple[int, float] | None:
        """(The most alike of the kept ones, of equals the first; the share of equal values); None where none is."""
        shared = {kept for bucket in enumerate(self._buckets[row].tolist()) for kept in self._kept.get(bucket, ())}
        others = np.array(sorted(shared), np.int64)
        equal = (self._values[others] == self._values[row]).sum(axis=1)
        if not len(others) or equal.max() < self._least:
            return None
        return int(others[equal.argmax()]), float(equal.max() / VALUES)

    def keep(self, row: int) -> None:
        """From now on others may be alike to it."""
        for bucket in enumerate(self._buckets[row].tolist()):
            self._kept.setdefault(bucket, []).append(row)


def buckets(values: np.ndarray, threshold: float) -> np.ndarray:
    """int64 [n, bands]: two signatures have one number in a column where they are equal in that band.

    values: uint32 [n, VALUES].
    """
    width = next(r for r in range(VALUES, 0, -1) if 1 - (1 - threshold**r) ** (VALUES // r) >= RECALL or r == 1)
    columns = []
    for start in range(0, VALUES - width + 1, width):
        band = np.ascontiguousarray(values[:, start : start + width]).view(f"V{4 * width}")[:, 0]
        columns.append(np.unique(band, return_inverse=True)[1].reshape(-1))
    return np.stack(columns, axis=1)


def share_a_bucket(numbers: np.ndarray) -> np.ndarray:
    """Boolean [n]: the rows of `buckets` that some other row may be alike to."""
    return np.asarray(np.any([np.bincount(column, minlength=1)[column] > 1 for column in numbers.T], axis=0))


def _shingles(text: str) -> list[bytes]:
    words = normalised_words(text)
    starts = range(max(1, len(words) - SHINGLE + 1))
    return [" ".join(words[start : start + SHINGLE]).encode() for start in starts]
