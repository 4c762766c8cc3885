"""How every stage grows with the corpus: CPU seconds and memory at several sizes, and the exponent between them.

    python benchmarks/scale.py [--rows 100000 500000 2000000] [--stages landing mads] [--folder /dev/shm] [--threads 1]

An exponent of 1 is linear: log(seconds) against log(rows), from the size before. What runs is the core as the graph
calls it: landing a JSONL file, finding that nothing is to be scored, reading vectors, whole coresets from stored scores
to files, `why` of one sample, and the builtin grader (on a tenth of the rows, for it is slow). Rows are short question
and answer pairs of the words of this text; the scores are synthetic: 192 numbers in clusters, 30 active of 3,072
neurons (the shape of the builtin model), so that mads goes through many passes.

Each stage runs in a process of its own; memory is the peak of its resident set above where it stood once everything was
imported, CPU seconds are those of the process and of its children. Trade-off: one run a stage, for the large sizes
take minutes; figures of under a second repeat within some 10%. Files are in the page cache.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import polars as pl

from dselect_core.coreset.coreset import make_coreset
from dselect_core.coreset.spec import write_spec
from dselect_core.corpus.raw_dataset import land_source, read_samples
from dselect_core.fingerprint import fingerprint
from dselect_core.graders.grades import grade
from dselect_core.kinds import kind_of
from dselect_core.lineage.explain import story
from dselect_core.pool.corpus_index import build_index, read_index
from dselect_core.pool.future_pool import SourceRows
from dselect_core.pool.pool_tables import pool_vectors
from dselect_core.scores.score_table import version_of
from dselect_core.scores.update import score_todos
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_with_metadata, write_parquet
from dselect_core.storage.source_head import Head, read_head, write_head

SOURCE = "corpus"
RECIPES = {
    "d3": {"strategy": "d3", "budget": "10%"},
    "mads": {"strategy": "mads", "budget": "10%"},
    "miwv": {"strategy": "miwv", "budget": "1%"},
}
KINDS = ("difficulty", "embeddings", "activations", "grades")
WIDTH, CLUSTERS, LAYERS, NEURONS, ACTIVE = 192, 200, 6, 512, 5
PART_ROWS = 250_000
WORDS = re.findall("[a-z]+", (__doc__ or "").lower())


def make_rows(folder: Path, rows: int) -> None:
    """A JSONL file of Alpaca rows: a question of 12 words, an answer of 20 to 100."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w") as file:
        for row in range(rows):
            words = [WORDS[at] for at in random.integers(0, len(WORDS), 12 + 20 + row % 81)]
            question = f"What about {row}: {' '.join(words[:12])}?"
            answer = " ".join(words[12:]).capitalize() + "."
            file.write(json.dumps({"instruction": question, "input": "", "output": answer}) + "\n")


def workspace(folder: Path) -> Workspace:
    settings = {"storage": str(folder / "out"), "sources": {SOURCE: {"path": str(folder / "rows.jsonl")}}}
    return Workspace(Settings.model_validate({**settings, "coresets": RECIPES}))


def store_scores(place: Workspace) -> None:
    """Synthetic scores of every kind that the recipes read, and the index over them: the state after a refresh."""
    samples, landed = read_with_metadata(place.samples(SOURCE), ["sample_id"])
    ids = samples["sample_id"]
    random = np.random.default_rng(1)
    centres = random.standard_normal((CLUSTERS, WIDTH), dtype=np.float32)
    provenances: dict[str, dict[str, Any]] = {}
    for name in (*KINDS, "miwv"):
        provenances[name] = {"score": name, "made by": "benchmarks/scale.py"}
        place.open_store(name, fingerprint(provenances[name])).write_provenance(provenances[name])
    for name in KINDS:
        store = place.open_store(name, fingerprint(provenances[name]))
        for start in range(0, len(ids), PART_ROWS):
            part = ids[start : start + PART_ROWS]
            store.append(_scores(name, part, random, centres))
        frame, _ = store.read_without_vectors(samples)
        version = version_of(frame, kind_of(name).value, store.fingerprint)
        write_head(Head(store.fingerprint, version, landed["version"], frame.height, 0), place.head(name, SOURCE))
    shots = pl.DataFrame({"sample_id": ids, "shot_id": ids[::-1], "similarity": np.full(len(ids), 0.5, np.float32)})
    write_parquet(shots, place.neighbors)
    miwv = _with_nulls("miwv", shots.select("sample_id", "shot_id", miwv=pl.Series(_uniform(random, ids))))
    store = place.open_store("miwv", fingerprint(provenances["miwv"]))
    store.append(miwv)
    write_parquet(miwv, place.pool_table("miwv"), {"fingerprint": store.fingerprint, "version": "1"})
    build_index(place, [SOURCE], frozenset(KINDS))
    for recipe in RECIPES:
        write_spec(place, recipe)


