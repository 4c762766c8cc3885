"""D3's weighted farthest-first order, whole, against the loops it is usually written as.

    python benchmarks/select_farthest.py [--large] [--profile] [--repeats N]

Data: clustered unit vectors (cluster sizes by a power law, 64 intrinsic dimensions and noise in all), weights gamma
with a coefficient of variation of 0.5. Sides: NumPy as in a textbook, the norm of all differences at every pick; NumPy
with one matrix-vector product a pick; ours. Ours is timed whole, rounding to the grid included. The loops are given
vectors that are rounded already, make a stated number of picks and are scaled to k: every pick of theirs costs the
same. All three must agree on the picks the loops made. Speed-ups are ratios within a repetition, then the median.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
from measure import interleaved, ratio, table

from dselect_core.select.farthest_first import FarthestFirst, farthest_first
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors

HEADER = [
    "n",
    "k",
    "side",
    "picks made",
    "seconds for k",
    "CPU seconds for k",
    "speed-up",
    "in passes over the data",
    "distances computed per row",
    "peak memory / embeddings",
]
_BLOCK = 65_536


def make_data(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors, float32 [n, d], and weights in steps of the score grid, int64 [n]."""
    random = np.random.default_rng(seed)
    clusters = round(n**0.5)
    shares = 1 / np.arange(1, clusters + 1)
    of = random.choice(clusters, n, p=shares / shares.sum())
    centres = random.normal(size=(clusters, 64)).astype(np.float32)
    basis = random.normal(size=(64, d)).astype(np.float32)
    vectors = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        rows = of[start : start + _BLOCK]
        inside = centres[rows] + np.float32(0.7) * random.standard_normal((len(rows), 64), dtype=np.float32)
        block = inside @ basis + np.float32(1.6) * random.standard_normal((len(rows), d), dtype=np.float32)
        vectors[start : start + _BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    weights = np.clip(random.gamma(4, 1 / 16, n), 0, 1)
    return vectors, np.rint(weights / SCORE_STEP).astype(np.int64)


def textbook(grid: np.ndarray, weights: np.ndarray, picks: int) -> list[int]:
    rows = [int(np.argmax(weights))]
    nearest = np.full(len(grid), np.inf, dtype=np.float32)
    while len(rows) < picks:
        nearest = np.minimum(nearest, np.linalg.norm(grid - grid[rows[-1]], axis=1))
        rows.append(int(np.argmax(weights * nearest)))
    return rows


def one_product_a_pick(grid: np.ndarray, weights: np.ndarray, picks: int) -> list[int]:
    lengths = np.einsum("ij,ij->i", grid, grid)
    rows = [int(np.argmax(weights))]
    nearest = np.full(len(grid), np.inf, dtype=np.float32)
    squares = weights.astype(np.float64) ** 2
    while len(rows) < picks:
        np.minimum(nearest, lengths + lengths[rows[-1]] - 2 * (grid @ grid[rows[-1]]), out=nearest)
        rows.append(int(np.argmax(squares * nearest)))
    return rows


def ours(vectors: np.ndarray, weights: np.ndarray, picks: int) -> tuple[list[int], int]:
    order = farthest_first(vectors, weights)
    rows = [pick.row for pick in islice(order, picks)]
    order.state()
    return rows, order.distance_count


def run(n: int, d: int, k: int, repeats: int) -> list[list[str]]:
    """A row a side, under HEADER. Needs the embeddings about three times over."""
    vectors, weights = make_data(n, d)
    grid, _ = round_unit_vectors(vectors)
    pick_counts = {"textbook": 4, "one product a pick": 20 if n > 200_000 else 60}
    sides = interleaved(
        {
            "textbook": lambda: textbook(grid, weights, pick_counts["textbook"]),
            "one product a pick": lambda: one_product_a_pick(grid, weights, pick_counts["one product a pick"]),
            "ours": lambda: ours(vectors, weights, k),
        },
        repeats,
        warm_up=n <= 200_000,
    )
    one_pass = statistics.median(_seconds(lambda: grid @ grid[0]) for _ in range(7))
    rows, compared = sides["ours"].result
    lines = []
    for name, side in sides.items():
        # The first pick is by weight alone and measures nothing.
        scale = 1.0 if name == "ours" else (k - 1) / (pick_counts[name] - 1)
        if name != "ours":
            assert side.result == rows[: pick_counts[name]], f"{name} has another order"
        lines.append(
            [
                f"{n:,}",
                f"{k:,}",
                name,
                f"{k:,}" if name == "ours" else f"{pick_counts[name]}",
                f"{side.median_wall * scale:,.2f}",
                f"{side.median_cpu * scale:,.2f}",
                "" if name == "ours" else f"{ratio(side, sides['ours']) * scale:,.0f}x",
                f"{side.median_wall * scale / one_pass:,.0f}",
                f"{compared / n if name == 'ours' else k - 1:,.0f}",
                f"{max(side.peak) * 1e6 / vectors.nbytes:.2f}",
            ]
        )
    others = max(max(side.foreign) for side in sides.values())
    print(f"n = {n:,}: one pass over the data (matrix times vector) {one_pass:.4f} s; others used {others:.1f} cores\n")
    return lines


def profile(n: int, d: int, k: int) -> list[list[str]]:
    """Where the time of ours goes: part, seconds, share."""
    vectors, weights = make_data(n, d)
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[part] += time.perf_counter() - start

        return wrapped

    start = time.perf_counter()
    order: FarthestFirst = farthest_first(vectors, weights)
    spent["rounding to the grid"] = time.perf_counter() - start
    # By name of the engine's own steps: they do not call one another.
    for part, method in (
        ("catching up, matrix products", "_bring_up_to_date"),
        ("choosing the active rows", "_find_candidates"),
        ("showing picks to the active rows", "_show_last_pick"),
    ):
        setattr(order, method, timed(part, getattr(order, method)))
    for _ in islice(order, k):
        pass
    whole = time.perf_counter() - start
    spent["the rest"] = whole - sum(spent.values())
    print(f"n = {n:,}, k = {k:,}: {order.round_count} rounds\n")
    return [[part, f"{seconds:.3f}", f"{seconds / whole:.0%}"] for part, seconds in spent.items()]


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="n = 1,000,000 and k = 10,000 too; takes 6 GB")
    parser.add_argument("--profile", action="store_true", help="where the time of ours goes, in place of the loops")
    parser.add_argument("--repeats", type=int, default=5, help="of n = 52,000; 3 at most of the large one")
    options = parser.parse_args()
    sizes = [(52_000, 5_200, options.repeats)]
    if options.large:
        sizes.append((1_000_000, 10_000, min(3, options.repeats)))
    if options.profile:
        for n, k, _ in sizes:
            print(table(["part", "seconds", "share"], profile(n, 384, k)), "\n")
        return
    print(table(HEADER, [line for n, k, repeats in sizes for line in run(n, 384, k, repeats)]))


if __name__ == "__main__":
    main()
