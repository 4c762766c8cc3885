"""The share of rows that need a grade before a coreset is certain, by strategy, budget and what grades look like.

    python benchmarks/grade_candidates.py [--rows 3000] [--batch 1] [--scores FOLDER]

The vectors are 60 clusters in 64 dimensions; upd is wide (Beta(4, 4)) or narrow (Beta(20, 12), about what a small model
gives Alpaca). --scores: the folder `scores` of a storage, whose upd and embeddings are then used too. Grades are drawn
independent of both. Every coreset is compared with that of all grades. A line: asked, of how many, in how many rounds.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from upath import UPath

from dselect_core.select.candidate_pool import Pool
from dselect_core.select.candidates import grade_candidates, unasked
from dselect_core.select.recipe import CoresetSpec
from dselect_core.select.select import select
from dselect_core.storage.score_store import Store

RATINGS = [0.05, 0.25, 0.5, 0.75, 1.0]
GRADES = {
    "ratings, 40% a 5": lambda random, n: random.choice(RATINGS, n, p=[0.03, 0.07, 0.15, 0.35, 0.40]),
    "ratings, 10% a 5": lambda random, n: random.choice(RATINGS, n, p=[0.03, 0.07, 0.20, 0.60, 0.10]),
    "Beta(6, 2)": lambda random, n: random.beta(6, 2, n),
    "uniform": lambda random, n: random.random(n),
}
RECIPES = [("d3", "1%"), ("d3", "10%"), ("d3", "30%"), ("deita", "10%"), ("topk:grade", "10%")]


def pools(rows: int, scores: Path | None) -> Iterator[tuple[str, Pool]]:
    random = np.random.default_rng(0)
    centres = random.normal(size=(60, 64))
    vectors = (centres[random.integers(0, 60, rows)] + 0.6 * random.normal(size=(rows, 64))).astype(np.float32)
    for name, upd in (("wide upd", random.beta(4, 4, rows)), ("narrow upd", random.beta(20, 12, rows))):
        yield name, Pool.of(pl.DataFrame({"sample_id": [f"{row:07d}" for row in range(rows)], "upd": upd}), vectors)
    if scores is not None:
        stores = {
            kind: Store(UPath(next(path for path in (scores / kind).iterdir() if path.is_dir())), array_column=array)
            for kind, array in (("difficulty", None), ("embeddings", "embedding"))
        }
        upds = pl.concat([part.frame for part in stores["difficulty"].parts(["sample_id", "upd"])]).drop_nulls("upd")
        found = stores["embeddings"].read_array(upds.unique("sample_id").sort("sample_id"))
        yield str(scores), Pool.of(found.keys.join(upds, on="sample_id", how="left"), found.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--scores", type=Path)
    arguments = parser.parse_args()
    print("| pool | grades | recipe | asked | of | share | rounds |\n|---|---|---|---:|---:|---:|---:|")
    for pool_name, pool in pools(arguments.rows, arguments.scores):
        for grades_name, draw in GRADES.items():
            grades = pool.scores.select("sample_id", grade=pl.Series(draw(np.random.default_rng(1), len(pool))))
            whole = Pool.of(pool.scores.join(grades, on="sample_id"), pool.embeddings)
            for strategy, budget in RECIPES:
                spec = CoresetSpec.model_validate({"strategy": strategy, "budget": budget})

                def ask(ids: pl.Series, grades: pl.DataFrame = grades) -> pl.DataFrame:
                    return grades.filter(pl.col("sample_id").is_in(ids.implode()))

                rounds = list(grade_candidates(unasked(pool), [spec], ask, arguments.batch))
                assert select(rounds[-1].pool, spec).order.equals(select(whole, spec).order)
                asked = sum(each.asked for each in rounds)
                line = [pool_name, grades_name, f"{strategy} {budget}", asked, len(pool), f"{asked / len(pool):.0%}"]
                print("|", *(f"{cell} |" for cell in [*line, len(rounds) - 1]), flush=True)


if __name__ == "__main__":
    main()
