"""The built-in corpus: its counts, its determinism, and above all that its labels are true."""

import csv
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest

from demo.corpus import HELD_OUT, LABELS, SOURCES, BuiltinCorpus, Label, generate, plant, write_corpus
from demo.corpus.assemble import PLAN
from demo.corpus.functions import FUNCTIONS
from dselect_core.corpus.formats import choose_layout, read_row
from dselect_core.corpus.ingest import ingest
from dselect_core.errors import DselectError
from dselect_core.settings.settings import SourceSpec

PLANTED = {
    "exact_duplicate": 80, "near_duplicate": 120, "wrong_answer": 100, "truncated": 60, "empty": 40, "off_topic": 60,
}  # fmt: skip
SEEDS = [0, 1, 2024]


@pytest.fixture(scope="module", params=SEEDS)
def corpus(request: pytest.FixtureRequest) -> BuiltinCorpus:
    return generate(request.param)


def row_of(corpus: BuiltinCorpus, label: Label) -> dict[str, Any]:
    return corpus.rows[label.source][label.row - 1]


def original_of(corpus: BuiltinCorpus, label: Label) -> dict[str, Any]:
    assert label.copy_of_source is not None and label.copy_of_row is not None
    return corpus.rows[label.copy_of_source][label.copy_of_row - 1]


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """Canonical messages, as the loader reads the row."""
    layout = choose_layout([row])
    assert layout is not None
    return read_row(row, layout).messages


def response(row: dict[str, Any]) -> str:
    """The last answer as written, blank ones included (which the loader refuses)."""
    if "output" in row:
        return str(row["output"])
    last = (row.get("messages") or row["conversations"])[-1]
    return str(last.get("content", last.get("value")))


def labelled(corpus: BuiltinCorpus, name: str) -> list[Label]:
    return [label for label in corpus.labels if label.label == name]


def test_counts(corpus: BuiltinCorpus) -> None:
    counts = Counter(label.label for label in corpus.labels)
    assert counts.pop("clean") == 1540
    assert counts == PLANTED
    assert {source: len(rows) for source, rows in corpus.rows.items()} == Counter(x.source for x in corpus.labels)
    assert sum(map(len, corpus.rows.values())) == 2000
    assert min(map(len, corpus.rows.values())) > 400
    keys = [(label.source, label.row) for label in corpus.labels]
    assert keys == [(source, i) for source, rows in corpus.rows.items() for i in range(1, len(rows) + 1)]


def test_defects_are_spread_over_sources_and_not_in_one_block(corpus: BuiltinCorpus) -> None:
    for name in PLANTED:
        assert {label.source for label in labelled(corpus, name)} == set(SOURCES)
        for source in SOURCES:
            half = len(corpus.rows[source]) / 2
            assert {label.row > half for label in labelled(corpus, name) if label.source == source} == {True, False}


def test_exact_duplicates_have_the_same_canonical_messages(corpus: BuiltinCorpus) -> None:
    copies = labelled(corpus, "exact_duplicate")
    for label in copies:
        assert messages(row_of(corpus, label)) == messages(original_of(corpus, label))
    assert sum(label.source != label.copy_of_source for label in copies) == 30
    assert len({(label.copy_of_source, label.copy_of_row) for label in copies}) == len(copies)


def test_near_duplicates_ask_the_same_in_other_words(corpus: BuiltinCorpus) -> None:
    for label in labelled(corpus, "near_duplicate"):
        copy, original = messages(row_of(corpus, label)), messages(original_of(corpus, label))
        assert copy != original
        assert [m["content"] for m in copy if m["role"] == "assistant"] == [
            m["content"] for m in original if m["role"] == "assistant"
        ]
        first, source = (next(m["content"] for m in ms if m["role"] == "user") for ms in (copy, original))
        assert first != source
        # The data of the task is still there: all its numbers, in order, and what stands in quotes.
        assert re.findall(r"\d+", first) == re.findall(r"\d+", source)
        assert re.findall(r"'[^']*'", first.replace("What's", "")) == re.findall(r"'[^']*'", source)


def test_copies_are_of_clean_rows_and_only_copies_name_one(corpus: BuiltinCorpus) -> None:
    by_key = {(label.source, label.row): label for label in corpus.labels}
    for label in corpus.labels:
        if label.label.endswith("duplicate"):
            original = by_key[label.copy_of_source or "", label.copy_of_row or 0]
            assert original.label == "clean" and original.category == label.category
        else:
            assert label.copy_of_source is None and label.copy_of_row is None


def test_spoilt_rows_differ_from_their_clean_answer(corpus: BuiltinCorpus) -> None:
    for label in corpus.labels:
        spoilt = label.label in ("wrong_answer", "truncated", "empty", "off_topic")
        assert (label.clean_response is not None) == spoilt
        if spoilt:
            assert response(row_of(corpus, label)) != label.clean_response


