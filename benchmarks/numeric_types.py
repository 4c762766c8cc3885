"""What a faster numeric type costs in agreement: the same rows scored in each, and the coresets that follow.

    python benchmarks/numeric_types.py --corpora <folder> --model <folder> [--rows 1000] [--types float32 bfloat16 …]

Real rows of at most 160 tokens, in equal shares of the corpora (evidence_rows.py); scores and coresets by the functions
that a command runs. The first type is what the others are held against: the rank correlation of each score over all
rows, and the share of each coreset that the other type chose too. CPU seconds are of one pass each, loading left out,
so their ratio is within some 10%.

Trade-off: one model and one set of rows. `dtype: auto` follows from what this printed (docs/performance.md).
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import polars as pl
import torch
from evidence_rows import Sizes, prepare_rows
from measure import table
from transformers import AutoTokenizer

from dselect_core.api import choose, load_model, make_pool, read_rows, score

KINDS = ("difficulty", "embeddings", "prompts", "activations", "grades", "miwv")
COLUMNS = (("difficulty", "upd"), ("difficulty", "loss"), ("miwv", "miwv"))
STRATEGIES = ("topk:upd", "topk:loss", "miwv", "d3", "mads", "kcenter", "facility-location")


def real_rows(corpora: Path, model: Path, rows: int, longest: int) -> pl.DataFrame:
    """SAMPLES of some `rows` rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "rows"
        prepare_rows(corpora, AutoTokenizer.from_pretrained(model), Sizes(longest=longest, pool=rows), folder)
        return read_rows(f"{folder}/pool-*.jsonl").samples


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--corpora", type=Path, required=True)
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--rows", type=int, default=1000)
    arguments.add_argument("--longest", type=int, default=160, help="tokens of a row")
    arguments.add_argument("--types", nargs="+", default=["float32", "bf16-mixed", "bfloat16"])
    arguments.add_argument("--budgets", nargs="+", default=["5%", "10%"])
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    samples = real_rows(given.corpora, given.model, given.rows, given.longest)
    print(f"{samples.height} rows, {given.threads} threads, torch {torch.__version__}", flush=True)
    reference: dict[str, pl.DataFrame] = {}
    coresets: dict[tuple[str, str], set[str]] = {}
    ranks, overlaps, base = [], [], 0.0
    for dtype in given.types:
        lm = load_model(given.model, dtype=dtype)
        cpu = time.process_time()
        scores = score(samples, KINDS, lm)
        cpu = time.process_time() - cpu
        reference, base = reference or scores, base or cpu
        correlations = [_spearman(reference[kind][name], scores[kind][name]) for kind, name in COLUMNS]
        seconds = [f"{cpu:.0f}", f"{base / cpu:.2f}", f"{lm.forward.tokens / cpu:.0f}"]
        ranks.append([dtype, *seconds, *(f"{value:.4f}" for value in correlations)])
        pool = make_pool(scores)
        for budget in given.budgets:
            shares = []
            for strategy in STRATEGIES:
                chosen = set(choose(pool, strategy, budget).order["sample_id"])
                first = coresets.setdefault((strategy, budget), chosen)
                shares.append(f"{len(first & chosen) / len(first):.0%}")
            overlaps.append([dtype, budget, *shares])
        names = ["type", "CPU s", "times faster", "tokens a CPU s", *(f"Spearman {name}" for _, name in COLUMNS)]
        print(table(names, ranks), "\n\n", table(["type", "budget", *STRATEGIES], overlaps), sep="", flush=True)


def _spearman(one: pl.Series, other: pl.Series) -> float:
    pair = pl.DataFrame({"one": one, "other": other}).drop_nulls()
    return float(pair.select(pl.corr("one", "other", method="spearman")).item())


if __name__ == "__main__":
    sys.exit(main())
