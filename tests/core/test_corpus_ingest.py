"""The account of every row, duplicates and origins, what a source's paths mean, and the signature."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core.corpus import ingest as ingest_module
from dselect_core.corpus.ingest import IngestedSource, ingest
from dselect_core.corpus.sample import QUARANTINE, SAMPLES, chat_messages, sample_id
from dselect_core.corpus.source_files import files_signature
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def qa(prompt: str, completion: Any = "a") -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def ingest_paths(*paths: Path | str, **spec: Any) -> IngestedSource:
    return ingest("s", SourceSpec(path=[str(path) for path in paths], **spec))


def files(got: IngestedSource, root: Path) -> list[str]:
    return [os.path.relpath(file.file, root) for file in got.files]


# --- the account -----------------------------------------------------------------------------------------------------

texts: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=4),
    st.sampled_from(["", " ", "\n", "a", "b", "a\n", "\ud800", "\0"]),
    st.none(),
    st.integers(),
    st.just([]),
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "critic", "GPT"]), "content": texts}
)
good = st.sampled_from([qa("1"), qa("1", "b"), qa("1\n"), qa("2")])
odd = st.one_of(
    st.fixed_dictionaries({"prompt": texts, "completion": texts}),
    st.fixed_dictionaries({"messages": st.lists(turns, max_size=4)}),
    st.fixed_dictionaries({"conversations": st.lists(texts, max_size=4)}),
    st.fixed_dictionaries({"instruction": texts, "output": texts}, optional={"input": texts, "history": texts}),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rows_are_samples_duplicates_and_quarantined(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("account")
    kinds = data.draw(st.lists(st.sampled_from(["jsonl", "json"]), min_size=1, max_size=3))
    written: dict[tuple[str, int], Any] = {}
    for i, kind in enumerate(kinds):
        rows = [qa("first"), *data.draw(st.lists(st.one_of(good, odd), max_size=12))]
        path = folder / f"{i}.{kind}"
        if kind == "json":
            path.write_text(json.dumps(rows))
            written |= {(str(path), n): row for n, row in enumerate(rows, start=1)}
            continue
        lines = [
            data.draw(st.sampled_from([json.dumps(row).encode()] * 4 + [b"{", b"", b"\xff", b" "])) for row in rows
        ]
        path.write_bytes(b"\n".join([json.dumps(rows[0]).encode(), *lines]))
        written |= {(str(path), n): line for n, line in enumerate(lines, start=2) if line.strip()}
        written[str(path), 1] = rows[0]
    got = ingest("s", SourceSpec(path=str(folder)))
    assert got.balances and got.rows == len(written)
    assert got.samples.schema == SAMPLES and got.quarantine.schema == QUARANTINE
    assert got.samples["n_rows"].sum() == got.rows - got.quarantined == got.samples.height + got.duplicates
    origins = (
        got.samples.explode("origins").unnest("origins") if got.samples.height else pl.DataFrame(schema=QUARANTINE)
    )
    all_rows = [*origins.select("file", "row").rows(), *got.quarantine.select("file", "row").rows()]
    assert sorted(all_rows) == sorted(written)
    assert got.samples["sample_id"].is_sorted() and got.samples["sample_id"].n_unique() == got.samples.height
    for id, messages in got.samples.select("sample_id", "messages").rows():
        assert sample_id(messages) == id
        body = messages[1:] if messages[0]["role"] == "system" else messages
        assert [m["role"] for m in body] == ["user", "assistant"] * (len(body) // 2) and all(
            m["content"].strip() for m in body
        )


def test_duplicates_are_counted_within_the_source_and_keep_every_origin(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", qa("1"), qa("2"), qa("1\n "))
    b = write(
        tmp_path / "b.jsonl", {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}]}
    )
    got = ingest_paths(b, a)
    assert (got.rows, got.samples.height, got.duplicates, got.quarantined) == (4, 2, 2, 0)
    one = got.samples.row(by_predicate=pl.col("n_rows") == 3, named=True)
    assert chat_messages(one["messages"]) == [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}]
    assert one["origins"] == [{"source": "s", "file": str(f), "row": r} for f, r in ((a, 1), (a, 3), (b, 1))]
    assert got.formats == ["prompt_completion", "messages"]
    assert [(f.layout, f.rows) for f in got.files] == [
        ("prompt_completion (prompt, completion)", 3),
        ("messages (messages)", 1),
    ]


def test_the_order_of_rows_and_files_moves_no_sample(tmp_path: Path) -> None:
    rows = [qa(str(i)) for i in range(20)]
    whole = ingest_paths(write(tmp_path / "whole.jsonl", *rows))
    parts = ingest_paths(write(tmp_path / "2.jsonl", *rows[12::-1]), write(tmp_path / "1.jsonl", *rows[13:]))
    assert whole.samples.drop("origins").equals(parts.samples.drop("origins"))


def test_quarantine_is_sorted_and_tells_file_row_reason_and_excerpt(tmp_path: Path) -> None:
    bad = qa("q" * 300, " ")
    b = write(tmp_path / "b.jsonl", qa("1"), bad)
    a = tmp_path / "a.json"
    a.write_text(json.dumps([qa("1"), qa("2"), bad, 7]))
    got = ingest_paths(b, a)
    assert got.quarantine.rows() == [
        ("s", str(a), 3, "`completion`: the response is blank", json.dumps(bad)[:200]),
        ("s", str(a), 4, "not a JSON object but a number", "7"),
        ("s", str(b), 2, "`completion`: the response is blank", json.dumps(bad)[:200]),
    ]
    assert [file.quarantined for file in got.files] == [2, 1]


def test_rows_before_the_first_that_fits_are_quarantined_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "VOTING_ROWS", 3)
    got = ingest_paths(write(tmp_path / "x.jsonl", *[{"note": i} for i in range(7)], qa("1"), {"note": 8}, qa("2")))
    assert (got.rows, got.samples.height, got.quarantined) == (10, 2, 8)
    assert got.quarantine["reason"][0] == "no known format; keys found: note"


def test_a_source_of_bad_rows_only_is_a_full_quarantine(tmp_path: Path) -> None:
    got = ingest_paths(write(tmp_path / "x.jsonl", qa("1", ""), qa("2", 3)))
    assert (got.samples.height, got.quarantined) == (0, 2) and got.balances and got.samples.schema == SAMPLES


def test_an_empty_shard_beside_others_is_listed_with_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", qa("1"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b""))
    got = ingest_paths(tmp_path)
    assert [(file.format, file.rows) for file in got.files] == [("prompt_completion", 1), (None, 0)]
    assert got.formats == ["prompt_completion"]


# --- bad files -------------------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, str]:
    """Writes files that are bad as a whole, beside good ones; {name: the beginning of why}."""
    write(folder / "a.jsonl", qa("1"), qa("2"))
    packed = gzip.compress("".join(json.dumps(qa(str(i))) + "\n" for i in range(5000)).encode())
    (folder / "cut.jsonl.gz").write_bytes(packed[:-9])  # its first rows can be read
    (folder / "empty.jsonl").write_bytes(b"")
    write(folder / "other.jsonl", {"text": "a"}, {"text": "b"})
    (folder / "link.jsonl").symlink_to(folder / "gone")
    (folder / "table.parquet").write_bytes(b"PAR1 but no more")
    write(folder / "z.jsonl", qa("2"), qa("3"), qa("4", " "))
    return {
        "cut.jsonl.gz": "torn or unreadable",
        "empty.jsonl": "the file is empty",
        "link.jsonl": "no such file",
        "other.jsonl": "no row has a known format",
        "table.parquet": "torn or unreadable",
    }


def test_by_default_a_bad_file_fails_its_source(tmp_path: Path) -> None:
    bad_files(tmp_path)
    with pytest.raises(DselectError, match=r"cut\.jsonl\.gz: torn or unreadable \(Truncated compressed stream\)"):
        ingest_paths(tmp_path)


def test_a_bad_file_that_is_skipped_is_named_in_quarantine_and_none_of_its_rows_counts(tmp_path: Path) -> None:
    bad = bad_files(tmp_path)
    got = ingest_paths(tmp_path, on_bad_file="skip")
    assert files(got, tmp_path) == ["a.jsonl", "z.jsonl"]
    assert {os.path.relpath(name, tmp_path) for name in got.bad_files} == set(bad)
    assert (got.rows, got.samples.height, got.duplicates, got.quarantined) == (5, 3, 1, 1) and got.balances
    told = {Path(row["file"]).name: row["reason"] for row in got.quarantine.to_dicts() if row["row"] is None}
    assert set(told) == set(bad)
    for name, reason in bad.items():
        assert told[name].startswith(f"bad file: {tmp_path / name}: {reason}")
    good_alone = ingest_paths(tmp_path / "a.jsonl", tmp_path / "z.jsonl")
    assert got.samples.equals(good_alone.samples)


def test_a_source_of_bad_files_only_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    bad_files(tmp_path)
    for good in ("a.jsonl", "z.jsonl"):
        (tmp_path / good).unlink()
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DselectError, match=r"no file of source s has rows\. .*cut\.jsonl\.gz: torn .*4 bad files too"):
        ingest_paths(tmp_path, on_bad_file="skip")


def test_a_file_of_bad_rows_without_end_is_bad_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "VOTING_ROWS", 3)
    write(tmp_path / "x.jsonl", *[{"note": i} for i in range(1000)], qa("1"))
    with pytest.raises(DselectError, match="no row has a known format; keys found: note"):
        ingest_paths(tmp_path)


def test_a_reason_is_no_longer_than_a_person_reads(tmp_path: Path) -> None:
    got = ingest_paths(write(tmp_path / "x.jsonl", qa("1"), {"k" * 10_000: 1}))
    assert len(got.quarantine["reason"][0]) <= 500


@pytest.mark.parametrize("name", ["n" * 300 + ".jsonl", "/".join(["n" * 200] * 30), "nul\0byte.jsonl"])
def test_a_name_that_no_file_can_have_is_an_error_naming_it(tmp_path: Path, name: str) -> None:
    for attempt in (ingest_paths, lambda path: files_signature(SourceSpec(path=path))):
        with pytest.raises(DselectError, match=r"no such file or folder|cannot be listed"):
            attempt(str(tmp_path / name))


# --- what a path means -----------------------------------------------------------------------------------------------


def test_a_folder_is_its_data_files_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.jsonl", "sub/a.json", "sub/deep/c.ndjson", ".hidden.jsonl", "_delta_log/0.json", ".git/x.json"):
        write(tmp_path / name, qa(name))
    for name in ("README.md", "sub/dataset_info.json", "_SUCCESS"):
        write(tmp_path / name, {})
    got = ingest_paths(tmp_path)
    assert files(got, tmp_path) == ["b.jsonl", "sub/a.json", "sub/deep/c.ndjson"]
    skipped = [os.path.relpath(name, tmp_path) for name in got.skipped]
    assert skipped == ["README.md", "_delta_log/0.json", "sub/dataset_info.json"]


def test_globs_match_files_and_the_folders_they_name(tmp_path: Path) -> None:
    for name in ("a1.jsonl", "a2.jsonl", "b.jsonl", "sub/c.jsonl"):
        write(tmp_path / name, qa(name))
    assert files(ingest_paths(tmp_path / "a*.jsonl"), tmp_path) == ["a1.jsonl", "a2.jsonl"]
    assert files(ingest_paths(tmp_path / "*"), tmp_path) == ["a1.jsonl", "a2.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert files(ingest_paths(tmp_path / "**/*.jsonl"), tmp_path) == ["a1.jsonl", "a2.jsonl", "b.jsonl", "sub/c.jsonl"]


def test_a_file_that_two_patterns_match_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", qa("1"))
    got = ingest_paths(path, tmp_path, tmp_path / "*.jsonl")
    assert (got.rows, got.duplicates, len(got.files)) == (1, 0, 1)


def test_a_name_that_looks_like_a_glob(tmp_path: Path) -> None:
    assert ingest_paths(write(tmp_path / "a[1].jsonl", qa("1"))).rows == 1


def test_names_are_as_the_user_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/a.jsonl", qa("1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ingest_paths("data/*.jsonl").files[0].file == "data/a.jsonl"
    assert ingest_paths("./data").files[0].file == "data/a.jsonl"
    for path in ("~/data", f"file://{tmp_path}/data/a.jsonl"):
        assert ingest_paths(path).files[0].file == str(tmp_path / "data/a.jsonl")


def test_file_names_that_are_not_utf8_stay_two_files(tmp_path: Path) -> None:
    try:
        write(tmp_path / os.fsdecode(b"a\xfe.jsonl"), qa("1"))
        write(tmp_path / os.fsdecode(b"a\xff.jsonl"), qa("2"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    write(tmp_path / "a\\xff.jsonl", qa("3"))
    got = ingest_paths(tmp_path)
    assert (got.rows, got.samples.height) == (3, 3)
    names = [Path(row["file"]).name for origins in got.samples["origins"] for row in origins]
    assert sorted(names) == [r"a\xfe.jsonl", r"a\xff.jsonl", r"a\xff.jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.jsonl", "no such file or folder. Mend `path` in the source, or put the file there."),
        ("gone/*.jsonl", "the glob matches no file. Mend `path` in the source, or put the file there."),
        (
            "bare",
            "no data files there. Readable are JSON arrays, JSON Lines, Parquet and Arrow, plain or .gz, .zst, "
            ".bz2, .xz; name other files one by one.",
        ),
        ("bare*", "no data files there. Readable are JSON arrays"),
    ],
)
def test_a_place_without_data_is_an_error_naming_it(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path / "bare/README.md", "…")
    for attempt in (ingest_paths, lambda p: files_signature(SourceSpec(path=p))):
        with pytest.raises(DselectError) as failed:
            attempt(str(tmp_path / path))
        assert str(failed.value).startswith(f"{tmp_path / path}: {message}")


def test_an_empty_list_of_paths() -> None:
    with pytest.raises(DselectError, match="`path` is an empty list: name a file, a folder, a glob or a URL in it"):
        ingest_paths()


def test_an_unknown_protocol() -> None:
    with pytest.raises(
        DselectError, match=r"floppy://a/b.jsonl: cannot be listed \(ValueError: Protocol not known: floppy\). Check"
    ):
        ingest_paths("floppy://a/b.jsonl")


# --- the signature ---------------------------------------------------------------------------------------------------


def test_the_signature_notices_a_changed_a_new_and_a_gone_file_and_the_spec(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", qa("1"))
    spec = SourceSpec(path=str(tmp_path))
    first = files_signature(spec)
    assert files_signature(spec) == first == ingest("s", spec).signature
    assert files_signature(SourceSpec(path=str(tmp_path), format="alpaca")) != first

    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    touched = files_signature(spec)
    write(path, qa("1"), qa("2"))
    grown = files_signature(spec)
    other = write(tmp_path / "b.jsonl", qa("3"))
    both = files_signature(spec)
    assert len({first, touched, grown, both}) == 4
    other.unlink()
    assert files_signature(spec) == grown


def test_the_signature_reads_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\0 no JSON at all")
    assert len(files_signature(SourceSpec(path=str(tmp_path)))) == 32
