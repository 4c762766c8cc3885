"""What MIWV's neighbours cost: all pairs, a patch after 1 % new rows, and approximately, against faiss and plain NumPy.

    python benchmarks/neighbors.py [--rows 52000] [--dimensions 384] [--dense-rows 10000] [--nprobe 32]

Rows are clustered as prompts are: power-law cluster sizes, 64 intrinsic dimensions and noise. Both sides get the same
float32 vectors and end with the nearest other row of each, so the seconds include rounding to the grid, reading the
earlier table and building the index. The matrix rate is the best of NumPy's product over a few shapes, measured in the
same process. The share of it counts one product per pair of rows; the exact search takes half of them, so the share can
exceed 1. Needs faiss-cpu (`pip install -e '.[dev]'`).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import polars as pl
from measure import Side, interleaved, ratio, table

from dselect_core.neighbors.nearest import nearest, recall, update_nearest


def clustered(rows: int, dimensions: int) -> np.ndarray:
    random = np.random.default_rng(0)
    size = 1 / np.arange(1, max(8, rows // 60) + 1)
    basis = random.normal(size=(64, dimensions)).astype(np.float32)
    centers = random.normal(size=(len(size), 64)).astype(np.float32)
    inner = centers[random.choice(len(size), rows, p=size / size.sum())]
    inner += 0.5 * random.normal(size=(rows, 64)).astype(np.float32)
    vectors = inner @ basis
    for block in np.array_split(vectors, max(1, rows // 10_000)):
        block += 2 * random.normal(size=block.shape).astype(np.float32)
    return vectors


def matrix_rate(dimensions: int) -> float:
    """GFLOP/s of float32 products with `dimensions` in the middle: the best of a few shapes."""
    rates = []
    for left, right in ((1024, 1024), (2048, 2048), (4096, 4096)):
        a, b = np.ones((left, dimensions), np.float32), np.ones((right, dimensions), np.float32)
        out = np.empty((left, right), np.float32)
        for _ in range(8):
            start = time.perf_counter()
            np.matmul(a, b.T, out=out)
            rates.append(2 * left * right * dimensions / (time.perf_counter() - start) / 1e9)
    return max(rates)


def faiss_flat(vectors: np.ndarray) -> np.ndarray:
    index = faiss.IndexFlatIP(vectors.shape[1])
    return _search(index, vectors)


def faiss_lists(vectors: np.ndarray, nprobe: int) -> np.ndarray:
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]),
        vectors.shape[1],
        round(4 * len(vectors) ** 0.5),
        faiss.METRIC_INNER_PRODUCT,
    )
    index.nprobe = nprobe
    return _search(index, vectors)


def _search(index: faiss.Index, vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if not index.is_trained:
        index.train(unit)
    index.add(unit)
    nearest_two = index.search(unit, 2)[1]
    return np.where(nearest_two[:, 0] == np.arange(len(unit)), nearest_two[:, 1], nearest_two[:, 0])


def dense(vectors: np.ndarray) -> np.ndarray:
    """All similarities at once, as ODA-DataScorer's MIWV does, less its second n × n of distances."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity.argmax(axis=1))


def names(rows: int) -> pl.Series:
    return pl.Series("sample_id", [f"{row:08}" for row in range(rows)])


def row(name: str, rows: int, side: Side, against: str) -> list[str]:
    return [
        name,
        f"{rows:,}",
        f"{side.median_wall:.2f}",
        f"{side.median_cpu:.2f}",
        f"{statistics.median(side.peak):,.0f}",
        f"{statistics.median(side.foreign):.2f}",
        against,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--dense-rows", type=int, default=10_000)
    parser.add_argument("--nprobe", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5, help="of what takes seconds; a full search runs three times")
    parser.add_argument("--only", choices=("exact", "approximate"), help="leave the other out")
    given = parser.parse_args()
    n, d, nprobe, repeats = given.rows, given.dimensions, given.nprobe, given.repeats
    vectors, ids = clustered(n, d), names(n)
    few, few_ids = vectors[: given.dense_rows], names(min(n, given.dense_rows))
    rate = matrix_rate(d)
    lines: list[list[str]] = []
    notes: list[str] = []

    if given.only != "approximate":
        small = interleaved({"dense": lambda: dense(few), "ours": lambda: nearest(few_ids, few)}, repeats)
        lines.append(row("dense n × n, NumPy", len(few), small["dense"], "1"))
        lines.append(row("exact", len(few), small["ours"], f"{ratio(small['dense'], small['ours']):.1f}x"))
        full = interleaved({"faiss": lambda: faiss_flat(vectors), "ours": lambda: nearest(ids, vectors)}, 3, False)
        ours = full["ours"]
        lines.append(row("faiss IndexFlatIP", n, full["faiss"], "1"))
        lines.append(row("exact", n, ours, f"{ratio(full['faiss'], ours):.1f}x"))
        old = np.random.default_rng(1).permutation(n)[n // 100 :]
        old.sort()
        previous = nearest(ids.gather(old), vectors[old])
        patch = interleaved({"patch": lambda: update_nearest(ids, vectors, previous)}, repeats)["patch"]
        assert patch.result.equals(ours.result), "a patched table is not the fresh one"
        share = patch.median_wall / ours.median_wall
        lines.append(row("exact, patched after +1 % rows", n, patch, f"{share:.1%} of the full exact search"))
        products = 2 * n * n * d / 1e9 / ours.median_wall
        same = float((ours.result["shot_id"].cast(pl.Int64).to_numpy() == full["faiss"].result).mean())
        notes.append(
            f"matrix rate {rate:.0f} GFLOP/s; all pairs at {products:.0f} GFLOP/s, {products / rate:.2f} of it"
        )
        notes.append(f"shots that are faiss's own on unrounded vectors: {same:.2%}")
    if given.only != "exact":
        sides: dict[str, Callable[[], object]] = {
            "faiss": lambda: faiss_lists(vectors, nprobe),
            "ours": lambda: nearest(ids, vectors, nprobe=nprobe),
        }
        lists = interleaved(sides, 3, False)
        tables = {
            "faiss": pl.DataFrame({"sample_id": ids, "shot_id": ids.gather(np.maximum(lists["faiss"].result, 0))}),
            "ours": lists["ours"].result,
        }
        shares = {name: recall(each, vectors) or (1.0, 0) for name, each in tables.items()}
        lines.append(
            row(f"faiss IndexIVFFlat, nprobe {nprobe}", n, lists["faiss"], f"1; recall@1 {shares['faiss'][0]:.4f}")
        )
        against = f"{ratio(lists['faiss'], lists['ours']):.1f}x; recall@1 {shares['ours'][0]:.4f}"
        lines.append(row(f"approximate, nprobe {nprobe}", n, lists["ours"], against))
        notes.append(f"recall@1 on {shares['ours'][1]:,} random rows; times are building and searching")
    print(table(["search", "rows", "seconds", "CPU seconds", "peak MB", "foreign cores", "against"], lines))
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
