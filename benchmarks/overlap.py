"""How long the pool takes to be compared with eval samples (dselect_core/pool/overlap.py), on one core.

    python benchmarks/overlap.py --rows 30000 --eval 2000 --words 210

The texts are words drawn at random, so nearly nothing is shared: the price is that of a pool that is clean.
"""

import argparse
import random
import time

import polars as pl

from dselect_core.corpus.sample import MESSAGES, sample_id
from dselect_core.pool.overlap import EvalSamples, EvalTexts


def samples(rng: random.Random, rows: int, words: int) -> pl.DataFrame:
    """A SAMPLES frame of random words, three in ten of them in the prompt."""
    vocabulary = [f"word{i}" for i in range(20_000)]
    messages = []
    for _ in range(rows):
        text = rng.choices(vocabulary, k=words)
        prompt, response = " ".join(text[: words * 3 // 10]), " ".join(text[words * 3 // 10 :])
        messages.append([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])
    ids = [sample_id(of) for of in messages]
    return pl.DataFrame({"sample_id": ids, "messages": pl.Series(messages, dtype=MESSAGES)}).sort("sample_id")


def main() -> None:
    """Print the seconds of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--eval", type=int, default=2_000)
    parser.add_argument("--words", type=int, default=210)
    given = parser.parse_args()
    rng = random.Random(0)
    pool, held_out = samples(rng, given.rows, given.words), samples(rng, given.eval, given.words)
    started = time.perf_counter()
    texts = EvalTexts([EvalSamples("eval", held_out)])
    prepared = time.perf_counter()
    found = texts.reasons(pool)
    ended = time.perf_counter()
    print(
        f"{given.eval:,} eval samples prepared in {prepared - started:.1f} s; {given.rows:,} samples compared in "
        f"{ended - prepared:.1f} s; {found.height} held out"
    )


if __name__ == "__main__":
    main()
