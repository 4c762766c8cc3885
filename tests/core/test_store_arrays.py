"""The store's vectors, on a disk and on S3: read by row, verified row by row, damaged, compacted, many writers."""

import logging
import multiprocessing
import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from dselect_core.errors import DselectError
from dselect_core.storage import score_store, store_folder, vector_file
from dselect_core.storage.score_store import Store
from dselect_core.storage.store_folder import ORPHAN_SECONDS, WRITTEN_AT, StoreFolder
from tests.core.test_store import (
    FINGERPRINT,
    at,
    elsewhere,
    files,
    flipped,
    ids,
    log_messages,
    missing,
    with_time,
    write_file,
)

WIDTH = 6


@pytest.fixture(scope="module")
def bucket(s3: dict[str, Any]) -> UPath:
    made = UPath(f"s3://{uuid.uuid4()}", **s3)
    elsewhere(made).fs.mkdir(made.path)
    return made


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = UPath(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket") / f"{uuid.uuid4()}"
    return Store(root / FINGERPRINT, array_column="vector")


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(UPath(tmp_path) / FINGERPRINT, array_column="vector")


def reopen(store: Store) -> Store:
    """The same store as another process opens it."""
    return Store(elsewhere(store.folder), store.keys, store.retry_column, store.array_column)


@pytest.fixture
def forget_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Clear what this process remembers of parts, as if it had just started."""

    def start() -> None:
        monkeypatch.setattr(store_folder, "_verified_keys", {})
        monkeypatch.setattr(store_folder, "_altered_rows", {})

    start()
    return start


def vector(name: str, dtype: type = np.float32, width: int = WIDTH) -> np.ndarray:
    """The vector of a name, the same from every writer."""
    seed = np.random.default_rng(list(name.encode()))
    return (seed.standard_normal(width) * 100).astype(dtype)


def frame(names: str | list[str], second: int | None = None, nulls: str = "") -> pl.DataFrame:
    made = pl.DataFrame(
        {"sample_id": list(names), "vector": np.stack([vector(name) for name in names])},
        schema_overrides={"vector": pl.Array(pl.Float32, WIDTH)},
    )
    has = ~pl.col("sample_id").is_in(list(nulls))
    made = made.with_columns(pl.when(has).then(pl.col("vector")), reason=pl.when(~has).then(pl.lit("not finite")))
    return made if second is None else with_time(made, second)


def assert_held(store: Store, names: str | list[str], nulls: str = "", asked: str | list[str] | None = None) -> None:
    """The store holds of `asked` exactly these rows, bit by bit, in both ways of reading."""
    expected = frame(sorted(names), nulls=nulls) if names else None
    rows = ids(list(asked if asked is not None else names))
    got, (keys, values, present) = store.read(rows), store.read_array(rows)
    if expected is None:
        assert got.is_empty() and keys.is_empty() and len(values) == len(present) == 0
        return
    assert got.equals(expected) and got.schema == expected.schema
    assert keys.equals(expected.select("sample_id"))
    assert present.tolist() == expected["vector"].is_not_null().to_list()
    assert values.dtype == np.float32 and values.shape == (len(names), WIDTH)
    assert np.isnan(values[~present]).all()
    assert np.array_equal(values[present], expected["vector"].drop_nulls().to_numpy().reshape(-1, WIDTH))


def array_of(path: UPath | None) -> UPath:
    assert path is not None
    return path.with_suffix(".npy")


def age(store: Store, name: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file look so many seconds old."""
    if store.folder.protocol:
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
    else:
        os.utime(store.folder / name, (time.time() - seconds,) * 2)


# Append and read


def test_vectors_are_read_back_as_they_were(store: Store) -> None:
    store.append(frame("dbxa", nulls="x"))
    store.append(frame("ec"))
    store.append(frame("yz", nulls="yz"))
    assert_held(reopen(store), "abcdexyz", nulls="xyz")
    assert_held(store, "bx", nulls="x", asked="xqb")
    assert_held(store, "", asked="q")
    assert missing(store, "zqabx") == "q"
    assert store.read(ids("q")).columns == ["sample_id", "vector", "reason"]
    # Without its vectors a part of nulls needs no array.
    assert sorted(name.rsplit(".", 1)[1] for name in files(store)) == ["npy"] * 2 + ["parquet"] * 3


def test_an_empty_store_of_vectors(store: Store) -> None:
    keys, values, present = store.read_array(ids("a"))
    assert keys.is_empty() and values.shape == (0, 0) and len(present) == 0
    assert store.read(ids("a")).columns == ["sample_id"] and store.read_without_vectors(ids("a"))[0].is_empty()
    assert store.append(frame("a").clear()) is None and store.compact() == store.gc(ids("a")) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.uint32, np.int64])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_any_numbers_of_any_width(local: Store, dtype: type, width: int) -> None:
    values = np.stack([vector(name, dtype, width) for name in "abc"])
    made = pl.DataFrame({"sample_id": list("abc"), "vector": values})
    made = made.with_columns(pl.when(pl.col("sample_id") != "b").then(pl.col("vector")))
    path = local.append(made)
    assert local.read(made).equals(made) and local.read(made).schema == made.schema
    found = local.read_array(made)
    assert found.values.dtype == dtype and np.array_equal(found.values[[0, 2]], values[[0, 2]])
    assert np.isnan(found.values[1]).all() if np.issubdtype(dtype, np.floating) else (found.values[1] == 0).all()
    # Anybody's tool reads the file.
    assert np.array_equal(np.load(array_of(path).path), values[[0, 2]])