def test_truncated_answers_are_the_start_of_the_clean_one(corpus: BuiltinCorpus) -> None:
    for label in labelled(corpus, "truncated"):
        text, whole = response(row_of(corpus, label)), label.clean_response or ""
        assert whole.startswith(text) and 0.2 * len(whole) < len(text) < 0.8 * len(whole)
        assert text[-1] not in ".!?" and not text[-1].isdigit()


def test_half_of_the_empty_answers_are_blank_and_half_say_nothing(corpus: BuiltinCorpus) -> None:
    texts = [response(row_of(corpus, label)) for label in labelled(corpus, "empty")]
    assert sum(not text.strip() for text in texts) == 20
    assert {text for text in texts if text.strip()} <= set(plant.VACUOUS)


def test_off_topic_answers_are_whole_answers_to_something_else(corpus: BuiltinCorpus) -> None:
    texts = [response(row_of(corpus, label)) for label in labelled(corpus, "off_topic")]
    assert min(map(len, texts)) >= 20 and len(set(texts)) > 50


def test_clean_prompts_are_all_different(corpus: BuiltinCorpus) -> None:
    prompts = []
    for label in corpus.labels:
        if label.label == "clean":
            texts = [m["content"] for m in messages(row_of(corpus, label)) if m["role"] == "user"]
            prompts.append(re.sub(r"[\s.,?!]+", " ", " ".join(texts)).strip().lower())
    assert len(set(prompts)) == len(prompts)


def test_held_out_rows_ask_what_no_row_asks(corpus: BuiltinCorpus) -> None:
    def prompt(row: dict[str, Any]) -> str:
        asked = [m["content"] for m in row["messages"] if m["role"] == "user"]
        return "".join(c for c in " ".join(asked).lower() if c.isalnum() or c in "+-×*÷/^.")

    held_out = {prompt(row) for row in corpus.held_out}
    pooled = {prompt(row) for row in corpus.rows["text_and_code"]}
    assert len(held_out) == len(corpus.held_out) and held_out.isdisjoint(pooled)


def test_variety(corpus: BuiltinCorpus) -> None:
    clean = labelled(corpus, "clean")
    categories = Counter(label.category for label in clean)
    assert len(categories) > 110
    assert max(categories.values()) < 0.06 * len(clean)
    assert {name.partition("/")[0] for name in categories} == {
        "arithmetic", "units", "dates", "strings", "lists", "code", "facts", "rewriting", "conversation",
    }  # fmt: skip
    assert len({label.template for label in clean}) > 900
    rows = [messages(row_of(corpus, label)) for label in clean]
    lengths = sorted(len(ms[-1]["content"]) for ms in rows)
    assert lengths[len(rows) // 10] < 10 and lengths[len(rows) * 9 // 10] > 70  # terse and worked answers
    assert sum(len(ms) > 3 for ms in rows) > 250
    assert Counter(ms[0]["role"] for ms in rows)["system"] > 50
    assert sum(bool(row["input"]) for row in corpus.rows["arithmetic_and_units"]) > 80


def test_nothing_in_a_row_tells_its_label(corpus: BuiltinCorpus) -> None:
    for row in corpus.rows["arithmetic_and_units"]:
        assert list(row) == ["instruction", "input", "output"]
    for row in corpus.rows["text_and_code"]:
        assert list(row) == ["messages"] and all(list(m) == ["role", "content"] for m in row["messages"])
    for row in corpus.rows["conversations"]:
        assert list(row) == ["conversations"] and all(list(m) == ["from", "value"] for m in row["conversations"])
    assert not re.search("|".join(PLANTED), json.dumps(corpus.rows).replace('"empty"', "").replace("empty", ""))


_NUMBER = r"\d+(?:\.\d+)?"
_TERM = rf"\(?-?{_NUMBER}\)?"
_SUM = rf"{_TERM}(?: ?[-+*/×÷] ?{_TERM})"
# Not after a letter, a sign or a power: there the left side begins earlier than plain numbers can tell.
_EQUATION = re.compile(rf"(?<![\w.)^²])(?<![-+*/×÷] )({_SUM}+) = ({_SUM}+|{_TERM})(?![\w/])")


def false_equations(text: str) -> list[str]:
    """Equations between plain numbers in a text that do not hold: an independent check by recomputing."""
    return [match[0] for match in _EQUATION.finditer(text) if _value(match[1]) != _value(match[2])]


def _value(expression: str) -> Fraction:
    source = re.sub(_NUMBER, lambda m: f"Fraction('{m[0]}')", expression.replace("×", "*").replace("÷", "/"))
    return Fraction(eval(source, {"Fraction": Fraction}))  # digits, operators and parentheses only, by the pattern


def test_equations_hold_in_clean_rows_and_fail_in_many_wrong_ones(corpus: BuiltinCorpus) -> None:
    found = 0
    for label in corpus.labels:
        if label.label in ("clean", "near_duplicate"):
            text = "\n".join(m["content"] for m in messages(row_of(corpus, label)) if m["role"] == "assistant")
            assert false_equations(text) == [], (label, text)
            found += bool(_EQUATION.search(text))
        if label.clean_response is not None:
            assert false_equations(label.clean_response) == []
    assert found > 250
    assert sum(bool(false_equations(response(row_of(corpus, x)))) for x in labelled(corpus, "wrong_answer")) >= 40


def test_clean_code_runs_and_does_what_the_answer_says(corpus: BuiltinCorpus) -> None:
    ran = 0
    for label in labelled(corpus, "clean"):
        text = response(row_of(corpus, label))
        code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)
        if label.category not in ("code/write", "code/repair") or code is None:
            continue
        scope: dict[str, Any] = {}
        exec(code[1], scope)
        for call, result in re.findall(r"`(\w+\(.*\))` (?:returns|gives|is) `(.*)`", text):
            assert repr(eval(call, scope)) == result
            ran += 1
    assert ran >= 8


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_every_bug_shows(function: Any) -> None:
    def outcome(k: int, bug: bool) -> str:
        scope: dict[str, Any] = {}
        exec(function.code(k, bug=bug), scope)
        try:
            return repr(eval(function.call(k), scope))
        except Exception as error:
            return repr(error)

    low, high = function.k
    assert any(outcome(k, bug=True) != outcome(k, bug=False) for k in range(low, high + 1))
    assert all(outcome(k, bug=False) == function.result(k) for k in range(low, high + 1))


