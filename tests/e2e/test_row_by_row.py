"""Edits of the data, one by one, on the real graph: the outcome equals a fresh run, and only what was touched ran.

What was touched is counted by the test from the files and the vectors (content.py), not taken from the graph.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.content import Row, assert_same, computed, id_of, ids_in, shots, write
from tests.e2e.from_scratch import FromScratch
from tests.e2e.graph import Graph, assert_as_planned, materialised
from tests.tiny import save_llama

WORDS = [
    "red",
    "green",
    "blue",
    "white",
    "black",
    "brown",
    "pink",
    "grey",
    "amber",
    "ivory",
    "coral",
    "olive",
    "lilac",
    "khaki",
    "peach",
]
RECIPES = {
    "d3": {"strategy": "d3", "budget": "20%"},
    "weak": {"strategy": "miwv", "budget": 12},
    "wide": {"strategy": "mads", "budget": "20%"},
}


def rows(start: int, n: int) -> list[Row]:
    """Distinct rows of different lengths and kinds."""
    made = []
    for i in range(start, start + n):
        word, other = WORDS[i % len(WORDS)], WORDS[(i * 7 + 3) % len(WORDS)]
        prompt = (f"Name {i % 9 + 2} things that are {word}.", f"What is {i} plus {i * 3}?", f"{word} or {other}, {i}?")
        answer = (f"{other} " * (i % 11 + 1), f"It is {i * 4}.", f"I would say {word}, because of {other} and {i}.")
        made.append({"instruction": prompt[i % 3], "input": "", "output": answer[(i + i // 3) % 3]})
    return made


A, B = rows(0, 90), rows(200, 30)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Two sources, scored once: `a` is a folder of three files, `b` one file."""
    model = save_llama(tmp_path_factory.mktemp("model"))
    graph = Graph(tmp_path_factory.mktemp("base"))
    for i in range(3):
        write(graph.folder / "data" / "a" / f"{i}.jsonl", A[i * 30 : i * 30 + 30])
    write(graph.folder / "data" / "b" / "0.jsonl", B)
    graph.settings(
        model={"path": str(model)},
        sources={name: {"path": f"data/{name}"} for name in ("a", "b")},
        coresets=RECIPES,
    )
    assert not graph.refresh().failed
    return graph


@pytest.fixture(scope="module")
def _base_copy(base: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(base.folder, tmp_path_factory.mktemp("copy") / "project"))


@pytest.fixture
def graph(base: Graph, _base_copy: Path) -> Graph:
    return base.put_back(_base_copy)


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory: pytest.TempPathFactory) -> FromScratch:
    return FromScratch(tmp_path_factory.mktemp("fresh"))


def a(graph: Graph, i: int = 0) -> Path:
    return graph.folder / "data" / "a" / f"{i}.jsonl"


def b(graph: Graph) -> Path:
    return graph.folder / "data" / "b" / "0.jsonl"


