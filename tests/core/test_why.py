"""What `why` says of a sample that was not chosen: its gain as the next pick, or an upper bound where that is known."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from dselect_core.config import Settings
from dselect_core.corpus.land import land
from dselect_core.index import build_index
from dselect_core.select.farthest_first import Sizes, farthest_first
from dselect_core.select.kept import Kept, write_kept
from dselect_core.tables import read_parquet, write_parquet
from dselect_core.why import story
from dselect_core.workspace import Workspace


def test_a_gain_that_is_not_known_is_told_as_a_bound(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {i}", "input": "", "output": f"{i}"} for i in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    settings = {
        "storage": str(tmp_path / "out"),
        "sources": {"a": {"path": str(tmp_path / "a.json")}},
        "coresets": {"far": {"strategy": "kcenter", "budget": 6}},
    }
    workspace = Workspace(Settings.model_validate(settings))
    land(workspace, "a")
    build_index(workspace, ["a"], frozenset())
    samples = read_parquet(workspace.samples("a")).select("sample_id", reason=pl.lit(None, pl.String)).sort("sample_id")

    vectors = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)
    order = farthest_first(vectors, np.full(30, 65_536), None, Sizes(pool=4, picks=2, front=6))
    picks = [next(order) for _ in range(6)]
    kept = Kept.of("0" * 32, samples, picks, order.state(), order.standing())
    write_kept(kept, workspace.orders / f"{kept.key}.parquet")
    chosen = kept.table.drop_nulls("rank").sort("rank").select("sample_id", "rank", "gain")
    write_parquet(chosen, workspace.coreset("far") / "order.parquet")
    (workspace.coreset("far") / "manifest.json").write_text(
        json.dumps({"strategy": "kcenter", "budget": "6", "order": kept.key})
    )

    left = kept.table.filter(pl.col("rank").is_null())
    told = {row["sample_id"]: row for row in left.iter_rows(named=True)}
    words = {sample: story(workspace, sample, ["a"]).choices[0].why for sample in told}
    ended = f"as the next pick; the last of 6 picks gained {picks[-1].gain:.6g}"
    for sample, row in told.items():
        at_most = "at most " if row["state_seen"] < 6 else ""
        assert words[sample] == f"would gain {at_most}{row['standing']:.6g} {ended}"
    assert len({"at most" in said for said in words.values()}) == 2  # both kinds are there
