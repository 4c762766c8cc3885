"""The checks fail when they must: on tables that were tampered with, and on scores that cannot be right."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dselect_core.corpus.raw_dataset import land_source
from dselect_core.errors import DselectError
from dselect_core.fingerprint import fingerprint
from dselect_core.graders.grades import GRADES
from dselect_core.kinds import kind_of
from dselect_core.lineage import quality_checks as checks
from dselect_core.lineage.alike_chosen import alike_chosen
from dselect_core.pool.corpus_index import Index, build_index, read_index
from dselect_core.pool.pool_tables import pool_scores
from dselect_core.scores.difficulty import DIFFICULTY
from dselect_core.scores.score_table import version_of
from dselect_core.settings.settings import Settings
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.files import read_metadata, read_parquet, write_parquet
from dselect_core.storage.source_head import Head, write_head

ROWS = [{"instruction": f"Say {i}", "input": "", "output": f"{i}"} for i in range(30)]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "a.json").write_text(json.dumps([*ROWS, ROWS[0], {"instruction": "x", "output": ""}]))
    settings = {
        "storage": str(tmp_path / "out"),
        "sources": {"a": {"path": str(tmp_path / "a.json")}},
        "coresets": {"t": {"strategy": "topk:upd", "budget": 3}},
    }
    workspace = Workspace(Settings.model_validate(settings))
    land_source(workspace, "a")
    return workspace


def keep(place: Workspace, kind: str, source: str, frame: pl.DataFrame, recipe: dict[str, int]) -> None:
    """Put scores where the graph would: in the store, with the head of the source."""
    store = place.open_store(kind, fingerprint(recipe))
    store.append(frame)
    version = version_of(frame, kind_of(kind).value, store.fingerprint)
    landed = read_metadata(place.samples(source))["version"]
    write_head(Head(store.fingerprint, version, landed, frame.height, 0), place.head(kind, source))


def score(place: Workspace, **columns: object) -> None:
    """A difficulty table of the given columns; what is not given is sound and varied."""
    ids = read_parquet(place.samples("a"))["sample_id"]
    values = {
        "upd": [i / 40 for i in range(30)],
        "loss": [i / 9 for i in range(30)],
        "entropy": [i / 8 for i in range(30)],
    }
    frame = pl.DataFrame({"sample_id": ids} | values | columns)
    rest = {n: pl.lit(None, t) for n, t in DIFFICULTY.schema().items() if n not in frame.columns}
    keep(place, "difficulty", "a", frame.with_columns(**rest).select(*DIFFICULTY.schema()), {"r": 1})
    build_index(place, ["a"], frozenset({"difficulty"}))


def test_every_row_is_accounted_for_until_one_is_missing(place: Workspace) -> None:
    verdict = checks.rows_accounted_for(place, "a")
    assert verdict.passed
    assert verdict.description == "32 rows = 30 samples + 1 duplicates + 1 quarantined"
    path = place.samples("a")
    write_parquet(read_parquet(path).head(29), path, read_metadata(path))
    assert not checks.rows_accounted_for(place, "a").passed


def test_a_lost_quarantine_is_noticed(place: Workspace) -> None:
    write_parquet(read_parquet(place.quarantine("a")).clear(), place.quarantine("a"))
    assert not checks.rows_accounted_for(place, "a").passed


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({}, None),
        ({"upd": [0.5] * 30}, "upd: the same value, 0.5, in all 30 rows"),
        ({"upd": [None] * 16 + [i / 40 for i in range(14)]}, "upd: 53% null"),
        ({"upd": [1.5, *(i / 40 for i in range(29))]}, "upd: values outside [0, 1]"),
        ({"loss": [float("inf"), *(i / 9 for i in range(29))]}, "loss: values outside"),
    ],
)
def test_scores_that_cannot_be_right_are_named(place: Workspace, columns: dict[str, object], fault: str | None) -> None:
    score(place, **columns)
    verdict = checks.scores_are_sound(place, frozenset({"difficulty"}))
    assert verdict.passed == (fault is None)
    assert fault is None or fault in verdict.description


def test_rows_to_blame_are_named_and_thresholds_are_settings(place: Workspace) -> None:
    score(place, upd=[1.5, None, *(i / 40 for i in range(28))])
    ids = read_parquet(place.samples("a"))["sample_id"]
    kinds = frozenset({"difficulty"})
    assert checks.scores_are_sound(place, kinds).facts["upd rows"] == [ids[0]]
    strict = with_checks(place, nulls=0.01, quarantine=0.02)
    verdict = checks.scores_are_sound(strict, kinds)
    assert "upd: 3% null" in verdict.description
    assert set(verdict.facts["upd rows"]) == {ids[0], ids[1]}
    assert checks.quarantine_is_small(place, "a").passed
    quarantined = checks.quarantine_is_small(strict, "a")
    assert not quarantined.passed
    assert "a.json, row 32: " in quarantined.facts["rows"][0]


def with_checks(place: Workspace, **thresholds: float) -> Workspace:
    given = place.settings.model_dump(by_alias=True) | {"checks": thresholds}
    return Workspace(Settings.model_validate(given))


def test_a_score_that_moves_from_one_pool_to_the_next_is_named(place: Workspace, tmp_path: Path) -> None:
    kinds = frozenset({"difficulty"})

    def land(words: str, upd: list[float]) -> checks.Verdict:
        rows = [{"instruction": f"Say {words} {i}", "input": "", "output": f"{i}"} for i in range(200)]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        land_source(place, "a")
        score(place, upd=upd, loss=[i / 200 for i in range(200)], entropy=[i / 200 for i in range(200)])
        return checks.scores_have_not_drifted(place, kinds)

    even = [i / 200 for i in range(200)]
    assert land("one", even).facts == {}
    assert land("two", even[::-1]).passed  # other rows, distributed alike
    verdict = land("three", [min(1.0, value + 0.25) for value in even])
    assert not verdict.passed
    assert verdict.description == "upd: 0.250 from the last pool's (200 rows, now 200)"
    assert verdict.facts["loss distance"] == 0
    # Asked again of the same pool it says the same.
    assert checks.scores_have_not_drifted(place, kinds) == verdict
    assert checks.scores_have_not_drifted(with_checks(place, drift=0.3), kinds).passed


def test_chosen_rows_that_are_alike_are_found_as_brute_force_finds_them(place: Workspace) -> None:
    ids = read_parquet(place.samples("a"))["sample_id"]
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    vectors[7] = 2 * vectors[3] + 0.001
    vectors[9] = np.nan
    frame = pl.DataFrame({"sample_id": ids, "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, 6))})
    store = place.open_store("embeddings", fingerprint({"e": 1}))
    store.append(frame.with_columns(reason=pl.lit(None, pl.String)).select("sample_id", "embedding", "reason"))
    index = Index(ids.to_frame(), {}, {}, {"embeddings": [store.fingerprint]})
    found = alike_chosen(place, index, ids.sample(fraction=1, shuffle=True, seed=1), 0.9)
    assert found is not None
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = {ids[i] for i in range(30) if any(i != j and float(units[i] @ units[j]) >= 0.9 for j in range(30))}
    assert set(found["sample_id"]) == alike >= {ids[3], ids[7]}
    assert found["like"][0] in (ids[3], ids[7])
    assert alike_chosen(place, Index(ids.to_frame(), {}, {}, {}), ids, 0.9) is None


@pytest.mark.parametrize(("scale", "sound"), [("heuristic", True), ("rating", False)])
def test_one_grade_for_all_is_fine_from_the_heuristic_and_broken_from_a_judge(
    place: Workspace, scale: str, sound: bool
) -> None:
    score(place)
    ids = read_parquet(place.samples("a"))["sample_id"]
    frame = pl.DataFrame({"sample_id": ids}).with_columns(grade=pl.lit(1.0), scale=pl.lit(scale))
    rest = {n: pl.lit(None, t) for n, t in GRADES.schema().items() if n not in frame.columns}
    frame = frame.with_columns(**rest).select(*GRADES.schema())
    keep(place, "grades", "a", frame, {"r": 1})
    kinds = frozenset({"difficulty", "grades"})
    build_index(place, ["a"], kinds)
    assert checks.scores_are_sound(place, kinds).passed == sound


def test_scores_of_two_provenances_are_not_compared(place: Workspace, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps([{"instruction": "Another", "input": "", "output": "source"}]))
    sources = {name: {"path": str(tmp_path / f"{name}.json")} for name in ("a", "b")}
    both = Workspace(Settings.model_validate(place.settings.model_dump(by_alias=True) | {"sources": sources}))
    land_source(both, "b")
    score(place)
    table = pool_scores(place, read_index(place), "difficulty").head(1)
    table = table.with_columns(sample_id=pl.lit(read_parquet(both.samples("b"))["sample_id"].item()))
    for recipe, sound in (({"r": 1}, True), ({"r": 2}, False)):
        keep(both, "difficulty", "b", table, recipe)
        build_index(both, ["a", "b"], frozenset({"difficulty"}))
        verdict = checks.scores_are_sound(both, frozenset({"difficulty"}))
        assert verdict.passed == sound
    assert verdict.description == "difficulty: scores of 2 provenances"


def test_a_source_without_its_scores_is_left_out_and_named(place: Workspace) -> None:
    kinds = frozenset({"difficulty"})
    with pytest.raises(DselectError, match=r"the pool is empty: .*a: no difficulty yet; b: not landed yet"):
        build_index(place, ["a", "b"], kinds)
    score(place)
    assert checks.every_source_complete(place).passed
    build_index(place, ["a", "b"], kinds)
    verdict = checks.every_source_complete(place)
    assert not verdict.passed
    assert verdict.description == "b: not landed yet"
