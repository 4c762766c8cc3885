"""A new score costs one file: the example of docs/extending.md, as a package that names it as an entry point.

The commands run as real processes that find the package on their path, as in an environment where it is installed.
"""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from dselect_core.errors import DselectError
from dselect_core.kinds import Column, FromForwardPass, FromSamples, Kind, kind_of, register, unregister
from dselect_core.pool.corpus_index import read_index
from dselect_core.pool.pool_tables import load_pool
from dselect_dagster.defs.graph import build_definitions
from tests.e2e.content import id_of
from tests.e2e.graph import Graph, assert_as_planned, errors, materialised, settings_of

pytestmark = pytest.mark.some(2)

DOC = Path(__file__).parents[2] / "docs" / "extending.md"
ROWS = [
    {"instruction": f"Say it {n} times", "input": "", "output": f"number {n} " * (n + 4) + "and done" * (n % 2)}
    for n in range(12)
] + [{"instruction": "Be short", "input": "", "output": "Yes."}]


def code() -> str:
    """The example as the page has it."""
    block = re.search(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert block is not None
    return block[1]


def expected() -> dict[str, float | None]:
    values = {}
    for row in ROWS:
        text = row["output"].rstrip().encode()
        values[id_of({**row, "output": row["output"].rstrip()})] = (
            len(text) / len(zlib.compress(text, 9)) if len(text) >= 32 else None
        )
    return values


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    graph = Graph(tmp_path)
    graph.source("a", ROWS)
    graph.sources("a")
    graph.settings(coresets={"wordy": {"strategy": "topk:redundancy", "budget": 4}}, warmup={"steps": 1})
    return graph


def dselect(graph: Graph, *arguments: str, code: int = 0) -> str:
    package = graph.folder / "site"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), *sys.path]), "COLUMNS": "200"}
    command = [sys.executable, "-m", "dselect_dagster.cli", *arguments]
    done = subprocess.run(command, cwd=graph.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def install(graph: Graph, source: str) -> None:
    """As pip leaves a package: a module, and a folder of metadata with its entry points."""
    info = graph.folder / "site" / "my_scores-1.0.dist-info"
    info.mkdir(parents=True)
    (graph.folder / "site" / "my_scores.py").write_text(source)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-scores\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dselect.kinds]\nredundancy = my_scores:REDUNDANCY\n")


def test_the_example_is_short() -> None:
    assert len(code().strip().splitlines()) <= 40


def test_a_packages_kind_is_planned_scored_stored_explained_and_ranked_by(graph: Graph) -> None:
    install(graph, code())
    assert "redundancy_scores a 13 0" in dselect(graph, "plan")
    assert "redundancy_scores a 13 13 0" in dselect(graph, "refresh")
    values = expected()
    best = sorted((i for i in values if values[i] is not None), key=lambda i: (-round(values[i] * 2**16), i))[:4]
    assert graph.order("wordy")["sample_id"].to_list() == best
    assert graph.manifest("wordy")["scores"]["redundancy"]["provenance"]["level"] == 9
    assert graph.manifest("wordy")["excluded_reasons"] == {"no redundancy": 1}
    told = dselect(graph, "why", best[0])
    assert "redundancy, written 20" in told
    assert f"redundancy {values[best[0]]:.6g}" in told
    assert "chosen, 1 of 4" in told
    # Only the edited row is computed.
    graph.source(
        "a", [*ROWS[1:], {"instruction": "New", "input": "", "output": "New words in a new row, all of them."}]
    )
    assert "redundancy_scores a 1 12" in dselect(graph, "plan")
    assert "redundancy_scores a 13 1 12" in dselect(graph, "refresh")
    assert "Nothing to do" in dselect(graph, "refresh")


def test_a_value_out_of_its_range_stops_the_coreset(graph: Graph) -> None:
    install(graph, code().replace("value_range=(0.0, 1032.0)", "value_range=(0.0, 1.5)"))
    told = dselect(graph, "refresh", code=1)
    assert "redundancy: values outside [0, 1.5]" in told
    assert "wordy topk:redundancy, 4 rows not made" in told