def held(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(graph: Graph) -> None:
    write(a(graph, 2), [*A[60:], *rows(400, 2)])


def insert_at_the_top(graph: Graph) -> None:
    write(a(graph), [rows(500, 1)[0], *A[:30]])


def edit_a_response(graph: Graph) -> None:
    write(a(graph), [A[0] | {"output": "Quite another answer."}, *A[1:30]])


def edit_a_prompt(graph: Graph) -> None:
    write(a(graph, 1), [*A[30:44], A[44] | {"instruction": "Something else altogether?"}, *A[45:60]])


def delete_rows(graph: Graph) -> None:
    write(a(graph), A[5:30])


def move_to_another_file(graph: Graph) -> None:
    write(a(graph), A[1:30])
    write(a(graph, 1), [*A[30:60], A[0]])


def move_to_another_source(graph: Graph) -> None:
    write(a(graph), A[1:30])
    write(b(graph), [*B, A[0]])


def split_over_ten_files(graph: Graph) -> None:
    for i in range(3):
        a(graph, i).unlink()
    for i in range(10):
        write(a(graph, i), A[i * 9 : i * 9 + 9])


def shuffle(graph: Graph) -> None:
    for i in range(3):
        write(a(graph, i), random.Random(i).sample(held(a(graph, i)), 30))


def compress(graph: Graph) -> None:
    for i in range(3):
        write(a(graph, i).with_suffix(".jsonl.gz"), held(a(graph, i)))
        a(graph, i).unlink()


def duplicate_into_another_source(graph: Graph) -> None:
    write(b(graph), [A[7], *B])


def duplicate_within_its_source(graph: Graph) -> None:
    write(a(graph, 1), [*A[30:60], A[7]])


def land_again_unchanged(graph: Graph) -> None:
    for i in range(3):
        write(a(graph, i), held(a(graph, i)))


CHANGES = [
    append,
    insert_at_the_top,
    edit_a_response,
    edit_a_prompt,
    delete_rows,
    move_to_another_file,
    move_to_another_source,
    split_over_ten_files,
    shuffle,
    compress,
    duplicate_into_another_source,
    duplicate_within_its_source,
    land_again_unchanged,
]
# The pool and its sources are what they were: nothing is computed. The coresets are written again where their rows now
# stand in other files.
SAME_ROWS = (
    move_to_another_file,
    split_over_ten_files,
    shuffle,
    compress,
    duplicate_within_its_source,
    land_again_unchanged,
)


@pytest.mark.walk(3)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_data_equals_a_fresh_run_and_computes_what_it_touches(
    graph: Graph, from_scratch: FromScratch, change: Callable[[Graph], None]
) -> None:
    seen = ids_in(graph.folder / "data")
    pairs = set(pl.read_parquet(str(graph.workspace.neighbors)).select("sample_id", "shot_id").iter_rows())
    change(graph)
    planned = graph.plan()
    done = graph.refresh()
    figures = materialised(done)
    assert not done.failed

    new = ids_in(graph.folder / "data") - seen
    touched = set(shots(graph).items()) - pairs
    for asset, rows_computed in computed(figures).items():
        assert rows_computed == (len(touched) if asset == "miwv_values" else len(new)), asset
    if change in SAME_ROWS:
        coresets = {key for key in figures if key[0] == "coreset"}
        assert set(figures) - coresets == {("raw_dataset", "a")}
        assert len(coresets) == (0 if change is land_again_unchanged else len(graph.workspace.settings.coresets))
        assert all(figures[key]["rows computed"] == 0 for key in coresets)
    else:
        assert ("miwv_values", None) in figures
        assert figures["neighbors", None]["rows computed"] == len(touched | {p for p in pairs if p[0] in new})

    # What was planned is what ran, to the row where the plan says it is exact.
    assert_as_planned(planned, done)
    assert graph.refresh().runs == []
    assert_same(graph, from_scratch.of(graph))


def test_taking_a_row_out_and_putting_it_back_computes_nothing_the_second_time(
    graph: Graph, from_scratch: FromScratch
) -> None:
    delete_rows(graph)
    assert not graph.refresh().failed
    write(a(graph), A[:30])
    planned = graph.plan()
    assert all(step.exact for step in planned.steps)
    figures = materialised(graph.refresh())
    assert set(computed(figures).values()) == {0}
    assert planned.tokens == 0
    assert_same(graph, from_scratch.of(graph))


def test_a_new_row_is_named_in_the_coreset_that_it_enters(graph: Graph) -> None:
    row = {"instruction": "A prompt like no other 🙂?", "input": "", "output": "東京 emoji 🙂 Grüße aus Köln!"}
    write(a(graph), [row, *A[:30]])
    graph.settings(coresets=RECIPES | {"d3": {"strategy": "d3", "budget": "60%"}})
    figures = materialised(graph.refresh())
    changes = pl.read_parquet(str(graph.workspace.coreset("d3") / "changes.parquet"))
    causes = dict(changes.filter(pl.col("change") == "entered").select("sample_id", "cause").iter_rows())
    order = graph.order("d3")["sample_id"].to_list()
    assert (id_of(row) in causes) == (id_of(row) in order)
    assert {cause for i, cause in causes.items() if i != id_of(row)} <= {"budget", "other rows"}
    assert causes.get(id_of(row), "new row") == "new row"
    assert figures["coreset", "d3"]["entered"] == len(causes)
    assert graph.manifest("d3")["changes"]["kept"] == figures["coreset", "d3"]["kept"]