def test_values_that_are_not_finite_are_kept_bit_by_bit(local: Store) -> None:
    values = np.array([[np.nan, np.inf, -0.0], [-np.inf, 0.0, 1e-45]], np.float32)
    made = pl.DataFrame({"sample_id": ["a", "b"], "vector": values})
    local.append(made)
    assert local.read_array(made).values.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pl.Series([[1.0]], dtype=pl.List(pl.Float32)), "must be a pl.Array of numbers"),
        (pl.Series([[True]], dtype=pl.Array(pl.Boolean, 1)), "must be a pl.Array of numbers"),
        (pl.Series([[[1.0]]], dtype=pl.Array(pl.Array(pl.Float32, 1), 1)), "must be a pl.Array of numbers"),
        (pl.Series([[]], dtype=pl.Array(pl.Float32, 0)), "must be a pl.Array of numbers"),
        (pl.Series([[1, None]], dtype=pl.Array(pl.UInt32, 2)), "a vector has a null inside"),
    ],
)
def test_what_is_no_vector_is_refused(local: Store, column: pl.Series, why: str) -> None:
    with pytest.raises(ValueError, match=f"vector: .*{why}"):
        local.append(pl.DataFrame({"sample_id": ["a"], "vector": column}))
    assert not Path(local.folder.path).exists()


def test_vectors_of_two_shapes_are_not_put_together(local: Store) -> None:
    local.append(frame("a"))
    local.append(pl.DataFrame({"sample_id": ["b"], "vector": np.zeros((1, WIDTH + 1), np.float32)}))
    with pytest.raises(DselectError, match="vectors of several shapes under one provenance"):
        local.read_array(ids("ab"))


def test_columns_are_those_asked(store: Store) -> None:
    store.append(frame("ba", 1))
    assert store.read(ids("ab"), ["reason", "vector"]).columns == ["sample_id", "reason", "vector"]
    assert store.read(ids("ab"), [WRITTEN_AT]).rows() == [("a", at(1)), ("b", at(1))]
    assert store.read(ids("ab"), ["vector", WRITTEN_AT]).columns == ["sample_id", "vector", WRITTEN_AT]
    (part,) = store.parts()
    assert part.frame.columns == ["sample_id", "reason", WRITTEN_AT]
    assert part.size == sum(len(data) for data in files(store).values())
    assert store.parts(["sample_id"])[0].frame.columns == ["sample_id"]


def test_of_two_vectors_of_a_row_the_first_written_stands(store: Store) -> None:
    other = frame("a", 1).with_columns(pl.Series("vector", np.zeros((1, WIDTH), np.float32)))
    store.append(frame("ab", 2))
    store.append(other)
    assert (store.read_array(ids("ab")).values[0] == 0).all()
    assert store.compact() == 2
    assert (store.read_array(ids("ab")).values[0] == 0).all()
    assert np.array_equal(store.read_array(ids("b")).values[0], vector("b"))


