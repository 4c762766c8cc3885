"""What scoring costs: all of UPD, MIWV, loss, entropy, both embeddings and activations by us, against row-by-row loops
and the peers, on the same random Llama and the same real rows.

    DSELECT_CORPORA=<folder> ODA_DATASCORER=<checkout> SUPERFILTERING=<checkout> CHERRY_LLM=<checkout> \\
        python benchmarks/scoring.py [--rows N] [--vocabulary V …] [--threads T] [--repeats R] [--profile]

Sides run interleaved in one process; figures are medians, ratios the medians of those within a repetition. Before any
is printed, outputs are compared: ours with the loops' in every score, with ODA-DataScorer's UPD, and with
Superfiltering's conditional loss; a difference above the bound ends the run. What stands in whose favour is in
scoring_baselines.py and scoring_peers.py: ours renders and tokenises within its time, the loops do not.

**Share of what the machine allows**: the work that must be done is the body at each zero-shot token once and at each
continuation behind a shot once (the shot itself is another row's zero-shot text), and the output layer at the response
positions of both; attention is left out. Its time is what the best measured float32 matrix product of the same run, on
the same threads, would take. The share is that time by our wall time.

IFD needs two losses: the response's behind its prompt is among ours; alone, which Superfiltering and Cherry_LLM also
forward, it is not. A table of 256 rows in five repetitions takes an hour or so at 32k and several at 152k.

With --model a real model is measured instead, in what a command runs (scoring_model.py).

Random weights: seconds are those of a trained model of the shape, and score ranges are not.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # peers would take a GPU that they find
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import polars as pl
import scoring_model
import torch
from measure import Side, interleaved, ratio, table
from score_together import score_together
from scoring_baselines import Scores, four_pass, two_pass
from scoring_peers import Bed, Peer, oda_padded, present
from scoring_rows import Rows, save_model, take
from scoring_work import Work, matrix_rate, work

from dselect_core.lm.load import LanguageModel, load, quiet_transformers
from dselect_core.settings.model_spec import ModelSpec
from dselect_core.settings.settings import Settings

WANT = frozenset({"difficulty", "embeddings", "prompts", "activations", "miwv"})
SETTINGS = Settings(sources={}, coresets={})
SAME = 2e-5  # nats, or 1: a score may differ by float32 noise
SAME_VECTOR = 1e-4
SAME_NEURONS = 0.999  # values on the edge of the top share may trade places
SAME_AS_ODA = 1e-4
AIMS = {"two-pass loop": 2.0, "four-pass loop": 3.3, "ODA-DataScorer, UPD + MIWV": 4.0}
AIM_SHARE = 0.6
PADDED = 4  # rows of a batch; 8 of them at 152k would take gigabytes


@dataclass(frozen=True)
class Ran:
    """What one side gave in one repetition, and the tokens that it forwarded."""

    result: Any
    tokens: int


def ours(lm: LanguageModel, rows: Rows) -> dict[str, pl.DataFrame]:
    """Every score, a frame a kind, ascending by id."""
    return _by_kind(score_together(lm, rows.samples, rows.shots, SETTINGS, WANT))


def _by_kind(parts: Iterable[dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    found: dict[str, list[pl.DataFrame]] = {}
    for part in parts:
        for kind, frame in part.items():
            found.setdefault(kind, []).append(frame)
    return {kind: pl.concat(frames).sort("sample_id") for kind, frames in found.items()}


def same_as_loop(found: dict[str, pl.DataFrame], loop: Scores) -> list[str]:
    """A line for the largest difference of each score; ends the run where one is above its bound."""
    difficulty, shots = found["difficulty"], found["miwv"]
    gaps = {
        "upd": _gap(difficulty["upd"], loop.upd),
        "loss": _gap(difficulty["loss"], loop.loss),
        "entropy": _gap(difficulty["entropy"], loop.entropy),
        "one_shot_loss": _gap(shots["one_shot_loss"], loop.one_shot_loss),
        "miwv": _gap(shots["miwv"], np.subtract(loop.one_shot_loss, loop.loss)),
    }
    vectors = {
        "embedding": _gap(found["embeddings"]["embedding"], loop.state),
        "prompt_embedding": _gap(found["prompts"]["prompt_embedding"], loop.prompt_state),
    }
    pairs = zip(found["activations"]["neurons"].to_numpy(), loop.neurons, strict=True)
    shared = statistics.fmean(len(np.intersect1d(own, theirs)) / len(theirs) for own, theirs in pairs)
    bounds = [
        *((name, gap, SAME) for name, gap in gaps.items()),
        *((n, gap, SAME_VECTOR) for n, gap in vectors.items()),
    ]
    if wrong := [f"{name} {gap:.1e}" for name, gap, bound in bounds if not gap <= bound]:
        raise SystemExit(f"ours and the loop differ: {', '.join(wrong)}")
    if shared < SAME_NEURONS:
        raise SystemExit(f"ours and the loop share {shared:.2%} of the active neurons")
    return [", ".join(f"{name} {gap:.1e}" for name, gap, _ in bounds) + f"; active neurons in common {shared:.3%}"]


def _gap(own: pl.Series, theirs: Any) -> float:
    return float(np.abs(own.to_numpy() - np.asarray(theirs)).max())


def same_as_peers(
    found: dict[str, pl.DataFrame], peers: list[Peer], sides: dict[str, Side], bed: Bed, todo: Work
) -> list[str]:
    """As `same_as_loop`, for what peers give of the same token ids."""
    lines = []
    own = found["difficulty"]
    for peer in peers:
        given = sides[peer.name].result.result
        if "upd" in given:
            joint = bed.rows.tokenizer(
                [p + a for p, (_, a) in zip(bed.prompts, bed.rows.pairs, strict=True)], add_special_tokens=False
            )["input_ids"]
            same = np.array([ids == row.ids[0].tolist() for ids, row in zip(joint, todo.zero, strict=True)])
            for what, values in (
                ("one at a time", given["upd"]),
                (f"right-padded, {PADDED} at a time", oda_padded(bed, PADDED)),
            ):
                gap = float(np.abs(own["upd"].to_numpy() - np.array(values))[same].max())
                lines.append(f"UPD of {same.sum()} rows, {peer.name.split(',')[0]}'s ({what}): largest gap {gap:.1e}")
                if not gap <= SAME_AS_ODA:
                    raise SystemExit(lines[-1])
        if "loss" in given:
            gap = _gap(own["loss"], given["loss"])
            lines.append(f"conditional loss, {peer.name.split(',')[0]}'s: largest gap {gap:.1e}")
            if not gap <= SAME_AS_ODA:
                raise SystemExit(lines[-1])
    return lines


def counted(model: Any, run: Callable[[], Any]) -> Callable[[], Ran]:
    """`run` with a count of the tokens that entered the embedding layer."""

    def counting() -> Ran:
        seen = [0]

        def hook(_module: Any, given: tuple[Any, ...]) -> None:
            seen[0] += given[0].numel()

        held = model.get_input_embeddings().register_forward_pre_hook(hook)
        try:
            return Ran(run(), seen[0])
        finally:
            held.remove()

    return counting


def compare(rows: Rows, vocabulary: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(Path(scratch), rows, vocabulary)
        lm = load(str(folder), ModelSpec(path=str(folder), max_length=rows.window, device="cpu"), "benchmark")
        model: Any = lm.forward.model
        prompts = [lm.renderer.text(messages[:1], True) for messages in rows.samples["messages"].to_list()]
        bed, todo = Bed(folder, model, rows, prompts), work(lm, rows)
        peers = present(bed)

        def our_side() -> Ran:
            before = lm.forward.tokens
            result = ours(lm, rows)
            return Ran(result, lm.forward.tokens - before)

        share = SETTINGS.activations.top_share
        runs: dict[str, Callable[[], Ran]] = {
            "ours, all scores": our_side,
            "two-pass loop": counted(model, lambda: two_pass(model, todo.zero, todo.one, share)),
            "four-pass loop": counted(model, lambda: four_pass(model, todo.zero, todo.one, share)),
            **{peer.name: counted(model, peer.run) for peer in peers},
        }
        rate = matrix_rate(model)
        our_side()  # what compiles on first use
        two_pass(model, todo.zero[:2], todo.one[:2], share)
        sides = interleaved(runs, repeats, warm_up=False)
        rate = max(rate, matrix_rate(model))

        own = sides["ours, all scores"]
        found = own.result.result
        for loop in ("two-pass loop", "four-pass loop"):
            same = same_as_loop(found, sides[loop].result.result)
        print(f"\n**Vocabulary {vocabulary:,}**\n")
        print("\n".join([f"Largest gap to the loops: {same[0]}", *same_as_peers(found, peers, sides, bed, todo)]), "\n")
        print(_table(sides, own, peers), "\n")
        ideal = todo.flops(model) / rate
        reached = ideal / own.median_wall
        by_cpu = ideal * torch.get_num_threads() / own.median_cpu
        spread = np.ptp(own.wall) / own.median_wall
        busy = statistics.median(f for side in sides.values() for f in side.foreign)
        print(
            f"Must be done: {todo.flops(model) / 1e12:.2f} TFLOP ({todo.tree_tokens:,} tokens, {todo.scored:,} scored "
            f"positions) at {rate / 1e9:.0f} GFLOP/s = {ideal:.2f} s; ours {own.median_wall:.2f} s: {reached:.0%} "
            f"(aim {AIM_SHARE:.0%}; of our CPU seconds {by_cpu:.0%}). Tokens forwarded by two passes: "
            f"{todo.two_pass_tokens:,}; by us {own.result.tokens / todo.two_pass_tokens:.3f} of that. Our wall seconds "
            f"spread over {spread:.0%}; other processes used {busy:.1f} cores."
        )
        missed = [f"share {reached:.0%} < {AIM_SHARE:.0%}"] * (reached < AIM_SHARE)
        for name, side in sides.items():
            times = ratio(side, own, "cpu")
            missed += [f"{name} {times:.2f} < {AIMS.get(name, 0)}"] * (times < AIMS.get(name, 0))
            missed += [f"memory of {name}"] * (max(side.peak) < max(own.peak))
        print("Aims: all reached." if not missed else f"Aims missed: {'; '.join(missed)}.", flush=True)


_PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "exponentials and sums over the vocabulary": ("exp", "logsumexp", "log_softmax", "softmax", "amax", "maximum"),
}


def profile(rows: Rows, vocabulary: int) -> None:
    """Where our time goes, by torch's profiler, which does not see Python: rendering, tokenising, frames."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(Path(scratch), rows, vocabulary)
        lm = load(str(folder), ModelSpec(path=str(folder), max_length=rows.window, device="cpu"), "benchmark")
        ours(lm, rows)
        cpu = time.process_time()
        ours(lm, rows)
        cpu = time.process_time() - cpu
        with profiler(activities=[ProfilerActivity.CPU]) as seen:
            ours(lm, rows)
    spent = dict.fromkeys((*_PARTS, "other tensor operations"), 0.0)
    for event in seen.key_averages():
        name = event.key.removeprefix("aten::").strip("_")
        part = next((part for part, names in _PARTS.items() if name.startswith(names)), "other tensor operations")
        spent[part] += event.self_cpu_time_total
    print(f"\n**Vocabulary {vocabulary:,}**: {cpu:.2f} CPU s in all; of the time in tensor operations:\n")
    whole = sum(spent.values())
    print(table(["part", "share"], [[name, f"{part / whole:.0%}"] for name, part in spent.items()]), flush=True)


