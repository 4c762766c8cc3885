"""What scoring costs with a real model: what a command runs, in each numeric type, against two loops in float32.

    DSELECT_CORPORA=<folder> python benchmarks/scoring.py --model <folder> [--rows 48] [--threads 1] [--repeats 3]

Ours is the graph's own path: one zero-shot pass for difficulty, both vectors and neurons (forward_scores), then the
one-shot pass behind the shots (miwv.compute), rendering included; loading, storage and Dagster are not. Beside it
`score_together`, which no command uses: it needs the shots before the model runs. The loops are given token ids: row by
row, and in padded batches sorted by length, which take the difficulty and both losses alone.

Shares of the machine: the matrix products that cannot be left out (scoring.py) at the best rate of the type.
Rows as in scoring.py, with the model's own tokenizer. Trade-off: with 48 rows a figure repeats within some 10%.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from measure import interleaved, ratio, table
from score_together import score_together
from scoring_baselines import Sequence, two_pass
from scoring_rows import Rows, take
from scoring_work import matrix_rate, work

from dselect_core.api import load_model
from dselect_core.lm.load import LanguageModel
from dselect_core.scores import miwv
from dselect_core.scores.forward_scores import forward_scores
from dselect_core.settings.settings import Settings

SETTINGS = Settings(sources={}, coresets={})
KINDS = frozenset({"difficulty", "embeddings", "prompts", "activations"})
PADDED = 8


def graph(lm: LanguageModel, rows: Rows) -> float:
    """The mean MIWV, as the assets compute it."""
    parts = list(forward_scores(lm, rows.samples, KINDS, SETTINGS))
    losses = pl.concat([part["difficulty"] for part in parts]).select("sample_id", zero_shot_loss="loss")
    frames = list(miwv.compute(lm, rows.samples, rows.shots.join(losses, on="sample_id")))
    return float(pl.concat(frames)["miwv"].mean())  # type: ignore[arg-type]


def together(lm: LanguageModel, rows: Rows) -> float:
    """The mean MIWV, of one pass."""
    parts = list(score_together(lm, rows.samples, rows.shots, SETTINGS, KINDS | {"miwv"}))
    return float(pl.concat([part["miwv"] for part in parts if "miwv" in part])["miwv"].mean())  # type: ignore[arg-type]


def loop(model: Any, zero: list[Sequence], one: list[Sequence]) -> float:
    """The mean MIWV, row by row."""
    scores = two_pass(model, zero, one, SETTINGS.activations.top_share)
    return float(np.subtract(scores.one_shot_loss, scores.loss).mean())


@torch.inference_mode()
def padded_loop(model: Any, zero: list[Sequence], one: list[Sequence]) -> float:
    """The mean MIWV, in batches of rows of like length, padded on the right."""
    losses = {id(row): math.nan for row in (*zero, *one)}
    for rows in (zero, one):
        by_length = sorted(rows, key=lambda row: -row.ids.shape[1])
        for start in range(0, len(rows), PADDED):
            batch = by_length[start : start + PADDED]
            longest = batch[0].ids.shape[1]
            ids = torch.cat([F.pad(row.ids, (0, longest - row.ids.shape[1])) for row in batch])
            mask = torch.cat([F.pad(torch.ones_like(row.ids), (0, longest - row.ids.shape[1])) for row in batch])
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for row, own in zip(batch, logits, strict=True):
                losses[id(row)] = F.cross_entropy(own[row.scored - 1], row.ids[0, row.scored]).item()
    return float(np.mean([losses[id(b)] - losses[id(a)] for a, b in zip(zero, one, strict=True)]))


def compare(given: Any) -> None:
    """Print the table. given: the options of scoring.py."""
    from transformers import AutoTokenizer

    rows = take(given.corpora, given.rows, given.cut, tokenizer=AutoTokenizer.from_pretrained(given.model))
    models = {
        dtype: load_model(given.model, dtype=dtype, max_length=rows.window)
        for dtype in ("float32", "bf16-mixed", "bfloat16")
    }
    exact = models["float32"]
    model, todo = exact.forward.model, work(exact, rows)
    sides: dict[str, Callable[[], float]] = {
        "two-pass loop, row by row, float32": lambda: loop(model, todo.zero, todo.one),
        f"two-pass loop, {PADDED} padded, float32": lambda: padded_loop(model, todo.zero, todo.one),
    }
    for dtype, lm in models.items():
        sides[f"the graph, {dtype}"] = lambda lm=lm: graph(lm, rows)  # type: ignore[misc]
        sides[f"score_together, {dtype}"] = lambda lm=lm: together(lm, rows)  # type: ignore[misc]
    measured = interleaved(sides, given.repeats, warm_up=False)
    base = measured["two-pass loop, row by row, float32"]
    if (gap := abs(measured["the graph, float32"].result - base.result)) > 1e-4:
        raise SystemExit(f"ours and the loop differ by {gap:.1e} nats in the mean MIWV")
    flops = todo.flops(model)
    rates = {dtype: matrix_rate(model, dtype, time.process_time) for dtype in (torch.float32, torch.bfloat16)}
    print(
        f"{rows.samples.height} rows, {todo.two_pass_tokens:,} tokens in two passes, {todo.tree_tokens:,} with shared "
        f"shots; {flops / 1e12:.2f} TFLOP; "
        + ", ".join(
            f"{str(dtype).removeprefix('torch.')} {rate / 1e9:.0f} GFLOP a CPU second" for dtype, rate in rates.items()
        )
    )
    lines = []
    for name, side in measured.items():
        rate = rates[torch.float32 if name.endswith("float32") else torch.bfloat16]
        share = flops / rate / side.median_cpu
        lines.append(
            [
                name,
                f"{side.median_cpu:.1f}",
                f"{ratio(base, side, 'cpu'):.2f}",
                f"{share:.0%}",
                f"{max(side.peak):.0f}",
                f"{side.result:+.4f}",
            ]
        )
    print(table(["side", "CPU s", "times faster", "of the floor", "peak MB", "mean MIWV"], lines), flush=True)
