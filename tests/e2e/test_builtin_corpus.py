"""What a selection catches: the demo, as `make demo` runs it, against its planted labels."""

import csv
import json
import random
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from demo.corpus import LABELS, SOURCES, write_corpus
from tests.e2e.graph import Graph, materialised

BAD = {"wrong_answer", "empty"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    graph = Graph(tmp_path_factory.mktemp("demo"))
    write_corpus(graph.folder / "data")
    graph.config.write_text("{}")
    graph.settings(
        sources={name: {"path": f"data/{file}"} for name, file in SOURCES.items()},
        coresets={
            "d3-10pct": {"strategy": "d3", "budget": "10%"},
            "d3-20pct": {"strategy": "d3", "budget": "20%"},
            "miwv-1pct": {"strategy": "miwv", "budget": "1%"},
            "mads-15pct": {"strategy": "mads", "budget": "15%"},
        },
    )
    done = graph.refresh()
    assert not done.failed
    landed = [figures for (asset, _), figures in materialised(done).items() if asset == "raw_dataset"]
    assert sum(figures["rows"] for figures in landed) == 2000
    assert sum(figures["quarantined"] for figures in landed) == 20  # the blank ones
    return graph


@pytest.fixture(scope="module")
def labels(demo: Graph) -> dict[str, tuple[str, str]]:
    """Sample id → (its label, the sample it is a near-duplicate of or "")."""
    with (demo.folder / "data" / LABELS).open(newline="") as file:
        rows = {(row["source"], int(row["row"])): row for row in csv.DictReader(file)}
    samples = [
        (sample, origin["source"], origin["row"])
        for source in SOURCES
        for sample, origins in pl.read_parquet(str(demo.workspace.samples(source)))
        .select("sample_id", "origins")
        .iter_rows()
        for origin in origins
    ]
    id_of = {(source, row): sample for sample, source, row in samples}
    found: dict[str, tuple[str, str]] = {}
    for place, sample in id_of.items():
        row = rows[place]
        if row["label"] == "exact_duplicate":
            # Collapsed into the row it copies.
            assert sample == id_of[row["copy_of_source"], int(row["copy_of_row"])]
            continue
        original = (row["copy_of_source"], int(row["copy_of_row"])) if row["label"] == "near_duplicate" else None
        found[sample] = (row["label"], id_of[original] if original else "")
    return found


def bad(ids: set[str], labels: dict[str, tuple[str, str]]) -> int:
    return sum(labels[i][0] in BAD for i in ids)


def twice(ids: set[str], labels: dict[str, tuple[str, str]]) -> int:
    """Near-duplicates chosen beside the row they repeat."""
    return sum(labels[i][1] in ids for i in ids)


def test_d3_catches_what_random_lets_through(demo: Graph, labels: dict[str, tuple[str, str]]) -> None:
    chosen = set(demo.order("d3-10pct")["sample_id"])
    pool = sorted(labels)
    draws = [set(random.Random(seed).sample(pool, len(chosen))) for seed in range(200)]
    bad_at_random = sum(bad(draw, labels) for draw in draws) / len(draws)
    twice_at_random = sum(twice(draw, labels) for draw in draws) / len(draws)
    found = {"d3": (bad(chosen, labels), twice(chosen, labels)), "random": (bad_at_random, twice_at_random)}
    print(json.dumps(found), Counter(labels[i][0] for i in chosen))
    # Exact duplicates are gone before anything is chosen, from every selection alike.
    assert len(chosen) == 190
    assert len(pool) == 1900
    assert bad(chosen, labels) <= bad_at_random / 2
    # Beside its original, a near-duplicate is no more frequent than by chance, among many fewer wrong rows.
    assert twice(chosen, labels) <= max(2, 2 * twice_at_random)


def test_a_smaller_budget_is_a_prefix_of_a_larger(demo: Graph) -> None:
    small, large = demo.order("d3-10pct")["sample_id"], demo.order("d3-20pct")["sample_id"]
    assert large.head(len(small)).equals(small)


def test_the_coreset_loads_with_datasets_and_its_chat_template_renders_it(demo: Graph, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    folder = demo.folder / ".dselect" / "coresets" / "d3-10pct"
    loaded = load_dataset(str(folder / "dataset"), split="train", cache_dir=str(tmp_path))
    lines = [json.loads(line) for line in (folder / "coreset.jsonl").read_text().splitlines()]
    assert loaded["messages"][:] == [line["messages"] for line in lines]
    model = demo.manifest("d3-10pct")["model"]["path"]
    tokenizer = AutoTokenizer.from_pretrained(demo.folder / ".dselect" / "models" / model)
    for line in lines:
        text = tokenizer.apply_chat_template(line["messages"], tokenize=False)
        assert all(message["content"] in text for message in line["messages"])


def test_the_manifest_names_all_that_made_it(demo: Graph) -> None:
    manifest = demo.manifest("d3-10pct")
    assert manifest["counts"]["rows"] == 190
    assert set(manifest["sources"]) == set(SOURCES)
    assert set(manifest["scores"]) == {"difficulty", "embeddings", "grades"}
    assert manifest["scores"]["grades"]["provenance"]["grader"].startswith("builtin-heuristic/")
    assert manifest["model"]["identity"].startswith("local:")
    assert manifest["scores"]["difficulty"]["provenance"]["model"] == manifest["model"]["identity"]
    assert str(demo.folder) not in json.dumps(manifest["model"])
