"""Facility location: ours, exact and over 64 neighbours, against submodlib's and apricot's lazy greedy.

    python benchmarks/select_facility.py [--rows 6000] [--share 0.1] [--width 384] [--large]

Sides get the same vectors: clustered, and on dselect's grid, so that rounding favours no side. submodlib and apricot
get the similarities, (1 + cos) / 2, as a NumPy kernel made inside the clock, which is faster than either makes its own
from vectors. The value is counted again for all from the vectors, in float64. A peer that cannot be imported (PyPI:
submodlib-py, apricot-select) is left out; apricot compiles in the warm-up. `--large` runs our sparse form alone, once,
at 200,000 rows, where n² similarities do not fit in memory.
"""

import argparse
import importlib.util
from collections.abc import Callable
from itertools import islice

import measure
import numpy as np

from dselect_core.select.facility_location import NEIGHBORS, facility_location
from dselect_core.select.rounding import round_unit_vectors

HEADER = ["rows", "picks", "side", "value", "value, share of exact", "wall s", "CPU s", "peak MB"]
LARGE = 200_000


def draw(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 [rows, width]: clusters of unequal size in 64 dimensions, and noise in all; on the grid."""
    random = np.random.default_rng(seed)
    clusters = max(8, rows // 40)
    share = np.arange(1, clusters + 1) ** -0.8
    turn = random.normal(size=(64, width)).astype(np.float32) / 8
    centers = random.normal(size=(clusters, 64)).astype(np.float32) @ turn
    noise = random.standard_normal((rows, width), dtype=np.float32)
    return round_unit_vectors(centers[random.choice(clusters, rows, p=share / share.sum())] + 0.7 * noise + 0.3)[0]


def value(vectors: np.ndarray, rows: list[int]) -> float:
    """Σ_i max over chosen j of (1 + cos(i, j)) / 2."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    best = np.full(len(unit), -1.0)
    for start in range(0, len(rows), 256):
        for block in range(0, len(unit), 8_192):
            near = unit[block : block + 8_192] @ unit[rows[start : start + 256]].T
            np.maximum(best[block : block + 8_192], near.max(axis=1), out=best[block : block + 8_192])
    return float(((1 + best) / 2).sum())


def kernel(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    similarity += 1
    similarity /= 2
    return similarity


def ours(vectors: np.ndarray, picks: int, neighbors: int) -> list[int]:
    return [pick.row for pick in islice(facility_location(vectors, neighbors), picks)]


def submodlib(vectors: np.ndarray, picks: int) -> list[int]:
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(n=len(vectors), mode="dense", sijs=kernel(vectors), separate_rep=False)
    chosen = function.maximize(
        budget=picks,
        optimizer="LazyGreedy",
        stopIfZeroGain=False,
        stopIfNegativeGain=False,
        verbose=False,
        show_progress=False,
    )
    return [row for row, _ in chosen]


def apricot(vectors: np.ndarray, picks: int) -> list[int]:
    from apricot import FacilityLocationSelection

    chosen = FacilityLocationSelection(picks, metric="precomputed", optimizer="lazy")
    return [int(row) for row in chosen.fit(kernel(vectors).astype(np.float64)).ranking]


def run(rows: int = 6_000, share: float = 0.1, width: int = 384, repeats: int = 3) -> list[list[str]]:
    """A row per side that is there; last, how many times less our two forms take than each peer."""
    vectors, picks = draw(rows, width), int(rows * share)
    exact, sparse = "dselect, exact", f"dselect, {NEIGHBORS} neighbours"
    peers: dict[str, Callable[[np.ndarray, int], list[int]]] = {"submodlib": submodlib, "apricot": apricot}
    present = [name for name in peers if importlib.util.find_spec(name) is not None]
    sides = measure.interleaved(
        {
            exact: lambda: ours(vectors, picks, rows),
            sparse: lambda: ours(vectors, picks, NEIGHBORS),
            **{f"{name}, lazy": lambda name=name: peers[name](vectors, picks) for name in present},
        },
        repeats,
    )
    best = value(vectors, sides[exact].result)
    lines = [
        [
            *(f"{rows:,}", f"{picks:,}", name),
            *(f"{(side_value := value(vectors, side.result)):.4f}", f"{side_value / best:.7f}"),
            *(f"{side.median_wall:.2f}", f"{side.median_cpu:.2f}", f"{max(side.peak):,.0f}"),
        ]
        for name, side in sides.items()
    ]
    for name in present:
        for form in (exact, sparse):
            wall, cpu = (measure.ratio(sides[f"{name}, lazy"], sides[form], of) for of in ("wall", "cpu"))
            label = f"{form}: times faster than {name}"
            lines.append([f"{rows:,}", f"{picks:,}", label, "", "", f"{wall:.1f}", f"{cpu:.1f}", ""])
    return lines


def run_large(rows: int = LARGE, share: float = 0.1, width: int = 384) -> list[list[str]]:
    """Our sparse form, once."""
    vectors, picks = draw(rows, width), int(rows * share)
    name = f"dselect, {NEIGHBORS} neighbours"
    side = measure.interleaved({name: lambda: ours(vectors, picks, NEIGHBORS)}, 1, warm_up=False)[name]
    value_text = f"{value(vectors, side.result):.4f}"
    times = [f"{side.median_wall:.1f}", f"{side.median_cpu:.1f}", f"{max(side.peak):,.0f}"]
    return [[f"{rows:,}", f"{picks:,}", name, value_text, "", *times]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, help=f"6000 by default, {LARGE} with --large")
    parser.add_argument("--share", type=float, default=0.1, help="of the rows that are picked")
    parser.add_argument("--width", type=int, default=384, help="of the vectors")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    given = parser.parse_args()
    if given.large:
        lines = run_large(given.rows or LARGE, given.share, given.width)
    else:
        lines = run(given.rows or 6_000, given.share, given.width, given.repeats)
    print(measure.table(HEADER, lines))


if __name__ == "__main__":
    main()
