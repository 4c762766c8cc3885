"""deita against DEITA's own filter, on the same scores and vectors; the chosen rows must be the same, in order.

    DEITA=<checkout of hkust-nlp/deita> python benchmarks/select_deita.py [--rows 8000] [--width 384] [--threshold 0.9]

DEITA's `Combined_Filter` runs as it is, on the CPU, one row at a time as by default, from the data frame it asks for.
The vectors are clustered and on dselect's grid, so that rounding decides nothing; scores are distinct, for DEITA's sort
leaves the order of ties open. Where $DEITA is unset the peer is left out.
"""

import argparse
import contextlib
import io
import logging
import os
import sys
from pathlib import Path

import measure
import numpy as np

from dselect_core.select.deita import THRESHOLD, score_first
from dselect_core.select.rounding import SCORE_STEP, round_unit_vectors

HEADER = ["rows", "chosen", "side", "wall s", "CPU s", "peak MB", "times faster (wall)", "times faster (CPU)"]


def draw(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [rows, width], about a quarter of them unlike each other at 0.9; and distinct scores in steps, int64."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((max(1, rows // 4), width), dtype=np.float32)
    noise = random.standard_normal((rows, width), dtype=np.float32)
    spread = random.uniform(0.1, 0.4, (rows, 1)).astype(np.float32)
    vectors = round_unit_vectors(centers[random.integers(0, len(centers), rows)] + spread * noise)[0]
    return vectors, random.permutation(rows) + 1


def ours(vectors: np.ndarray, steps: np.ndarray, threshold: float) -> list[int]:
    return [pick.row for pick in score_first(vectors, steps, threshold)]


def deita(vectors: np.ndarray, steps: np.ndarray, threshold: float) -> list[int]:
    import pandas as pd
    from deita.selection.filter import Combined_Filter

    frame = pd.DataFrame(
        {
            "idx": range(len(vectors)),
            "embedding": vectors.tolist(),
            "complexity_scores": [[score] for score in (steps * SCORE_STEP).tolist()],
            "quality_scores": [[1.0]] * len(vectors),
        }
    )
    chooser = Combined_Filter(
        threshold=threshold,
        data_size=-1,
        sort_key="complexity_scores,quality_scores",
        chunk_size=100_000,
        distance_metric="cosine",
        embedding_field="embedding",
        device="cpu",
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        chosen: list[int] = chooser.filter(frame)["idx"].tolist()
    return chosen


def find_deita() -> bool:
    """Make $DEITA importable; False where it is not set. Its filter can be imported only after its pipeline."""
    if not os.environ.get("DEITA"):
        return False
    sys.path.insert(0, str(Path(os.environ["DEITA"]) / "src"))
    import deita.pipeline  # noqa: F401

    logging.getLogger("deita").setLevel(logging.WARNING)
    return True


def run(rows: int = 8_000, width: int = 384, threshold: float = THRESHOLD, repeats: int = 3) -> list[list[str]]:
    """A row per side. Raises AssertionError where the two choose differently."""
    vectors, steps = draw(rows, width)
    sides = {"dselect": lambda: ours(vectors, steps, threshold)}
    if find_deita():
        sides = {"DEITA's Combined_Filter": lambda: deita(vectors, steps, threshold), **sides}
    measured = measure.interleaved(sides, repeats)
    dselect = measured["dselect"]
    lines = []
    for name, side in measured.items():
        assert side.result == dselect.result, f"{name} chooses other rows"
        times = ["1", "1"] if side is not dselect else ["", ""]
        if side is dselect and len(measured) > 1:
            peer = next(iter(measured.values()))
            times = [f"{measure.ratio(peer, dselect, of):.1f}" for of in ("wall", "cpu")]
        took = [f"{side.median_wall:.2f}", f"{side.median_cpu:.2f}", f"{max(side.peak):,.0f}"]
        lines.append([f"{rows:,}", f"{len(side.result):,}", name, *took, *times])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--width", type=int, default=384, help="of the vectors")
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--repeats", type=int, default=3)
    print(measure.table(HEADER, run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
