"""A million vectors: a process that has just started opens them, looks up all ids and reads 10,000 random rows.

    python benchmarks/vectors.py [--rows 1000000] [--width 384] [--parquet-rows 100000] [--folder /dev/shm]

Three sides: the store (array files beside Parquet parts of keys); the same vectors as a column of Parquet parts, read
with polars; and a bare `.npy`, memory-mapped, with the row numbers already known, which no store can beat. Every side
runs in a process of its own; the start of its interpreter and its imports are not counted. The sides take turns; the
figures are medians of five. All sides have the same rows, unless `--parquet-rows` gives Parquet fewer: then its figures
are multiplied up and marked ≈.

Trade-off: the files are in the page cache, where a second process finds them, so the disk's own speed is not measured.
The store finds a row by its id among all ids, which a bare array cannot do: the ratio says what that costs.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from measure import table
from upath import UPath

from dselect_core.storage.score_store import Store

PARTS = 8
RANDOM_ROWS = 10_000
REPEATS = 5
FINGERPRINT = "0" * 32
NAMES = {"store": "store", "parquet": "Parquet parts", "memmap": "bare memmap"}


def ids_of(rows: int) -> list[str]:
    return [hashlib.blake2b(row.to_bytes(8, "little"), digest_size=16).hexdigest() for row in range(rows)]


def make(folder: Path, rows: int, width: int, parquet_rows: int) -> None:
    """The same vectors in the store and in one bare array; the first `parquet_rows` of them in Parquet parts too."""
    store = Store(UPath(folder / "store" / FINGERPRINT), array_column="embedding")
    (folder / "parquet").mkdir()
    ids = ids_of(rows)
    bare = np.lib.format.open_memmap(folder / "bare.npy", "w+", np.float32, (rows, width))
    chance = np.random.default_rng(0)
    for part in np.array_split(np.arange(rows), PARTS):
        values = chance.standard_normal((len(part), width), dtype=np.float32)
        frame = pl.DataFrame({"sample_id": [ids[row] for row in part], "embedding": values})
        bare[part[0] : part[-1] + 1] = values
        store.append(frame)
        parquet_frame = frame.head(max(0, parquet_rows - int(part[0])))
        for number, piece in enumerate(parquet_frame.iter_slices(max(1, parquet_rows // PARTS))):
            piece.write_parquet(folder / "parquet" / f"{part[0]:09}-{number}.parquet", compression="zstd")
    bare.flush()
    pl.DataFrame({"sample_id": ids}).write_ipc(folder / "ids.arrow")


def measure_side(folder: Path, side: str, seed: int) -> dict[str, float]:
    """{step: seconds, "step cpu": CPU seconds}: open and look up all ids, read random rows twice, read all rows."""
    ids = pl.read_ipc(folder / "ids.arrow")
    if side == "parquet":
        ids = ids.head(pl.scan_parquet(folder / "parquet" / "*.parquet").select(pl.len()).collect().item())
    at = np.sort(np.random.default_rng(seed).choice(ids.height, min(RANDOM_ROWS, ids.height), replace=False))
    some = ids[at]
    took: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        took[name], took[f"{name} cpu"] = time.perf_counter() - wall, time.process_time() - cpu

    if side == "store":
        store = Store(UPath(folder / "store" / FINGERPRINT), array_column="embedding")
        timed("open", lambda: _none(store.missing(ids)))
        timed("random", lambda: _all(store.read_array(some).values, some))
        timed("again", lambda: _all(store.read_array(some).values, some))
        timed("whole", lambda: _all(store.read_array(ids).values, ids))
    elif side == "parquet":
        parts = sorted((folder / "parquet").iterdir())

        def look_up() -> None:
            stored_ids = pl.concat([pl.read_parquet(path.read_bytes(), columns=["sample_id"]) for path in parts])
            _none(ids.join(stored_ids, on="sample_id", how="anti"))

        def read(wanted: pl.DataFrame) -> None:
            whole = pl.concat([pl.read_parquet(path.read_bytes()) for path in parts])
            _all(whole.join(wanted, on="sample_id", how="semi")["embedding"].to_numpy(), wanted)

        timed("open", look_up)
        timed("random", lambda: read(some))
        timed("again", lambda: read(some))
        timed("whole", lambda: read(ids))
    else:
        bare: np.ndarray = np.empty(0)

        def map_it() -> None:
            nonlocal bare
            bare = np.load(folder / "bare.npy", mmap_mode="r")

        timed("open", map_it)
        timed("random", lambda: _all(bare[at], some))
        timed("again", lambda: _all(bare[at], some))
        timed("whole", lambda: _all(np.array(bare), ids))
    return took


def _none(missing: pl.DataFrame) -> None:
    assert missing.is_empty()


def _all(values: np.ndarray, wanted: pl.DataFrame) -> None:
    assert len(values) == wanted.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--parquet-rows", type=int, help="rows of the Parquet side (all; fewer are multiplied up)")
    parser.add_argument("--folder", type=Path, help="where to put the files, three times their size")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--side", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure_side(given.folder, given.side, given.seed)))
        return
    parquet_rows = min(given.rows, given.parquet_rows or given.rows)
    folder = Path(tempfile.mkdtemp(prefix="dselect-vectors-", dir=given.folder))
    took: dict[str, list[dict[str, float]]] = {side: [] for side in NAMES}
    try:
        make(folder, given.rows, given.width, parquet_rows)
        for repetition in range(given.repeats):
            for side in NAMES:
                command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--seed", str(repetition)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                took[side].append(json.loads(done.stdout))
    finally:
        shutil.rmtree(folder)
    scale = {"parquet": given.rows / parquet_rows}
    steps = {
        "open": f"open, look up {given.rows:,} ids",
        "random": f"{RANDOM_ROWS:,} random rows, first time",
        "again": f"{RANDOM_ROWS:,} random rows, again",
        "whole": "all rows",
    }
    lines = []
    for step, name in steps.items():
        line = [name]
        for side in NAMES:
            of_side, factor = took[side], scale.get(side, 1.0)
            seconds = [factor * statistics.median(each[key] for each in of_side) for key in (step, f"{step} cpu")]
            line.append(f"{'≈ ' if factor != 1 else ''}{seconds[0]:.3f} ({seconds[1]:.3f})")
        for other in ("parquet", "memmap"):
            pairs = zip(took["store"], took[other], strict=True)
            ratio = statistics.median(scale.get(other, 1.0) * b[step] / a[step] for a, b in pairs)
            line.append(f"{ratio:.3g}×")
        lines.append(line)
    header = ["seconds (CPU)", *NAMES.values(), "store is faster than Parquet", "… than the memmap"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
