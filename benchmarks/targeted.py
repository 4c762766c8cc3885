"""targeted (RDS+) against RDS+'s own way, on the same vectors: round-robin over target examples.

    python benchmarks/targeted.py [--rows 1000000] [--width 384] [--examples 500] [--budget 10000] [--repeats 1] [--own]

RDS+'s own way is that of its code (hamishivi/automated-instruction-selection): `compute_influence_cosinesim` takes the
product of one example after the other with all rows and keeps every similarity; `get_top_influences` sorts all rows for
each example, then lets the examples take turns, and one whose next row is taken loses that turn. It keeps similarities
in Python dicts and sorts Python lists, which do not fit into memory for a million rows and 500 examples; here the same
steps are numpy arrays, in its favour. `--scripts` adds its dicts and lists as they are: for small sizes.

Where examples take turns dselect has two sides: exact, and by inverted lists, which measures its recall in that time.
`--own`: these two alone.

Vectors are clustered, and the examples are of a tenth of the clusters, so that many want the same rows. `alike`: how
many rows both have. They differ where a turn is lost, and by the rounding to dselect's grid.
"""

import argparse
from itertools import islice

import measure
import numpy as np
import polars as pl

from dselect_core.select.candidate_pool import Pool, Targets
from dselect_core.select.strategies import strategy_with_options

HEADER = ["rows", "examples", "budget", "side", "wall s", "CPU s", "peak MB", "CPU / exact", "alike"]


def draw(rows: int, width: int, examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, width] and [examples, width]."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, width), dtype=np.float32)

    def of_clusters(count: int, clusters: int) -> np.ndarray:
        vectors = random.standard_normal((count, width), dtype=np.float32)
        vectors += centres[random.integers(0, clusters, count)]
        return vectors

    return of_clusters(rows, 200), of_clusters(examples, 20)


def ours(vectors: np.ndarray, examples: np.ndarray, budget: int, options: dict[str, str]) -> list[int]:
    ids = pl.DataFrame({"sample_id": pl.int_range(len(vectors), eager=True).cast(pl.String).str.zfill(8)})
    names = pl.int_range(len(examples), eager=True).cast(pl.String).str.zfill(8)
    pool = Pool(ids, weighted_embeddings=vectors, targets=Targets.of(names, examples))
    order = strategy_with_options("targeted", options).order(pool, 0)
    rows = [pick.row for pick in islice(order, budget)]
    if facts := order.facts():
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
    return rows


def theirs(vectors: np.ndarray, examples: np.ndarray, budget: int) -> list[int]:
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    examples = examples / np.linalg.norm(examples, axis=1, keepdims=True)
    similarities = np.empty((len(examples), len(rows)), dtype=np.float32)
    for at, example in enumerate(examples):
        similarities[at] = rows @ example
    by_similarity = similarities.view(np.int32)  # in their place: one matrix fewer than theirs
    for at, of_example in enumerate(similarities):
        by_similarity[at] = np.argsort(-of_example)
    chosen: dict[int, None] = {}
    for turn in range(len(rows)):
        for row in by_similarity[:, turn].tolist():
            chosen.setdefault(row)
            if len(chosen) == budget:
                return list(chosen)
    return list(chosen)


def their_scripts(vectors: np.ndarray, examples: np.ndarray, budget: int) -> list[int]:
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    examples = examples / np.linalg.norm(examples, axis=1, keepdims=True)
    similarities = np.concatenate([(example @ rows.T)[None] for example in examples])
    influences = {at: {j: similarities[at][j].item() for j in range(len(rows))} for at in range(len(examples))}
    ranked = {at: sorted(of.items(), key=lambda pair: pair[1], reverse=True) for at, of in influences.items()}
    chosen: dict[int, None] = {}
    while len(chosen) < budget:
        for of_example in ranked.values():
            chosen.setdefault(of_example.pop(0)[0])
    return list(chosen)[:budget]


def run(
    rows: int, width: int, examples: int, budget: int, repeats: int, scripts: bool, own: bool, by: str
) -> list[list[str]]:
    """A line a side."""
    vectors, of_target = draw(rows, width, examples)
    sides = {} if own else {"RDS+'s way, in numpy": lambda: theirs(vectors, of_target, budget)}
    if scripts:
        sides["RDS+'s dicts and lists"] = lambda: their_scripts(vectors, of_target, budget)
    sides["dselect, exact"] = lambda: ours(vectors, of_target, budget, {"by": by, "search": "exact"})
    if by == "round-robin":
        sides["dselect, inverted lists"] = lambda: ours(vectors, of_target, budget, {"search": "approximate"})
    measured = measure.interleaved(sides, repeats, scripts)
    dselect = measured["dselect, exact"]
    lines = []
    for name, side in measured.items():
        took = [f"{side.median_wall:.1f}", f"{side.median_cpu:.1f}", f"{max(side.peak):,.0f}"]
        times = "" if side is dselect else f"{measure.ratio(side, dselect, 'cpu'):.1f}"
        alike = f"{len(set(side.result) & set(dselect.result)) / budget:.1%}"
        lines.append([f"{rows:,}", f"{examples:,}", f"{budget:,}", name, *took, times, alike])
    print(f"other processes used {max(max(side.foreign) for side in measured.values()):.1f} cores meanwhile")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384, help="of the vectors")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--budget", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--scripts", action="store_true", help="RDS+'s dicts and lists too; small sizes only")
    parser.add_argument("--own", action="store_true", help="the two sides of dselect alone")
    parser.add_argument("--by", choices=["round-robin", "max"], default="round-robin")
    print(measure.table(HEADER, run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