@pytest.fixture
def perplexity() -> Iterator[Kind]:
    """A kind that comes from the forward pass of the target model."""

    def frame(samples, signals, settings):  # type: ignore[no-untyped-def]
        ids = [sample.id for sample in samples]
        values = pl.Series(signals.loss).fill_nan(None).exp()
        return pl.DataFrame({"sample_id": ids, "perplexity": values, "reason": None}, schema=kind.schema())

    kind = Kind(
        name="perplexity",
        asset="perplexities",
        description="Perplexity of each response.",
        columns=(
            Column(
                "perplexity", pl.Float32(), "exponential of the loss", unit="1", value_range=(1.0, 1e9), rankable=True
            ),
            Column("reason", pl.String(), "why there is no score"),
        ),
        value="perplexity",
        provenance=lambda inputs: {"score": "perplexity", "revision": 1, **inputs.model},
        computation=FromForwardPass(frozenset({"difficulty"}), frame),
    )
    register(kind)
    yield kind
    unregister("perplexity")


def test_a_kind_of_the_model_shares_the_pass_and_the_ui_describes_it(graph: Graph, perplexity: Kind) -> None:
    graph.settings(
        coresets={
            "odd": {"strategy": "topk:perplexity", "budget": 3},
            "hard": {"strategy": "topk:loss", "budget": 3},
        }
    )
    planned = graph.plan()
    done = graph.refresh()
    assert assert_as_planned(planned, done)
    figures = materialised(done)
    assert figures["perplexities", "a"]["tokens"] == figures["difficulty_scores", "a"]["tokens"] > 0
    assert graph.order("odd")["sample_id"].equals(graph.order("hard")["sample_id"])
    pool = load_pool(graph.workspace, read_index(graph.workspace), frozenset({"perplexity", "difficulty"}))
    assert ((pool.scores["perplexity"].log() - pool.scores["loss"]).abs() < 1e-4).all()
    schema = figures["perplexities", "a"]["dagster/column_schema"]
    assert {column.name: column.description for column in schema.columns}["perplexity"] == "exponential of the loss (1)"
    asset = (
        build_definitions(settings_of(graph), str(graph.config)).resolve_asset_graph().get(dg.AssetKey("perplexities"))
    )
    assert asset.description == "Perplexity of each response."
    assert all(column.description for column in asset.metadata["dagster/column_schema"].columns)


def test_kinds_that_clash_or_do_not_fit_are_refused() -> None:
    difficulty = kind_of("difficulty")
    with pytest.raises(DselectError, match="`difficulty` is defined twice"):
        register(difficulty)
    fields = {"asset": "x", "description": "", "provenance": lambda _: {}, "computation": FromSamples(lambda *_: None)}
    reason = Column("reason", pl.String(), "")
    with pytest.raises(DselectError, match="`difficulty` has a column upd already"):
        register(
            Kind(name="mine", value="upd", columns=(Column("upd", pl.Float32(), "", rankable=True), reason), **fields)
        )
    with pytest.raises(DselectError, match="its value `score` is not among its columns"):
        register(Kind(name="mine", value="score", columns=(reason,), **fields))


def test_a_computation_with_other_columns_is_named(graph: Graph) -> None:
    install(
        graph,
        code().replace('schema=REDUNDANCY.schema(), orient="row"', 'schema=["sample_id", "r", "why"], orient="row"'),
    )
    told = dselect(graph, "refresh", code=1)
    assert "kind of score `redundancy`: columns ['sample_id', 'r', 'why'] were computed; its definition says" in told


def test_a_failed_run_names_the_asset(graph: Graph, perplexity: Kind) -> None:
    graph.settings(coresets={"odd": {"strategy": "topk:perplexity", "budget": 3}}, model={"path": "./nothing"})
    assert "no such folder" in errors(graph.refresh())
