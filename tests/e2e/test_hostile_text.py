"""Rows, file names and replies that try to act: on the terminal, on the pages of the UI, in the dataset card.

Searched: all that commands print, all that Dagster stores of the runs (markdown, log lines, errors), and the card.
"""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import polars as pl
import pytest
import yaml

from dselect_core.settings.settings import Settings
from dselect_dagster.defs.graph import build_definitions
from dselect_dagster.defs.histogram import histogram
from tests.e2e.graph import TINY, Graph, alpaca
from tests.e2e.killed_refresh import environment
from tests.openai_server import OpenAIServer, rating

ROOT = Path(__file__).parents[2]
ACTS = (
    "\x1b[2J\x1b]52;c;cm0gLXJm\x07\x1b]8;;http://evil.example/a\x1b\\here\x1b]8;;\x1b\\\x9b31m"
    "\rDone.\x08\x08\u202egnp.exe\u2066"
)
PICTURE = "![p](http://evil.example/p.png) [l](http://evil.example/l) <img src=http://evil.example/i> www.evil.example"
BREAKS = "`` ``` | --- |\n\n# big\n\n<script>alert(1)</script>\n\n| a | b |\n| --- | --- |"
HOSTILE = f"[/INST] [red] {ACTS} {PICTURE} {BREAKS} $\\frac$"
# What a terminal obeys; tabs and line ends are the commands' own.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
RECIPE = "r$^{x$_b_"
NAME = "f[INST]\x1b[2J![p](http:evil)$x$.jsonl"


def dselect(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dselect_dagster.cli", *arguments], cwd=folder, timeout=300,
        env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout.decode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, str]:
    """A project of hostile rows, refreshed; and all that its commands printed."""
    graph = Graph(tmp_path_factory.mktemp("hostile"))
    for source in ("good", "bad", "torn"):
        (graph.folder / "data" / source).mkdir(parents=True)
    rows: list[Any] = [
        *alpaca(["red", "green", "blue", "white", "black", "pink"] * 3),
        {"instruction": f"{HOSTILE} 1", "input": HOSTILE, "output": HOSTILE},
        {"instruction": f"{HOSTILE} 2", "input": "", "output": f"{HOSTILE} yes"},
        {"[/INST]": HOSTILE, HOSTILE: 1},
        {"instruction": 5, "output": HOSTILE, HOSTILE: HOSTILE},
        {"messages": [{"role": HOSTILE, "content": "x"}]},
    ]
    (graph.folder / "data" / "good" / NAME).write_text("\n".join([*map(json.dumps, rows), '{"a": "' + HOSTILE]))
    (graph.folder / "data" / "bad" / NAME).write_text(json.dumps({"[/INST]": HOSTILE, HOSTILE: 1}))
    (graph.folder / "data" / "torn" / NAME).write_text(HOSTILE)
    with OpenAIServer(lambda request: rating(3 + request.text.count("red") % 2, reason=HOSTILE)) as server:
        graph.settings(
            sources={name: {"path": f"data/{name}"} for name in ("good", "bad", "torn")},
            coresets={RECIPE: {"strategy": "topk:grade", "budget": 15}},
            warmup=TINY,
            grader={"base_url": server.base_url, "model": f"judge {PICTURE}"},
        )
        told = [dselect(graph.folder, "plan"), dselect(graph.folder, "refresh"), dselect(graph.folder, "status")]
    samples = pl.read_parquet(graph.folder / ".dselect" / "raw" / "good" / "samples.parquet")
    hostile = [id for id, messages in samples.select("sample_id", "messages").iter_rows() if "evil" in str(messages)]
    assert len(hostile) == 2
    told += [dselect(graph.folder, "why", id) for id in hostile]
    told.append(dselect(graph.folder, "plan", "--recipe", HOSTILE.replace("\0", "")))
    told.append(dselect(graph.folder, "why", HOSTILE))
    told.append(dselect(graph.folder, HOSTILE))
    return graph, "\n".join(told)


def test_nothing_acts_on_the_terminal_and_everything_can_be_read(project: tuple[Graph, str]) -> None:
    _, told = project
    assert _ACTING.findall(told) == []
    assert "Traceback" not in told
    assert r"\x1b]52;c;cm0gLXJm\x07" in told
    assert "[/INST]" in told