def _uniform(random: np.random.Generator, ids: pl.Series) -> np.ndarray:
    return random.random(len(ids), dtype=np.float32)


def _scores(name: str, ids: pl.Series, random: np.random.Generator, centres: np.ndarray) -> pl.DataFrame:
    if name == "embeddings":
        noise = random.standard_normal((len(ids), WIDTH), dtype=np.float32)
        vectors = centres[random.integers(0, CLUSTERS, len(ids))] + 0.7 * noise
        return _with_nulls(name, pl.DataFrame({"sample_id": ids, "embedding": vectors}))
    if name == "activations":
        # By a power law, as top neurons are: a few are active in most rows. Distinct, for their strides differ.
        chosen = [_distinct(random, len(ids)) + layer * NEURONS for layer in range(LAYERS)]
        neurons = np.concatenate(chosen, axis=1).astype(np.uint32)
        return _with_nulls(name, pl.DataFrame({"sample_id": ids, "neurons": neurons}))
    if name == "difficulty":
        values = {"upd": _uniform(random, ids) * 0.5, "loss": _uniform(random, ids) * 5}
        tokens = random.integers(20, 140, len(ids))
        return _with_nulls(name, pl.DataFrame({"sample_id": ids, **values, "response_tokens": tokens}))
    grades = pl.DataFrame({"sample_id": ids, "grade": _uniform(random, ids)})
    return _with_nulls(name, grades.with_columns(scale=pl.lit("heuristic"), grader=pl.lit("synthetic")))


def _distinct(random: np.random.Generator, rows: int) -> np.ndarray:
    """int64 [rows, ACTIVE]: neurons of one layer, low ones more often, distinct inside a row."""
    drawn = np.sort((NEURONS * random.random((rows, ACTIVE)) ** 3).astype(np.int64), axis=1)
    for at in range(1, ACTIVE):
        drawn[:, at] = np.maximum(drawn[:, at], drawn[:, at - 1] + 1)
    return drawn % NEURONS


