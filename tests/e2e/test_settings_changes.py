"""What an edit of dselect.yaml moves: as a table of change, asset partitions whose data moved, and rows computed.

"Moved" is Dagster's word: the data version is another one. What merely looked and found nothing to do computes
nothing, and that is in the table too. The judge is a real HTTP server.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.e2e.content import computed, shots, write
from tests.e2e.graph import Graph, materialised
from tests.e2e.test_row_by_row import RECIPES, rows
from tests.openai_server import OpenAIServer, Request, rating
from tests.tiny import save_encoder, save_llama

SOURCES = ("a", "b")
N = 60


def judge(request: Request) -> Any:
    """As a judge would: the same answer for the same text, another under another rubric."""
    strict = "strict" in request.text
    return rating(1 + (len(request.text) + strict * 2) % 5)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with OpenAIServer(judge) as server:
        made = Graph(tmp_path_factory.mktemp("settings"))
        write(made.folder / "data" / "a" / "0.jsonl", rows(0, 40))
        write(made.folder / "data" / "b" / "0.jsonl", rows(300, 20))
        (made.folder / "rubric.md").write_text("Be fair.")
        made.settings(
            model={"path": str(save_llama(tmp_path_factory.mktemp("model")))},
            sources={name: {"path": f"data/{name}"} for name in SOURCES},
            grader={"base_url": server.base_url, "model": "judge-1", "rubric": "rubric.md"},
            coresets=RECIPES,
        )
        assert not made.refresh().failed
        yield made


def versions(graph: Graph) -> dict[tuple[str, str | None], str]:
    """Asset partition → the data version of its last materialisation."""
    import dagster as dg

    from dselect_dagster.refresh.instance import open_instance

    found: dict[tuple[str, str | None], str] = {}
    with open_instance(graph.config) as instance:
        for key in instance.all_asset_keys():
            records = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=key), limit=1000).records
            for record in records:  # the latest first
                event = record.asset_materialization
                assert event is not None
                at = (key.to_user_string(), event.partition)
                found.setdefault(at, (event.tags or {})["dagster/data_version"])
    return found


def by_source(*assets: str) -> set[tuple[str, str | None]]:
    return {(asset, source) for asset in assets for source in SOURCES}


def of_recipe(name: str) -> set[tuple[str, str | None]]:
    return {("candidates", name), ("coreset", name)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


# Change, what of it moves, rows computed per asset that ran. A coreset that is chosen again may come out the same.
TABLE: dict[str, tuple[set[tuple[str, str | None]], dict[str, int]]] = {
    "rubric": (
        {*by_source("dependability_grades"), ("corpus_index", None), ("candidates", "d3")},
        {"dependability_grades": N, "miwv_values": 0},
    ),
    "beta": (
        {*by_source("difficulty_scores"), ("corpus_index", None), ("candidates", "d3")},
        {"difficulty_scores": N, "miwv_values": 0},
    ),
    "encoder": (
        {
            *by_source("embeddings"),
            ("corpus_index", None),
            ("neighbors", None),
            ("miwv_values", None),
            ("candidates", "weak"),
        },
        {"embeddings": N, "miwv_values": -1},
    ),
    "budget": ({("coreset_spec", "wide"), ("coreset", "wide")}, {}),
}
RUNS_AGAIN = {"rubric": "d3", "beta": "d3", "encoder": "weak", "budget": "wide"}


@pytest.mark.walk(7)
@pytest.mark.parametrize("change", TABLE)
def test_a_setting_moves_what_hangs_on_it_and_nothing_else(graph: Graph, encoder: Path, change: str) -> None:
    before, pairs = versions(graph), set(shots(graph).items())
    if change == "rubric":
        (graph.folder / "rubric.md").write_text("Be strict and fair.")
    elif change == "beta":
        graph.settings(difficulty={"beta": 2.0})
    elif change == "encoder":
        graph.settings(embeddings={"path": str(encoder)})
    else:
        graph.settings(coresets=RECIPES | {"wide": {"strategy": "mads", "budget": "30%"}})
    planned = graph.plan()
    done = graph.refresh()
    assert not done.failed
    figures = materialised(done)
    now = versions(graph)
    moved = {key for key, version in now.items() if before.get(key) != version}
    expected, rows_computed = TABLE[change]
    chosen_again = ("coreset", RUNS_AGAIN[change])
    print(f"{change}: moved {sorted(map(str, moved))}; computed {computed(figures)}")
    assert moved - {chosen_again} == expected - {chosen_again}
    assert chosen_again in figures
    assert {key for key in figures if key[0] == "coreset"} == {chosen_again}
    for asset, n in computed(figures).items():
        # How many shots another encoder moves depends on it: counted by comparing all vectors.
        assert n == (len(set(shots(graph).items()) - pairs) if rows_computed[asset] < 0 else rows_computed[asset]), (
            asset
        )
    assert {(step.asset, step.partition) for step in planned.steps} == set(figures)
    assert graph.refresh().runs == []


def test_going_back_to_earlier_settings_computes_nothing(graph: Graph) -> None:
    (graph.folder / "rubric.md").write_text("Be fair.")
    graph.settings(difficulty={"beta": 1.0}, embeddings={}, coresets=RECIPES)
    figures = materialised(graph.refresh())
    assert set(computed(figures).values()) == {0}
    assert set(computed(figures)) == {"difficulty_scores", "embeddings", "dependability_grades", "miwv_values"}


def test_other_weights_in_the_same_folder_are_another_model(graph: Graph) -> None:
    folder = Path(graph.workspace.settings.model.path)
    save_llama(folder, seed=1)
    figures = materialised(graph.refresh())
    assert computed(figures) == {
        "difficulty_scores": N, "embeddings": N, "activations": N, "miwv_values": N,
    }  # fmt: skip
    assert graph.manifest("d3")["model"]["identity"] != ""
    save_llama(folder, seed=0)
    assert set(computed(materialised(graph.refresh())).values()) == {0}


def test_an_approximate_search_says_how_good_it_is(graph: Graph) -> None:
    graph.settings(neighbors={"approximate_above": N - 1, "nprobe": 1})
    figures = materialised(graph.refresh())["neighbors", None]
    # The table that was there is exact, and a looser recipe keeps it.
    assert (figures["search"], figures["recall@1"], figures["rows computed"]) == ("approximate, nprobe 1", 1.0, 0)
    graph.workspace.neighbors.unlink()
    graph.settings(neighbors={"approximate_above": N - 1, "nprobe": 2})
    planned = next(step for step in graph.plan().steps if step.asset == "neighbors")
    assert planned.note == "shots are looked for in inverted lists, and the recall is measured"
    figures = materialised(graph.refresh())["neighbors", None]
    assert (figures["search"], figures["recall@1 measured on rows"]) == ("approximate, nprobe 2", N)
    found = dict(pl.read_parquet(str(graph.workspace.neighbors)).select("sample_id", "shot_id").iter_rows())
    right = sum(found[sample] == shot for sample, shot in shots(graph).items())
    assert figures["recall@1"] == right / N