def test_good_rows_land_and_are_chosen_beside_the_hostile_ones(project: tuple[Graph, str]) -> None:
    graph, told = project
    assert "failed raw_dataset [bad]" in told
    assert "failed raw_dataset [torn]" in told
    assert graph.manifest(RECIPE)["counts"]["rows"] == 15


def _events(graph: Graph) -> list[dg.EventLogEntry]:
    with graph.instance() as instance:
        return [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]


def _markdown(metadata: dict[str, dg.MetadataValue[Any]]) -> list[str]:
    return [str(value.value) for value in metadata.values() if isinstance(value, dg.MarkdownMetadataValue)]


def _outside_of_code(markdown: str) -> str:
    """What of a page is not in a code span: runs of as many backticks delimit it, whatever stands before."""
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown)


def test_no_page_of_the_ui_holds_live_markup_of_a_row(project: tuple[Graph, str]) -> None:
    graph, _ = project
    pages = []
    for entry in _events(graph):
        event = entry.dagster_event
        if event is not None and event.is_step_materialization:
            pages += _markdown(dict(event.step_materialization_data.materialization.metadata))
    assert sum("evil" in page for page in pages) >= 2, "the pages show the rows"
    for page in pages:
        assert _ACTING.findall(page) == []
        live = re.sub(r"!\[[\w ,.]*\]\(data:image/(?:png|svg\+xml);base64,[\w+/=]*\)", "", _outside_of_code(page))
        for markup in ("![", "](", "<", "http", "www.", "# ", "evil"):
            assert markup not in live, live
        if page.startswith("| "):
            columns = {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines()}
            assert len(columns) == 1, "a row broke out of its cell"


def test_no_line_of_the_log_and_no_error_acts(project: tuple[Graph, str]) -> None:
    graph, _ = project
    messages = []
    for entry in _events(graph):
        messages.append(entry.user_message)
        event = entry.dagster_event
        if event is not None and event.is_step_failure:
            messages.append(str(event.step_failure_data.error and event.step_failure_data.error.to_string()))
    assert any("torn" in message for message in messages)
    for message in messages:
        assert _ACTING.findall(message.replace("\r\n", "\n")) == [], message


def test_the_card_shows_names_as_code(project: tuple[Graph, str]) -> None:
    graph, _ = project
    card = (graph.folder / ".dselect" / "coresets" / RECIPE / "dataset" / "README.md").read_text("utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["pretty_name"] == RECIPE
    assert f"# `{RECIPE}`" in body
    assert _ACTING.findall(card) == []


def test_a_card_with_hostile_facts_stays_a_table(tmp_path: Path) -> None:
    from dselect_core.coreset.export import _card

    record = {"recipe": HOSTILE, "strategy": HOSTILE, HOSTILE: HOSTILE, "counts": {"rows": 1, "pool": 1}}
    front, body = _card(record, {HOSTILE: 1}, "0", []).split("\n---\n", 1)
    yaml.safe_load(front.removeprefix("---\n"))
    assert _ACTING.findall(front + body) == []
    live = _outside_of_code(body)
    for markup in ("![", "](", "<", "http", "www.", "evil"):
        assert markup not in live, live


def test_descriptions_in_the_ui_show_settings_as_code() -> None:
    recipes = {"r": {"strategy": "topk:grade", "budget": 1}}
    settings = Settings.model_validate(
        {"sources": {"a": {"path": "a.json"}}, "coresets": recipes, "grader": {"model": f"{PICTURE} {ACTS}"}}
    )
    for spec in build_definitions(settings).resolve_all_asset_specs():
        live = _outside_of_code(spec.description or "")
        assert _ACTING.findall(spec.description or "") == []
        assert "![" not in live
        assert "evil" not in live


def test_a_title_is_no_formula_and_ends_no_picture() -> None:
    title = f"$\\frac$ {PICTURE} <script>&"
    page = str(histogram(pl.Series([1.0, 2.0]), title).value)
    found = re.fullmatch(r"!\[[\w ,.]*\]\(data:image/svg\+xml;base64,([\w+/=]*)\)", page)
    assert found is not None
    # It stands in the drawing as it is, and is no element of it.
    drawing = ElementTree.fromstring(base64.b64decode(found[1]))
    assert [each.tag for each in drawing.iter() if "script" in each.tag or "image" in each.tag] == []
    assert title in [each.text for each in drawing]