def _with_nulls(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns of the kind that were not given, all null, in the types of the kind."""
    schema = kind_of(name).schema(frame[kind_of(name).array].dtype.shape[0] if kind_of(name).array else 0)
    return frame.select(
        (pl.col(c) if c in frame.columns else pl.lit(None)).cast(dtype).alias(c) for c, dtype in schema.items()
    )


def nothing_to_do(place: Workspace) -> None:
    """What a plan asks of each kind of each source: whether its head, its samples and the store agree."""
    samples, landed = read_with_metadata(place.samples(SOURCE), ["sample_id"])
    rows = {SOURCE: SourceRows(samples, landed["version"])}
    for name in KINDS:
        head = read_head(place.head(name, SOURCE))
        assert head is not None
        todo = score_todos(place, kind_of(name), rows, place.open_store(name, head.fingerprint))[SOURCE]
        assert todo.why is None, todo.why


def grade_a_tenth(place: Workspace) -> None:
    samples = read_samples(place, SOURCE)
    grade(samples.head(samples.height // 10), place.settings.grader)


def why_one(place: Workspace) -> None:
    story(place, read_index(place).frame["sample_id"][-1], [SOURCE])


STAGES: dict[str, tuple[str, Callable[[Workspace], object]]] = {
    "landing": ("landing JSONL", lambda place: land_source(place, SOURCE)),
    "nothing": ("scores, nothing to do (four kinds)", nothing_to_do),
    "vectors": ("reading the pool's vectors", lambda place: pool_vectors(place, read_index(place), "embeddings")),
    "d3": ("coreset d3 10%", lambda place: make_coreset(place, "d3")),
    "d3-kept": ("coreset d3 10%, from the kept order", lambda place: make_coreset(place, "d3")),
    "mads": ("coreset mads 10%", lambda place: make_coreset(place, "mads")),
    "miwv": ("coreset miwv 1%", lambda place: make_coreset(place, "miwv")),
    "why": ("`why` of one sample", why_one),
    "grader": ("builtin grader, a tenth of the rows", grade_a_tenth),
}


def measure_stage(folder: Path, stage: str) -> dict[str, float]:
    """{cpu, wall: seconds, mb: added to the resident set}."""
    place = workspace(folder)
    work = STAGES[stage][1]
    with measure.peak() as memory:
        wall, cpu = time.perf_counter(), sum(os.times()[:4])
        work(place)
        wall, cpu = time.perf_counter() - wall, sum(os.times()[:4]) - cpu
    return {"cpu": cpu, "wall": wall, "mb": memory[0]}


def measure_size(folder: Path, rows: int, stages: list[str]) -> dict[str, dict[str, float]]:
    """{stage: what it took}. What a stage rests on is run before it, also where it was not asked for."""

    def child(*arguments: str) -> str:
        command = [sys.executable, __file__, "--folder", str(folder), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]

    make_rows(folder, rows)
    took = {"landing": json.loads(child("--stage", "landing"))}
    if set(stages) != {"landing"}:
        child("--stage", "scores")
    if "d3-kept" in stages and "d3" not in stages:
        child("--stage", "d3")
    for stage in STAGES:
        if stage in stages and stage != "landing":
            took[stage] = json.loads(child("--stage", stage))
    return took


def growth(sizes: list[int], took: dict[int, dict[str, dict[str, float]]], stages: list[str]) -> str:
    header = ["CPU s (exponent), MB added", *(f"{rows:,}" for rows in sizes), "B a row added"]
    lines = []
    for stage in (name for name in STAGES if name in stages):
        line = [STAGES[stage][0]]
        for before, rows in zip([0, *sizes], sizes, strict=False):
            now = took[rows][stage]
            exponent = ""
            if before:
                exponent = f" ({math.log(now['cpu'] / took[before][stage]['cpu']) / math.log(rows / before):.2f})"
            line.append(f"{now['cpu']:.2f}{exponent}, {now['mb']:,.0f}")
        line.append(f"{took[sizes[-1]][stage]['mb'] * 1e6 / sizes[-1]:,.0f}")
        lines.append(line)
    return measure.table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 500_000, 2_000_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--folder", type=Path, help="where to put the files, some 2.5 kB a row")
    parser.add_argument("--threads", type=int, default=1, help="of matrix products and of polars")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage == "scores":
        store_scores(workspace(given.folder))
        print()
        return
    if given.stage:
        print(json.dumps(measure_stage(given.folder, given.stage)))
        return
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), str(given.threads))
    took = {}
    sizes = sorted(given.rows)
    for rows in sizes:
        folder = Path(tempfile.mkdtemp(prefix="dselect-scale-", dir=given.folder))
        try:
            took[rows] = measure_size(folder, rows, given.stages)
        finally:
            shutil.rmtree(folder)
        done = {stage: {key: round(value, 2) for key, value in of.items()} for stage, of in took[rows].items()}
        print(f"{rows:,} rows: {json.dumps(done)}", file=sys.stderr, flush=True)
    print(growth(sizes, took, given.stages))


if __name__ == "__main__":
    main()
