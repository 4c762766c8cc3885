"""Near-duplicates against brute force on random small cases, and what a kept and a dropped sample can rely on."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from upath import UPath

from dselect_core.corpus.sample import sample_id
from dselect_core.neighbors.near_duplicates import elect, find_near_duplicates
from dselect_core.neighbors.nearest import nearest, update_nearest
from dselect_core.neighbors.text_signatures import VALUES, kept_signatures, update_signatures
from dselect_core.pool.near_duplicates import SCHEMA
from dselect_core.pool.overlap import short_reason
from dselect_core.select.rounding import round_scores, round_unit_vectors, usable_vectors
from dselect_core.settings.neighbors_spec import NearDuplicatesSpec
from tests.cases import CASES
from tests.tiny import Message, conversation, samples_frame


def random_case(seed: int) -> tuple[pl.Series, np.ndarray, pl.DataFrame, NearDuplicatesSpec]:
    """ids, vectors in bunches (some missing), scores with ties and gaps, and settings."""
    random = np.random.default_rng(seed)
    n, width = int(random.integers(1, 40)), int(random.integers(2, 6))
    centres = random.normal(size=(int(random.integers(1, 8)), width))
    vectors = centres[random.integers(0, len(centres), n)] + random.normal(size=(n, width)) * random.choice(
        [0, 0.1, 0.4]
    )
    vectors = vectors.astype(np.float32)
    vectors[random.random(n) < 0.1] = np.nan
    ids = pl.Series([f"s{i:02}" for i in range(n)])

    def score() -> pl.Series:
        values = random.integers(0, 4, n) / 3 + random.choice([0, 1e-7], n)  # noise below the grid ties
        return pl.Series([None if gap else value for gap, value in zip(random.random(n) < 0.2, values, strict=True)])

    scores = pl.DataFrame({"sample_id": ids, "grade": score(), "upd": score()}, schema_overrides={"grade": pl.Float64})
    keep = random.choice(["best", "first"])
    spec = NearDuplicatesSpec.model_validate({"threshold": float(random.choice([0.7, 0.9, 0.97, 1.0])), "keep": keep})
    return ids, vectors, scores, spec


def cosine(a: np.ndarray, b: np.ndarray) -> np.float32:
    dot, length = (a.astype(np.int64) * b.astype(np.int64)).sum(), (a.astype(np.int64) ** 2).sum()
    return np.float32(dot / np.sqrt(float(length) * float((b.astype(np.int64) ** 2).sum())))


def brute_force(
    ids: pl.Series,
    vectors: np.ndarray,
    scores: pl.DataFrame,
    spec: NearDuplicatesSpec,
    signatures: np.ndarray | None = None,
) -> dict[str, tuple[str, float]]:
    """{not chosen: (kept for it, cosine or share)}, by comparing every sample with every kept one."""
    usable = np.flatnonzero(usable_vectors(vectors))
    grid = dict(zip(usable.tolist(), round_unit_vectors(vectors[usable])[0], strict=True))

    def preference(row: int) -> tuple[float, ...]:
        values = [scores[name][row] for name in ("grade", "upd")] if spec.keep == "best" else []
        return (*(np.inf if v is None else -float(round_scores(np.array([v]))[0]) for v in values), row)

    kept: list[int] = []
    dropped = {}
    for row in sorted(grid if signatures is None else range(len(ids)), key=preference):
        cosines = [cosine(grid[row], grid[other]) if {row, other} <= grid.keys() else -1 for other in kept]
        shares = [float((signatures[row] == signatures[other]).mean()) for other in kept if signatures is not None]
        if cosines and max(cosines) >= np.float32(spec.threshold):
            best = int(np.argmax(cosines))
            dropped[ids[row]] = (ids[kept[best]], float(cosines[best]))
        elif shares and max(shares) >= (spec.text or 2):
            best = int(np.argmax(shares))
            dropped[ids[row]] = (ids[kept[best]], shares[best])
        else:
            kept.append(row)
    return dropped


def found(case: tuple[pl.Series, np.ndarray, pl.DataFrame, NearDuplicatesSpec]) -> pl.DataFrame:
    ids, vectors, scores, spec = case
    table = nearest(ids, vectors)
    return find_near_duplicates(table, vectors, scores if spec.keep == "best" else None, spec)


def test_as_by_brute_force() -> None:
    sizes = []
    for seed in range(CASES):
        case = random_case(seed)
        table = found(case)
        assert table.schema == pl.Schema(SCHEMA)
        expected = brute_force(*case)
        told = {row[0]: (row[1], row[2]) for row in table.select("sample_id", "keeper_id", "similarity").iter_rows()}
        assert told == expected, seed
        members = pl.concat([table.select("keeper_id"), table.select("keeper_id").unique()])["keeper_id"]
        counts = dict(members.value_counts().iter_rows())
        assert table["group_size"].to_list() == [counts[keeper] for keeper in table["keeper_id"]]
        sizes.append(table.height)
    assert min(sizes) == 0
    assert sum(size > 5 for size in sizes) > CASES / 4


def test_no_two_that_may_be_chosen_are_alike_and_each_other_is_alike_to_its_keeper() -> None:
    for seed in range(CASES):
        ids, vectors, _, spec = case = random_case(seed)
        table = found(case)
        rows = {own_id: row for row, own_id in enumerate(ids)}
        usable = np.flatnonzero(usable_vectors(vectors))
        grid = dict(zip(usable.tolist(), round_unit_vectors(vectors[usable])[0], strict=True))
        dropped = set(table["sample_id"])
        kept = [row for row in grid if ids[row] not in dropped]
        limit = np.float32(spec.threshold)
        assert not any(cosine(grid[a], grid[b]) >= limit for i, a in enumerate(kept) for b in kept[:i]), seed
        assert not set(table["keeper_id"]) & dropped
        for dropped_id, keeper_id in table.select("sample_id", "keeper_id").iter_rows():
            assert cosine(grid[rows[dropped_id]], grid[rows[keeper_id]]) >= limit


def test_with_texts_as_by_brute_force() -> None:
    by_text = 0
    for seed in range(CASES):
        ids, vectors, scores, spec = random_case(seed)
        spec = spec.model_copy(update={"text": 0.8})
        random = np.random.default_rng(seed)
        texts = random.integers(0, 2**32, (int(random.integers(1, 30)), VALUES), np.uint32)
        values = texts[random.integers(0, len(texts), len(ids))]
        edited = random.random(values.shape) < random.choice([0, 0.03])  # 0.94 and less than 0.01 are equal
        values[edited] = random.integers(0, 2**32, int(edited.sum()), np.uint32)
        own = scores if spec.keep == "best" else None
        table = find_near_duplicates(nearest(ids, vectors), vectors, own, spec, values)
        told = {row[0]: (row[1], row[2]) for row in table.select("sample_id", "keeper_id", "similarity").iter_rows()}
        expected = brute_force(ids, vectors, scores, spec, values)
        assert {sample: keeper for sample, (keeper, _) in told.items()} == {
            sample: keeper for sample, (keeper, _) in expected.items()
        }
        assert all(told[sample][1] == pytest.approx(share, abs=1e-6) for sample, (_, share) in expected.items())
        by_text += (table["by"] == "text").sum()
    assert by_text > CASES


def test_texts_that_differ_in_a_word_are_found_and_others_are_not(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def pair(words: list[str]) -> list[list[Message]]:
        other = [*words]
        other[20] = "another"
        half = len(words) // 2
        return [conversation(" ".join(text[:half]), " ".join(text[half:])) for text in (words, other)]

    texts = [pair([f"w{n}" for n in random.integers(0, 900, 200)]) for _ in range(100)]
    samples = samples_frame([each for both in texts for each in both])
    path = UPath(tmp_path / "signatures.parquet")
    table = update_signatures(path, samples, [samples, samples.head(3)])
    assert table["sample_id"].to_list() == samples["sample_id"].to_list()
    neighbors = pl.DataFrame({"sample_id": table["sample_id"], "similarity": pl.Series([None] * 200, dtype=pl.Float32)})
    vectors, values = np.full((200, 4), np.nan, np.float32), table["signature"].to_numpy()
    spec = NearDuplicatesSpec(text=0.8, keep="first")
    found = find_near_duplicates(neighbors, vectors, None, spec, values)
    pairs = {frozenset((sample_id(one), sample_id(other))) for one, other in texts}
    assert {frozenset(row) for row in found.select("sample_id", "keeper_id").iter_rows()} <= pairs
    assert found.height >= 99
    assert set(found["by"]) == {"text"}
    assert found["similarity"].mean() == pytest.approx(191 / 201, abs=0.02)  # 5 of 196 shingles differ on either side
    assert update_signatures(path, samples.head(50), None).equals(table.head(50))
    assert kept_signatures(path).height == 50
    assert update_signatures(path, samples, [samples]).equals(table)


def test_patched_neighbours_give_the_table_of_fresh_ones() -> None:
    for seed in range(0, CASES, 10):
        ids, vectors, scores, spec = case = random_case(seed)
        known = np.random.default_rng(seed).random(len(ids)) < 0.7
        earlier = nearest(ids.filter(pl.Series(known)), vectors[known])
        patched = update_nearest(ids, vectors, earlier)
        own = scores if spec.keep == "best" else None
        assert find_near_duplicates(patched, vectors, own, spec).equals(found(case))


def test_blocks_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 8))[random.integers(0, 60, 300)] + random.normal(size=(300, 8)) * 0.2
    grid, _ = round_unit_vectors(vectors)
    whole = elect(grid, 0.95)
    assert 10 < len(np.unique(whole.keeper)) < 250
    monkeypatch.setattr("dselect_core.neighbors.near_duplicates._BLOCK", 7)
    monkeypatch.setattr("dselect_core.neighbors.near_duplicates._TILE", 5)
    cut = elect(grid, 0.95)
    assert np.array_equal(whole.keeper, cut.keeper)
    assert np.array_equal(whole.similarity, cut.similarity)


def test_the_reason_names_the_kept_sample_and_the_score_that_decided() -> None:
    ids = pl.Series(["a" * 32, "b" * 32, "c" * 32, "d" * 32])
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.02], [0, 1]], np.float32)
    scores = pl.DataFrame({"sample_id": ids, "grade": [0.5, 0.8, None, 0.1], "upd": [0.1, 0.2, 0.3, 0.4]})
    table = find_near_duplicates(nearest(ids, vectors), vectors, scores, NearDuplicatesSpec())
    assert table["reason"].to_list() == [
        "near-duplicate of a sample that is kept (bbbbbbbbbbbb: cosine 1.000, grade 0.8 against 0.5)",
        "near-duplicate of a sample that is kept (bbbbbbbbbbbb: cosine 1.000, grade 0.8 against none)",
    ]
    assert {short_reason(reason) for reason in table["reason"]} == {"near-duplicate of a sample that is kept"}
    level = scores.with_columns(grade=pl.lit(0.5))
    table = find_near_duplicates(nearest(ids, vectors), vectors, level, NearDuplicatesSpec())
    assert table["reason"][0].endswith("upd 0.3 against 0.1)")
    first = find_near_duplicates(nearest(ids, vectors), vectors, None, NearDuplicatesSpec(keep="first"))
    assert first["keeper_id"].to_list() == ["a" * 32] * 2
    assert first["reason"][0].endswith("cosine 1.000, the lower id)")


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": 1.1}, {"keep": "last"}, {"treshold": 0.9}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NearDuplicatesSpec.model_validate(wrong)