def test_random_rows_are_the_rows_of_the_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks and requests of a few rows, so that rows lie on both sides of every limit.
    for limit in ("_BLOCK_BYTES", "_GAP_BYTES", "_RANGE_BYTES", "_AT_ONCE_BYTES"):
        monkeypatch.setattr(vector_file, limit, {"_GAP_BYTES": 50, "_AT_ONCE_BYTES": 400}.get(limit, 100))
    chance = np.random.default_rng()
    values = chance.standard_normal((200, WIDTH)).astype(np.float32)
    names = [f"{row:03}" for row in range(200)]
    order = chance.permutation(200)
    for some in np.array_split(order, 3):
        store.append(pl.DataFrame({"sample_id": [names[row] for row in some], "vector": values[some]}))
    for count in (1, 2, 7, 60, 200):
        chosen = chance.choice(200, count, replace=False)
        keys, found, _ = store.read_array(pl.DataFrame({"sample_id": [names[row] for row in chosen]}))
        assert keys["sample_id"].to_list() == [names[row] for row in sorted(chosen)]
        assert np.array_equal(found, values[sorted(chosen)])


def test_a_lookup_and_a_read_without_vectors_open_no_array(local: Store) -> None:
    path = local.append(frame("abx", nulls="x"))
    array = Path(array_of(path).path)
    size = array.stat().st_size
    array.unlink()
    array.mkdir()  # whatever opens it fails
    with array.with_name("large").open("wb") as file:
        file.truncate(size)
    listed = store_folder.list_folder(local.folder, store_folder._STORE_FILE)
    assert any(entry.name == array.name for entry in listed)
    with pytest.raises(IsADirectoryError), array.open("rb"):
        pass
    array.rmdir()
    array.with_name("large").rename(array)  # as large as it was, but nothing in it is right
    assert missing(reopen(local), "abxq") == "q"
    stored, types = reopen(local).read_without_vectors(ids("abxq"))
    assert stored.rows() == [("a", True, None), ("b", True, None), ("x", None, "not finite")]
    assert types == {"vector": f"Array(float32, {WIDTH})"}
    assert reopen(local).read(ids("abx"), ["reason"])["reason"].to_list() == [None, None, "not finite"]
    assert_held(local, "x", nulls="x", asked="abx")


