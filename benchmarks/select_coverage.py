"""mads against the loop a NumPy user would write: neuron sets as packed bits, every row counted again at every pick.

    python benchmarks/select_coverage.py [--rows 52000] [--active 1174] [--neurons 262144] [--share 0.1] [--scanned 3]

The sets are drawn by a power law: a few neurons are active in most rows, most in few, as top-k activations are. Both
sides get the same sets. The loop gets them as bits packed before the clock starts. Each of its picks costs the same, so
it makes `--scanned` picks, which must be the first of ours, and is scaled to the whole budget. Ours builds its
index inside the clock. Bits take n·neurons/8 bytes: 1.7 GB as given here.
"""

import argparse
from itertools import islice

import measure
import numpy as np

from dselect_core.select.mads import max_coverage

HEADER = ["rows", "picks", "side", "wall s", "CPU s", "peak MB", "times faster (wall)", "times faster (CPU)"]


def draw(rows: int, active: int, neurons: int, seed: int = 0) -> np.ndarray:
    """uint32 [rows, active], distinct inside a row."""
    random = np.random.default_rng(seed)
    names = random.permutation(neurons).astype(np.uint32)
    drawn = np.empty((rows, active), dtype=np.uint32)
    for row in range(rows):
        ranks = np.empty(0, dtype=np.int64)
        while len(ranks) < active:
            more = (neurons * random.random(2 * active) ** 3).astype(np.int64)
            ranks = np.unique(np.concatenate([ranks, more]))
        drawn[row] = names[random.permutation(ranks)[:active]]
    return drawn


def packed(sets: np.ndarray, neurons: int) -> np.ndarray:
    """uint64 [n, neurons / 64]."""
    bits = np.empty((len(sets), -(-neurons // 64)), dtype=np.uint64)
    dense = np.zeros(bits.shape[1] * 64, dtype=bool)
    for row, members in enumerate(sets):
        dense[members] = True
        bits[row] = np.packbits(dense).view(np.uint64)
        dense[members] = False
    return bits


def full_scan(bits: np.ndarray, picks: int) -> list[int]:
    left = np.full(bits.shape[1], np.iinfo(np.uint64).max)  # what is not covered
    taken = np.zeros(len(bits), dtype=bool)
    order = []
    for _ in range(picks):
        gains = np.empty(len(bits), dtype=np.int64)
        for start in range(0, len(bits), 1_024):
            gains[start : start + 1_024] = np.bitwise_count(bits[start : start + 1_024] & left).sum(1, dtype=np.int64)
        gains[taken] = -1
        row = int(gains.argmax())
        order.append(row)
        taken[row] = True
        left &= ~bits[row]
    return order


def run(
    rows: int = 52_000,
    active: int = 1_174,
    neurons: int = 262_144,
    share: float = 0.1,
    scanned: int = 3,
    repeats: int = 3,
) -> list[list[str]]:
    """A row per side. Raises AssertionError where the loop's picks are not the first of ours."""
    sets = draw(rows, active, neurons)
    bits = packed(sets, neurons)
    picks = int(rows * share)
    sides = measure.interleaved(
        {
            "packed bits, full scan": lambda: full_scan(bits, scanned),
            "mads": lambda: [pick.row for pick in islice(max_coverage(sets), picks)],
        },
        repeats,
        warm_up=False,
    )
    loop, ours = sides.values()
    assert loop.result == ours.result[:scanned], "the loop picks other rows"
    scale = picks / scanned
    times = [f"{measure.ratio(loop, ours, of) * scale:,.0f}" for of in ("wall", "cpu")]
    return [
        [
            *(f"{rows:,}", f"{picks:,}", f"packed bits, full scan ({scanned} picks, scaled)"),
            *(
                f"{loop.median_wall * scale:,.0f}",
                f"{loop.median_cpu * scale:,.0f}",
                f"{max(loop.peak):,.0f}",
                "1",
                "1",
            ),
        ],
        [
            *(f"{rows:,}", f"{picks:,}", "mads"),
            *(f"{ours.median_wall:.2f}", f"{ours.median_cpu:.2f}", f"{max(ours.peak):,.0f}", *times),
        ],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("rows", 52_000), ("active", 1_174), ("neurons", 262_144), ("scanned", 3), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--share", type=float, default=0.1, help="of the rows that are picked")
    print(measure.table(HEADER, run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
