"""The pages of coresets: written with them, self-contained, of the chosen rows and of those that nearly were."""

import re
import socket
from datetime import UTC, datetime

import polars as pl
import pytest

from dselect_core.reports import refresh_page
from dselect_core.reports.coreset_page import with_trial
from dselect_core.reports.index_page import refresh_pages
from dselect_core.reports.refresh_page import RefreshFacts, write_refresh_report
from dselect_core.select.saved_order import read_saved_order
from dselect_core.trials.standing import Standing
from dselect_dagster.cli.report_server import page_at, start_report_server
from tests.e2e.conftest import RECIPES
from tests.e2e.graph import Graph, alpaca, materialised
from tests.e2e.test_cli import dselect

HOSTILE = '<script>alert(1)</script><img src="https://example.com/a.png">'


def page(graph: Graph, recipe: str) -> str:
    return (graph.folder / ".dselect" / "reports" / "coresets" / f"{recipe}.html").read_text("utf-8")


def part(graph: Graph, recipe: str, heading: str) -> str:
    """What stands under a heading."""
    return page(graph, recipe).split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]


def test_every_coreset_has_a_page_with_its_version_pictures_and_first_rows(first: Graph) -> None:
    for recipe in RECIPES:
        told = page(first, recipe)
        version = first.order(recipe)
        assert len(re.findall('<img alt="[^"]*" src="data:image/png;base64,', told)) == 3
        rows = part(first, recipe, "The first rows")
        assert [rows.find(sample) for sample in version["sample_id"].head(20)] == sorted(
            rows.find(sample) for sample in version["sample_id"].head(20)
        )
        assert -1 not in [rows.find(sample) for sample in version["sample_id"].head(20)]
        assert "not tried yet" in part(first, recipe, "Against random")


def test_narrowly_missed_are_those_that_stand_highest(first: Graph) -> None:
    key = first.manifest("d3")["order"]
    saved = read_saved_order(first.workspace.orders / f"{key}.parquet", key)
    assert saved is not None
    waiting = saved.table.filter(pl.col("rank").is_null() & pl.col("standing").is_not_null())
    best = waiting.sort("standing", "sample_id", descending=[True, False])["sample_id"].head(20).to_list()
    told = part(first, "d3", "Narrowly missed")
    assert re.findall(r"<td>([0-9a-f]{32})</td>", told) == best


def test_an_edit_is_told_with_its_cause_and_others_text_stays_text(graph: Graph) -> None:
    rows = alpaca(["purple"], offset=7)
    rows[0]["output"] = HOSTILE + " and many more words that nobody has said before" * 3
    graph.source("c", rows)
    graph.sources("abc")
    graph.settings(
        coresets={"d3": {"strategy": "random", "budget": "100%"}}, reports_url="https://host.example/reports/"
    )
    done = graph.refresh()
    assert done.is_whole
    told = page(graph, "d3")
    assert "entered" in part(graph, "d3", "What came, left and why")
    assert "&lt;script&gt;alert(1)" in told
    assert "<script" not in told
    assert "<img src" not in told
    assert materialised(done)["coreset", "d3"]["report"] == "https://host.example/reports/coresets/d3.html"
    index = (graph.folder / ".dselect" / "reports" / "index.html").read_text("utf-8")
    assert '<a href="coresets/d3.html">d3</a>' in index
    assert "wide" not in index


def test_a_refresh_has_a_page_of_what_it_made_and_of_what_is_not_done(graph: Graph) -> None:
    graph.source("a", alpaca(["purple"], offset=7))
    (graph.folder / "data" / "b.json").write_text("{ <script>alert(1)</script>")
    told = dselect(graph.folder, "refresh", code=1)
    named = re.search(r"Page of this refresh: (\S+)", told)
    assert named is not None
    refreshed = (graph.folder / named[1]).read_text("utf-8")
    assert "<td>raw_dataset</td><td>a</td>" in refreshed
    undone = refreshed.split("What is not done</h2>")[1].split("<h2>")[0]
    assert "failed</td>" in undone
    assert "b.json" in undone
    assert "<script" not in refreshed
    assert '<a href="../coresets/d3.html">d3</a>' in refreshed
    name = named[1].rsplit("/", 1)[1]
    assert f'<a href="refreshes/{name}">' in (graph.folder / ".dselect" / "reports" / "index.html").read_text("utf-8")
    assert page_at(graph.workspace, f"/refreshes/{name}") == refreshed.encode()


def test_the_last_pages_of_refreshes_are_kept(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh_page, "KEPT", 2)
    for day in range(1, 5):
        facts = RefreshFacts(f"{day:032x}", datetime(2026, 1, day, tzinfo=UTC), 1.0, [], [])
        write_refresh_report(graph.workspace, facts)
    assert [name[:8] for name in refresh_pages(graph.workspace)] == ["20260104", "20260103"]


def test_the_command_names_the_page_and_says_where_there_is_none(graph: Graph) -> None:
    assert "reports/coresets/d3.html" in dselect(graph.folder, "report", "d3")
    (graph.folder / ".dselect" / "reports" / "coresets" / "d3.html").unlink()
    assert "dselect refresh" in dselect(graph.folder, "report", "d3", code=2)


def test_the_server_of_dev_has_pages_alone_and_answers_no_other_name(graph: Graph) -> None:
    assert page_at(graph.workspace, "/coresets/d3.html") == page(graph, "d3").encode()
    assert b"coresets/d3.html" in (page_at(graph.workspace, "/") or b"")
    for path in (
        "/coresets/other.html",
        "/coresets/../../raw/a/samples.parquet",
        "/coresets/%2e%2e%2findex.html",
        "//",
    ):
        assert page_at(graph.workspace, path) is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for elsewhere in (
            f"http://127.0.0.1:{port}",
            f"https://127.0.0.1:{port}",
            "http://host.example:80",
            "http://localhost",
        ):
            assert not start_report_server(elsewhere, graph.config)


def test_a_page_without_a_place_for_a_trial_is_left_alone() -> None:
    assert with_trial("<p>of another version</p>", Standing("d3", None, "not tried yet")) is None