# Arrays that cannot be trusted


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (None, "missing"),
        (lambda data: b"", "torn"),
        (lambda data: data[:-1], "torn"),
        (lambda data: data + b"\0", "torn"),
    ],
    ids=["gone", "empty", "short", "long"],
)
def test_without_its_whole_array_a_part_counts_as_not_there(
    store: Store, damage: Callable[[bytes], bytes] | None, why: str, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store.append(frame("ab"))
    path = store.append(frame("cdx", nulls="x"))
    assert path is not None and (not known or missing(store, "abcdx") == "")
    array = array_of(path)
    data = array.read_bytes()
    if damage is None:
        elsewhere(array).unlink()
    else:
        write_file(store, array.name, damage(data))
    with caplog.at_level(logging.WARNING):
        assert missing(store, "abcdx") == "cdx"
        assert_held(store, "ab", asked="abcdx")
    assert store.skipped == {str(path): f"its array {array.name} is {why}"}
    assert len(log_messages(caplog)) == 1
    store.append(frame("cdx", nulls="x"))
    assert store.compact() == 2 and path.name in files(store)
    assert_held(reopen(store), "abcdx", nulls="x")
    write_file(store, array.name, data)  # mended: taken by who comes next
    assert reopen(store).parts()[-1].frame.height >= 3 and reopen(store).skipped == {}


def test_an_altered_row_is_made_again_and_no_other(
    store: Store, forget_parts: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = store.append(frame("abcd"))
    store.append(frame("e"))
    array = array_of(path)
    data = array.read_bytes()
    write_file(store, array.name, flipped(data, len(data) - 2 * WIDTH * 4 + 3))  # a byte of c
    assert missing(store, "abcde") == ""  # a lookup cannot know
    assert_held(store, "ab", asked="ab")  # nor need who does not read it
    with caplog.at_level(logging.WARNING):
        assert_held(store, "abde", asked="abcde")
    why = "altered: 1 of its 4 rows are not what was written, and are made again"
    assert store.skipped == {str(array): why} and log_messages(caplog) == [f"{array}: {why}"]
    assert missing(store, "abcde") == "c"
    forget_parts()  # the next process knows too
    assert missing(reopen(store), "abcde") == "c"
    assert_held(reopen(store), "abde", asked="abcde")
    store.append(frame("c"))
    assert missing(store, "abcde") == ""
    assert_held(store, "abcde")
    assert store.compact() == 3 and len(files(store)) == 2
    assert_held(reopen(store), "abcde")


def test_every_kind_of_altered_row_shows() -> None:
    """One bit anywhere, two of any, all signs, words in another order, zeros: each gives another check."""
    chance = np.random.default_rng()
    for dtype, width in ((np.float32, 8), (np.float16, 3), (np.uint32, 6), (np.float64, 4)):
        row = np.frombuffer(chance.bytes(np.dtype(dtype).itemsize * width), dtype)
        bits = np.unpackbits(row.view(np.uint8))
        flips = [{i, j} for i in range(len(bits)) for j in range(i, len(bits))]
        altered = np.tile(bits, (len(flips), 1))
        for number, flip in enumerate(flips):
            altered[number, list(flip)] ^= 1
        signs = bits.copy()
        signs[(np.dtype(dtype).itemsize - 1) * 8 :: np.dtype(dtype).itemsize * 8] ^= 1
        packed = np.packbits(np.vstack([bits, altered, signs, np.zeros_like(bits)]), axis=1)
        rows = np.vstack([packed.view(dtype), row[::-1]])
        found = vector_file.compute_checks(rows).tolist()
        assert len(set(found)) == len(rows) == len(flips) + 4


def test_the_check_is_part_of_the_format() -> None:
    assert vector_file.compute_checks(np.arange(12, dtype=np.float32).reshape(2, 6)).tolist() == [
        12126763312035659776,
        9195941012640366592,
    ]
    assert vector_file.compute_checks(np.arange(6, dtype=np.uint8).reshape(2, 3)).tolist() == [
        8150160412494245632,
        8224213032595301645,
    ]


def test_an_altered_row_that_another_part_has_too_is_read_from_there(store: Store) -> None:
    path = store.append(frame("ab", 1))
    store.append(frame("bc", 2))
    write_file(store, array_of(path).name, flipped(array_of(path).read_bytes(), -1))
    assert_held(store, "abc")
    assert missing(store, "abc") == ""
    assert array_of(path).with_suffix(".bad").name in files(store)


def test_rows_that_changed_places_and_zeros_of_a_lost_write_show(local: Store) -> None:
    for place, damage in enumerate((lambda rows: rows[::-1], np.zeros_like)):
        path = local.append(frame([f"{place}{name}" for name in "abc"]))
        array = Path(array_of(path).path)
        values = np.load(array)
        np.save(array, damage(values))
    left = reopen(local).read_array(ids([f"{place}{name}" for place in (0, 1) for name in "abc"]))
    assert left.keys["sample_id"].to_list() == ["0b"]


def test_an_altered_row_found_by_a_compaction_is_left_out_by_the_next(store: Store) -> None:
    path = store.append(frame("abc"))
    store.append(frame("d"))
    write_file(store, array_of(path).name, flipped(array_of(path).read_bytes(), -1))
    assert store.compact() == 0 and missing(store, "abcd") == "c"
    assert store.compact() == 2 and missing(store, "abcd") == "c"
    assert_held(reopen(store), "abd", asked="abcd")


def test_where_it_cannot_be_noted_this_process_knows(
    local: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = local.append(frame("ab"))
    write_file(local, array_of(path).name, flipped(array_of(path).read_bytes(), -1))

    def refused(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(store_folder, "write_json", refused)
    with caplog.at_level(logging.WARNING):
        assert_held(local, "a", asked="ab")
    assert missing(reopen(local), "ab") == "b"
    assert any("cannot be written (read-only)" in line for line in log_messages(caplog))


def test_a_note_that_is_no_note_is_named_and_ignored(store: Store) -> None:
    path = store.append(frame("ab"))
    note = write_file(store, array_of(path).with_suffix(".bad").name, b'{"rows": "all"}')
    assert missing(store, "ab") == "" and store.skipped == {note: "not a list of row numbers"}
    assert_held(store, "ab")


def test_parts_of_another_layout_are_named_and_made_again(store: Store) -> None:
    inside = Store(store.folder)
    old = inside.append(frame("ab"))
    assert missing(store, "ab") == "ab"
    assert store.skipped == {str(old): "of another layout: its vectors are not stored as this store expects"}
    new = store.append(frame("ab"))
    assert_held(store, "ab")
    looked = reopen(inside)
    assert looked.missing(ids("ab")).is_empty() and str(new) in looked.skipped


# Killed, compacted, cleared out


def test_an_array_whose_part_was_never_written_is_nothing(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(frame("a"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score_store, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            store.append(frame("b", 1))
    (orphan,) = {name for name in files(store) if name.endswith(".npy")} - {array_of(store.parts()[0].path).name}
    with caplog.at_level(logging.WARNING):
        assert missing(store, "ab") == "b"
        assert_held(store, "a", asked="ab")
        assert store.compact() == 0 and store.gc(ids("a")) == 0
    assert orphan in files(store) and log_messages(caplog) == [] and store.skipped == {}
    age(store, orphan, ORPHAN_SECONDS + 60, monkeypatch)
    store.compact()
    assert orphan not in files(store) and len(files(store)) == 2
    assert_held(reopen(store), "a")
    store.append(frame("b", 1))  # the writer that comes next writes the same
    assert orphan in files(store)
    assert_held(store, "ab")


def test_old_temporary_files_go_and_new_ones_and_strangers_stay(local: Store) -> None:
    path = local.append(frame("a"))
    old, new = (f".{path.stem}.npy.{uuid.uuid4().hex}.tmp" for _ in range(2)) if path else ("", "")
    for name in (old, new, ".notes"):
        write_file(local, name, b"half")
    for name in (old, ".notes"):
        os.utime(local.folder / name, (0, 0))
    local.compact()
    assert old not in files(local) and {new, ".notes"} <= files(local).keys()


def test_compaction_puts_arrays_together(store: Store) -> None:
    for second, names in enumerate(("db", "xa", "bc", "y")):
        store.append(frame(names, second, nulls="xy"))
    before = store.read(ids("abcdxy"), ["vector", "reason", WRITTEN_AT])
    assert store.compact() == 4
    assert before.equals(reopen(store).read(ids("abcdxy"), ["vector", "reason", WRITTEN_AT]))
    (part,) = store.parts()
    assert files(store).keys() == {part.path.name, array_of(part.path).name}
    data = files(store)[array_of(part.path).name]
    assert part.layout is not None and len(data) == part.layout.size and part.layout.rows == 4
    assert store.compact() == 0
    assert store.gc(ids("bdx")) == 3
    assert_held(store, "bdx", nulls="x")
    assert store.gc(ids("x")) == 2 and len(files(store)) == 1
    assert_held(store, "x", nulls="x")
    assert store.gc(ids("")) == 1 and files(store) == {}


def test_what_is_large_counts_the_array_and_memory_is_bounded(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{row:04}" for row in range(900)]
    for start in range(0, 900, 100):
        local.append(frame(names[start : start + 100]))
    (size,) = {part.size // 1000 for part in local.parts()}
    monkeypatch.setattr(score_store, "LARGE_PART_BYTES", size * 500)  # less than a part: with its array each is large
    assert local.compact() == 0
    monkeypatch.setattr(score_store, "LARGE_PART_BYTES", (size + 1) * 1000)
    assert local.compact() == 9
    heights = sorted(part.frame.height for part in local.parts())
    assert sum(heights) == 900 and max(heights) <= 300
    assert_held(reopen(local), names)


NAMES = "abcdef"
STEPS = st.one_of(
    st.tuples(st.just("append"), st.sets(st.sampled_from(NAMES), min_size=1), st.sets(st.sampled_from(NAMES))),
    st.tuples(st.just("compact"), st.just(set()), st.just(set())),
    st.tuples(st.just("gc"), st.sets(st.sampled_from(NAMES), min_size=3), st.just(set())),
    st.tuples(st.just("alter"), st.sets(st.sampled_from(NAMES), min_size=1), st.just(set())),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=8))
def test_after_any_steps_the_store_holds_what_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[str], set[str]]]
) -> None:
    store = Store(UPath(tmp_path_factory.mktemp("store")) / FINGERPRINT, array_column="vector")
    rows: dict[str, bool] = {}  # name → whether it has a vector
    for second, (step, names, nulls) in enumerate(steps):
        if step == "append":
            new = "".join(sorted(names - rows.keys()))
            if new:
                store.append(frame(new, second, nulls="".join(nulls)))
                rows |= {name: name not in nulls for name in new}
        elif step == "compact":
            store.compact()
        elif step == "gc":
            store.gc(ids(sorted(names)))
            rows = {name: has for name, has in rows.items() if name in names}
        else:  # the vectors of these rows rot
            for path in Path(store.folder.path).glob("*.parquet") if rows else ():
                table = pl.read_parquet(path).filter(
                    pl.col("sample_id").is_in(sorted(names)), pl.col("row").is_not_null()
                )
                if table.height:
                    values = np.load(path.with_suffix(".npy"))
                    values[table["row"].to_numpy()] += 1
                    np.save(path.with_suffix(".npy"), values)
            store.read_array(ids(NAMES))
            rows = {name: has for name, has in rows.items() if name not in names or not has}
        expected = "".join(sorted(rows))
        assert_held(store, expected, nulls="".join(n for n in rows if not rows[n]), asked=NAMES)
        assert missing(store, NAMES) == "".join(name for name in NAMES if name not in rows)


# Others at the same time


def in_the_middle(patch: pytest.MonkeyPatch, where: Any, name: str, work: Callable[[], object]) -> None:
    """Do `work`, once, just before a function is called."""
    call, todo = getattr(where, name), [work]

    def first(*args: Any, **options: Any) -> Any:
        if todo:
            todo.pop()()
        return call(*args, **options)

    patch.setattr(where, name, first)


@pytest.mark.parametrize(
    "moment",
    [(vector_file, "read_vectors_into"), (StoreFolder, "_load_part"), (StoreFolder, "_with_trusted_rows")],
    ids=lambda at: at[1],
)
@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_a_compaction_in_the_middle_of_a_read_hides_no_row(
    store: Store, moment: tuple[Any, str], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        store.append(frame(name))
    assert not known or missing(store, "abc") == ""
    with monkeypatch.context() as patch:
        in_the_middle(patch, *moment, reopen(store).compact)
        if known and moment[1] == "_load_part":
            reopen(store).compact()
        assert_held(store, "abc")
    assert len(files(store)) == 2 and store.skipped == {}


def test_a_compaction_in_the_middle_of_another_loses_no_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        store.append(frame(name))
    with monkeypatch.context() as patch:
        in_the_middle(patch, vector_file, "read_vectors_into", reopen(store).compact)
        assert store.compact() == 0  # the other has done it
    assert_held(reopen(store), "abc")
    assert len(files(store)) == 2 and store.skipped == {}


def test_a_part_listed_before_its_array_is_looked_at_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of several pages on S3 may show the part, which is written last, and not the array before it."""
    path = store.append(frame("ab"))
    list_folder, late = store_folder.list_folder, [array_of(path).name]

    def first(folder: UPath, known: Any) -> list[Any]:
        hidden = late.pop() if late else None
        return [entry for entry in list_folder(folder, known) if entry.name != hidden]

    monkeypatch.setattr(store_folder, "list_folder", first)
    assert_held(store, "ab")
    assert late == [] and store.skipped == {}


WRITERS, PARTS = 3, 15


def write(url: str, options: dict[str, Any], writer: int) -> None:
    store = Store(UPath(url, **options), array_column="vector")
    for number in range(PARTS):
        names = [f"{writer}-{number}-{row}" for row in range(8)]
        store.append(frame(names))
        assert_held(store, names)
        if number % 5 == writer:
            store.compact()
    assert store.skipped == {}


def test_many_processes_append_compact_and_read_at_once(local: Store) -> None:
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as people:
        for done in [people.submit(write, str(local.folder), {}, writer) for writer in range(WRITERS)]:
            done.result()
    check_all(local)


def test_many_threads_append_compact_and_read_at_once_on_s3(
    s3: dict[str, Any], bucket: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PARTS", 6)
    store = Store(bucket / "many" / FINGERPRINT, array_column="vector")
    with ThreadPoolExecutor(WRITERS) as people:
        for done in [people.submit(write, str(store.folder), s3, writer) for writer in range(WRITERS)]:
            done.result()
    check_all(store)


def check_all(store: Store) -> None:
    names = [f"{writer}-{number}-{row}" for writer in range(WRITERS) for number in range(PARTS) for row in range(8)]
    assert_held(reopen(store), names)
    store.compact()
    assert_held(reopen(store), names)
    # Nothing is left over: a part, and its array.
    assert sorted(name.rsplit(".", 1)[1] for name in files(store)) == ["npy", "parquet"]