def _table(sides: dict[str, Side], own: Side, peers: list[Peer]) -> str:
    versions = {peer.name: f" ({peer.version})" for peer in peers}
    return table(
        ["side", "CPU s", "wall s", "CPU / ours", "wall / ours", "tokens forwarded", "peak MB"],
        [
            [
                name + versions.get(name, ""),
                f"{side.median_cpu:.2f}",
                f"{side.median_wall:.2f}",
                f"{ratio(side, own, 'cpu'):.2f}",
                f"{ratio(side, own, 'wall'):.2f}",
                f"{side.result.tokens:,}",
                f"{max(side.peak):.0f}",
            ]
            for name, side in sides.items()
        ],
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--corpora", type=Path, default=os.environ.get("DSELECT_CORPORA"))
    arguments.add_argument(
        "--model", type=Path, help="a folder of a real model, which is measured in place of all else"
    )
    arguments.add_argument("--rows", type=int)
    arguments.add_argument("--cut", type=int, default=512, help="tokens after which a row is cut")
    arguments.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 151_936])
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--profile", action="store_true", help="where our time goes, instead of the comparison")
    given = arguments.parse_args()
    if given.corpora is None:
        raise SystemExit("name a folder of corpora: --corpora, or DSELECT_CORPORA")
    torch.set_num_threads(given.threads)
    sys.dont_write_bytecode = True  # into peers' checkouts
    quiet_transformers()
    given.rows = given.rows or (48 if given.model else 256)
    if given.model is not None:
        scoring_model.compare(given)
        return
    rows = take(given.corpora, given.rows, given.cut)
    lengths = [[len(rows.tokenizer(text)["input_ids"]) for text in pair] for pair in rows.pairs]
    prompt, answer = np.array(lengths).T
    print(
        f"{given.rows} rows, {given.threads} threads, torch {torch.__version__}; prompt {prompt.mean():.0f} tokens "
        f"(largest {prompt.max()}), response {answer.mean():.0f} (largest {answer.max()}); "
        f"{rows.shared:.0%} are somebody's shot (of the pool {rows.pool_shared:.0%})",
        flush=True,
    )
    for vocabulary in given.vocabulary:
        if given.profile:
            profile(rows, vocabulary)
            continue
        compare(rows, vocabulary, given.repeats)


if __name__ == "__main__":
    main()