def test_every_maker_can_be_drawn_again_and_again() -> None:
    makers = {maker for parts in PLAN.values() for group, _ in parts for maker in group}
    for maker in sorted(makers, key=lambda m: (m.__module__, m.__qualname__)):
        rng = Random(7)
        tasks = [maker(rng) for _ in range(300)]
        assert len({task.problem for task in tasks}) >= 14, tasks[0].category
        assert all(task.wrong is None or task.wrong != task.answer for task in tasks)
        assert all(text == text.strip() != "" for task in tasks for turn in task.turns for text in turn)


def test_the_loader_reads_every_row_as_labelled(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path)
    corpus = generate()
    formats = {"arithmetic_and_units": "alpaca", "text_and_code": "messages", "conversations": "sharegpt"}
    ids: list[str] = []
    for source in SOURCES:
        result = ingest(source, SourceSpec.model_validate({"path": str(paths[source])}))
        assert result.formats == [formats[source]] and result.rows == len(corpus.rows[source])
        empty = [x for x in labelled(corpus, "empty") if x.source == source]
        blank = {x.row for x in empty if not response(row_of(corpus, x)).strip()}
        assert set(result.quarantine["row"]) == blank
        copies = [x for x in labelled(corpus, "exact_duplicate") if x.source == source == x.copy_of_source]
        assert result.duplicates == len(copies)
        ids += result.samples["sample_id"].to_list()
    assert len(ids) == 2000 - 20 - 50 and len(set(ids)) == len(ids) - 30


def test_files_and_labels(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path / "demo", seed=3)
    corpus = generate(3)
    files = {**SOURCES, "held_out": HELD_OUT, "labels": LABELS}
    assert paths == {name: tmp_path / "demo" / file for name, file in files.items()}
    assert json.loads(paths["arithmetic_and_units"].read_text("utf-8")) == corpus.rows["arithmetic_and_units"]
    lines = paths["text_and_code"].read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == corpus.rows["text_and_code"]
    held_out = [json.loads(line) for line in paths["held_out"].read_text("utf-8").splitlines()]
    assert held_out == corpus.held_out and len(held_out) == 180
    lines = gzip.decompress(paths["conversations"].read_bytes()).decode().splitlines()
    assert [json.loads(line) for line in lines] == corpus.rows["conversations"]
    with paths["labels"].open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(r["source"], int(r["row"]), r["label"], r["category"]) for r in table] == [
        (x.source, x.row, x.label, x.category) for x in corpus.labels
    ]
    assert [r["copy_of_row"] for r in table] == [str(x.copy_of_row or "") for x in corpus.labels]


def _run(folder: Path, hash_seed: str) -> dict[str, str]:
    command = [sys.executable, "-m", "demo.corpus", str(folder), "--seed", "5"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr
    assert str(folder / LABELS) in done.stdout
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_in_any_process(tmp_path: Path) -> None:
    first, second = _run(tmp_path / "a", "1"), _run(tmp_path / "b", "2")
    assert first == second and set(first) == {*SOURCES.values(), HELD_OUT, LABELS}
    other = write_corpus(tmp_path / "c", seed=6)
    assert hashlib.sha256(other["text_and_code"].read_bytes()).hexdigest() != first["text_and_code.jsonl"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DselectError, match=r"file.*cannot write the built-in corpus"):
        write_corpus(tmp_path / "file")


def test_import_is_light() -> None:
    code = "import sys, demo.corpus; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert not {"torch", "transformers", "datasets", "numpy"} & set(done.stdout.split())
